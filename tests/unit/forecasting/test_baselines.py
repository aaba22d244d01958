"""Baselines on trajectories whose future is known by hand."""

import torch

from wscore.forecasting.baselines import baselines, copy_last, damped, lawa, linear, moving_average, online_ar1
from wscore.zoo.layout import Layout, TensorSpec

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a", shape=(2,), kind="other", layer=0),
        TensorSpec(name="b", shape=(1,), kind="other", layer=1),
    )
)


def test_linear_is_exact_on_a_line_and_copying_is_not() -> None:
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    future = torch.arange(6.0, 9.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(linear(line, LAYOUT, 3), future)
    assert torch.equal(copy_last(line, LAYOUT, 3), line[-1].expand(3, 3))
    assert torch.equal(damped(line, LAYOUT, 3, coefficient=0.0), line[-1].expand(3, 3))


def test_online_autoregression_is_exact_on_geometric_increments_of_each_tensor() -> None:
    rates = torch.tensor([0.5, 0.5, -0.8])
    path = torch.cumsum(rates ** torch.arange(8.0)[:, None], 0)
    assert torch.allclose(online_ar1(path[:5], LAYOUT, 3), path[5:], atol=1e-6)


def test_averages_by_hand() -> None:
    path = torch.tensor([[0.0, 0, 0], [3, 3, 3], [6, 6, 6], [9, 9, 9]])
    assert lawa(path, LAYOUT, 1)[0, 0] == 6.0
    assert torch.allclose(moving_average(path, LAYOUT, 1)[0, 0], torch.tensor(0.2 * (3 * 0.64 + 6 * 0.8 + 9)))


def test_a_standing_network_is_forecast_to_stand() -> None:
    still = torch.ones(5, 3)
    for name, method in baselines(0.7, 3).items():
        assert torch.allclose(method(still, LAYOUT, 2), torch.ones(2, 3)), name
