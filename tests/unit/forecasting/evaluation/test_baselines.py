"""Baselines on trajectories whose future is known by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from wscore.errors import ModelError
from wscore.forecasting.evaluation.baselines import BASELINES, Forecaster, fit_baselines
from wscore.forecasting.splits import RunWindows, learned
from wscore.networks.layout import Layout, TensorSpec

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a", shape=(2,), kind="other", layer=0),
        TensorSpec(name="b", shape=(1,), kind="other", layer=1),
    )
)


@pytest.fixture
def method(configured) -> Callable[[str], Forecaster]:
    return lambda name: BASELINES[name](configured())


@pytest.fixture
def fitted(configured, recorded) -> Callable[..., tuple[dict[str, Forecaster], RunWindows]]:
    def make(path: Callable[[int, int], np.ndarray]) -> tuple[dict[str, Forecaster], RunWindows]:
        run = learned(configured(), recorded(0, path))
        return fit_baselines(configured(), [run]), run

    return make


def test_linear_is_exact_on_a_line_and_copying_is_not(method) -> None:
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    future = torch.arange(6.0, 9.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(method("linear").predict(line, LAYOUT, 3), future)
    assert torch.equal(method("linear").predict(line, LAYOUT, [1, 3]), future[[0, 2]])
    assert torch.equal(method("copy_last").predict(line, LAYOUT, 3), line[-1].expand(3, 3))


def test_online_autoregression_is_exact_on_geometric_increments_of_each_tensor(method) -> None:
    rates = torch.tensor([0.5, 0.5, -0.8])
    path = torch.cumsum(rates ** torch.arange(8.0)[:, None], 0)
    assert torch.allclose(method("online_ar1").predict(path[:5], LAYOUT, 3), path[5:], atol=1e-6)
    assert torch.allclose(method("online_ar1").predict(path[:5], LAYOUT, [3]), path[7:], atol=1e-6)


def test_averages_by_hand(method) -> None:
    path = torch.tensor([[0.0, 0, 0], [3, 3, 3], [6, 6, 6], [9, 9, 9]])
    assert method("lawa").predict(path, LAYOUT, 1)[0, 0] == 6.0
    wanted = torch.tensor(0.2 * (3 * 0.64 + 6 * 0.8 + 9))
    assert torch.allclose(method("ema").predict(path, LAYOUT, 1)[0, 0], wanted)


def test_fitted_coefficients_continue_geometric_increments(fitted) -> None:
    """Increments shrink by 0.8 a step: ridge and PCA autoregressions are exact, damping is right on average."""

    def spiral(number: int, size: int) -> np.ndarray:
        start, direction = np.random.default_rng(0).standard_normal((2, size))
        return start + direction * (1 - 0.8**number) / 0.2

    methods, run = fitted(spiral)
    weights = torch.from_numpy(np.array(run.weights))
    wanted = weights[8:10] - weights[7]
    for name in ("ridge_ar", "pca_ar"):
        found = methods[name].predict(weights[:8], run.layout, 2) - weights[7]
        assert torch.allclose(found, wanted, atol=0.02 * float(wanted.abs().max())), name
    damped = methods["damped"].predict(weights[:8], run.layout, 2) - weights[7]
    assert 0.5 < float(damped[0].norm() / wanted[0].norm()) < 1.1


def test_ridge_has_coefficients_of_its_own_for_each_tensor(fitted) -> None:
    def path(number: int, size: int) -> np.ndarray:
        rate = np.where(np.arange(size) < 512, 0.9, 0.3)
        return (1 - rate**number) / (1 - rate) * np.random.default_rng(1).standard_normal(size)

    methods, run = fitted(path)
    first = next(iter(run.layout.slices().values()))
    assert first.stop == 512
    weights = torch.from_numpy(np.array(run.weights))
    found = methods["ridge_ar"].predict(weights[2:5], run.layout, 1)[0]
    assert torch.allclose(found[first], weights[5, first], atol=0.02)
    assert torch.allclose(found[512:544], weights[5, 512:544], atol=0.02)


def test_what_was_fitted_to_another_network_says_so(fitted) -> None:
    methods, _ = fitted(lambda n, size: np.random.default_rng(n).standard_normal(size))
    for name in ("ridge_ar", "pca_ar"):
        with pytest.raises(ModelError, match="was fitted to another network"):
            methods[name].predict(torch.ones(3, 3), LAYOUT, 1)


def test_a_standing_network_is_forecast_to_stand(fitted) -> None:
    methods, run = fitted(lambda n, size: np.random.default_rng(n).standard_normal(size))
    still = torch.ones(5, run.layout.size)
    for name, one in methods.items():
        assert torch.allclose(one.predict(still, run.layout, 2), still[:2]), name
