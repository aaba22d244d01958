"""Inner products of windows against vectors that are there in full."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wscore.forecasting.models.matrix_parts import present_parts
from wscore.forecasting.sequences import Windows, training_windows
from wscore.forecasting.trajectories import grams as gram
from wscore.forecasting.trajectories.grams import (
    gathered,
    gram_loss,
    mixed,
    noise_grams,
    normalised,
    part_grams,
    relative_errors,
    shortened,
    snapshot_grams,
    window_grams,
    with_noise,
)
from wscore.networks.layout import Layout, TensorSpec

EDGES = (3, 20)
LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a.weight", shape=(3, 4), kind="linear", layer=0),
        TensorSpec(name="a.bias", shape=(3,), kind="bias", layer=0),
        TensorSpec(name="b.weight", shape=(2, 1, 3, 3), kind="conv", layer=1),
    )
)


def path(seed: int, count: int = 20) -> np.ndarray:
    """A random walk with small steps far from zero, as trained weights are."""
    random = np.random.default_rng(seed)
    steps = random.standard_normal((count, LAYOUT.size)) * 1e-3
    return (10 * random.standard_normal(LAYOUT.size) + np.cumsum(steps, axis=0)).astype(np.float32)


def loss_of(coefficients: torch.Tensor, products: torch.Tensor, known: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss where every tensor has one part."""
    return gram_loss(coefficients, products[:, :, None], torch.ones(products.shape[1], 1), known)


def vectors(weights: np.ndarray, windows: Windows, number: int) -> torch.Tensor:
    """Increments, newest first, then changes from the present, of one window."""
    history = torch.from_numpy(weights[windows.history[number]].astype(np.float64))
    targets = torch.from_numpy(weights[windows.targets[number]].astype(np.float64))
    return torch.cat([(history[1:] - history[:-1]).flip(0), targets - history[-1]])


@given(seed=st.integers(0, 100), length=st.integers(2, 5), horizons=st.integers(1, 4), stride=st.integers(1, 3))
def test_inner_products_of_windows_need_only_those_of_snapshots(
    seed: int, length: int, horizons: int, stride: int
) -> None:
    weights = path(seed)
    windows = training_windows(20, length=length, horizons=range(1, horizons + 1), stride=stride)
    found = window_grams(snapshot_grams(weights, LAYOUT), windows)
    for number in (0, len(windows.last) - 1):
        whole = vectors(weights, windows, number)
        for index, part in enumerate(LAYOUT.slices().values()):
            wanted = whole[:, part] @ whole[:, part].T
            assert torch.allclose(found[number, index], wanted, rtol=1e-6, atol=1e-12)


def test_blocks_of_columns_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = snapshot_grams(path(0), LAYOUT)
    monkeypatch.setattr(gram, "COLUMNS_AT_ONCE", 5)
    assert torch.allclose(snapshot_grams(path(0), LAYOUT), whole, rtol=1e-12)


def test_errors_of_combinations_are_those_of_the_vectors() -> None:
    weights, windows = path(1), training_windows(20, length=4, horizons=(1, 2), stride=2)
    products = window_grams(snapshot_grams(weights, LAYOUT), windows)
    beta = torch.randn(len(windows.last), 3, 3, 2, dtype=torch.float64)
    error, copied = relative_errors(beta, products)
    whole = vectors(weights, windows, 5)
    for index, part in enumerate(LAYOUT.slices().values()):
        forecast = beta[5, index].T @ whole[:3, part]
        assert torch.allclose(error[5, index], (forecast - whole[3:, part]).square().sum(1), rtol=1e-6)
        assert torch.allclose(copied[5, index], whole[3:, part].square().sum(1), rtol=1e-6)


def test_copying_loses_one_and_a_half_and_the_best_combination_less() -> None:
    windows = training_windows(20, length=4, horizons=(1, 2), stride=1)
    products = window_grams(snapshot_grams(path(2), LAYOUT), windows)
    known = torch.from_numpy(windows.known).double()
    copied = loss_of(torch.zeros(len(windows.last), 3, 3, 2).double(), products, known)
    assert copied["loss"].item() == pytest.approx(1.5)
    assert copied["skill"].item() == pytest.approx(0.0)
    best = torch.linalg.solve(products[..., :3, :3], products[..., :3, 3:])
    fitted = loss_of(best, products, known)
    assert 0 < fitted["skill"].item() < 1
    assert fitted["loss"] < copied["loss"]


def test_units_do_not_change_the_loss_and_unknown_targets_do_not_count() -> None:
    windows = training_windows(20, length=3, horizons=(1, 2, 3), stride=3)
    products = window_grams(snapshot_grams(path(3), LAYOUT), windows)
    known = torch.from_numpy(windows.known).float()
    assert not windows.known.all()
    beta = torch.randn(len(windows.last), 3, 2, 3)
    found = loss_of(beta, normalised(products, 2), known)
    wanted = loss_of(beta.double(), products, known.double())
    assert found["loss"].item() == pytest.approx(wanted["loss"].item(), rel=1e-4)
    wild = torch.where(known[:, None, None].bool(), beta, 1e3)
    assert loss_of(wild, normalised(products, 2), known)["loss"].item() == pytest.approx(found["loss"].item())


def test_one_bad_window_does_not_rule_the_loss() -> None:
    windows = training_windows(20, length=3, horizons=(1,), stride=1)
    products = window_grams(snapshot_grams(path(4), LAYOUT), windows)
    found = loss_of(torch.full((len(windows.last), 3, 2, 1), 1e6).double(), products, torch.ones(len(windows.last), 1))
    assert found["loss"].item() == pytest.approx(5 + 0.5 * 5)


def test_noise_adds_on_average_what_it_adds_to_the_inner_products_of_a_long_vector() -> None:
    size, steps = 100_000, (1, 2, 5)
    errors = torch.randn(9, size, generator=torch.Generator().manual_seed(0)).double()
    layout = Layout(tensors=(TensorSpec(name="a.weight", shape=(size,), kind="bias", layer=0),))
    windows = training_windows(9, length=4, horizons=steps, stride=1)
    for kind, (noise, scale) in enumerate(((errors, 2.0), (errors.cumsum(0), 1.0))):
        found = window_grams(snapshot_grams(noise.numpy(), layout), windows)[0, 0] / (scale * size)
        assert torch.allclose(found, noise_grams((3, 2, 1, 0), steps)[kind], atol=0.05)


def test_noise_is_added_to_a_share_of_the_windows_and_is_the_same_again() -> None:
    grams = torch.eye(5).expand(200, 2, 5, 5)
    noise = noise_grams((3, 2, 1, 0), (1, 2))
    assert torch.equal(with_noise(grams, noise, 0.0, 3, torch.Generator()), grams)
    found, again = (with_noise(grams, noise, 0.3, 3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(found, again)
    changed = (found != grams).flatten(1).any(1).float().mean()
    assert 0.4 < changed < 0.6  # 1 - 0.7^2
    assert torch.linalg.eigvalsh(found).min() > 0.99  # still inner products


def test_mixed_windows_are_those_of_tensors_of_two_parts() -> None:
    """The inner products lie between zero and the sum of parts, and a target is known if it is in both parts."""
    windows = training_windows(20, length=4, horizons=(1, 2, 3), stride=2)
    grams = window_grams(snapshot_grams(path(0), LAYOUT), windows)
    known = torch.from_numpy(windows.known).double()
    found, both = mixed(grams, known, 1.0, 3, torch.Generator().manual_seed(0))
    added = torch.linalg.eigvalsh(found - grams)
    assert added.min() > -1e-9 * added.max()
    sizes = [some.diagonal(dim1=-2, dim2=-1)[..., :3].mean(-1) for some in (found - grams, grams)]
    ratio = sizes[0] / sizes[1]
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))  # the same share in all tensors of a window
    assert ((both == 0) | (known == 1)).all()
    assert both.sum() < known.sum()
    unchanged, same = mixed(grams, known, 0.0, 3, torch.Generator().manual_seed(0))
    assert torch.equal(unchanged, grams)
    assert torch.equal(same, known)


def test_noise_leaves_history_that_is_not_there_alone() -> None:
    grams = torch.eye(6).repeat(50, 2, 1, 1)
    grams[:, :, 3, 3] = 0  # the fourth increment
    found = with_noise(grams, noise_grams((5, 3, 2, 1, 0), (1, 2)), 1.0, 3, torch.Generator().manual_seed(1))
    assert not found[:, :, 3].any()
    assert not found[:, :, :, 3].any()
    assert (found[:, :, 0] != grams[:, :, 0]).any(-1).all()


def test_windows_lose_the_oldest_part_of_their_older_history() -> None:
    grams = torch.ones(400, 2, 8, 8)  # three increments, three older ones, two targets
    found = shortened(grams, 3, 3, torch.Generator().manual_seed(0))
    kept = found[:, 0].diagonal(dim1=-2, dim2=-1)
    assert torch.equal(found, (kept[:, None, :, None] * kept[:, None, None, :]).expand_as(found))
    assert kept[:, [0, 1, 2, 6, 7]].all()
    assert (kept[:, 3:5] >= kept[:, 4:6]).all()
    lengths = kept[:, 3:6].sum(1).long().bincount() / 400
    assert torch.allclose(lengths, torch.tensor([0.125, 0.125, 0.125, 0.625]), atol=0.06)


def test_parts_add_up_to_tensors_and_so_do_their_errors() -> None:
    windows = training_windows(20, length=4, horizons=(1, 2), stride=2)
    products, whole = (
        part_grams(path(0), LAYOUT, windows, 3, EDGES),
        window_grams(snapshot_grams(path(0), LAYOUT), windows),
    )
    assert products.shape == (*whole.shape[:2], 3, 5, 5)
    assert torch.allclose(products.sum(2), whole, rtol=1e-6, atol=1e-10)
    assert not products[:, 1, :-1].any()  # a bias
    known, there = torch.from_numpy(windows.known).double(), present_parts(LAYOUT, 3)
    beta = torch.randn(len(windows.last), 3, 3, 2, dtype=torch.float64)
    found = gram_loss(beta[:, :, None].expand(-1, -1, 3, -1, -1)[:, there.bool()], products, there, known)
    assert found["loss"].item() == pytest.approx(loss_of(beta, whole, known)["loss"].item(), rel=1e-4)


def test_mixed_tensors_keep_the_parts_that_they_can_have() -> None:
    windows, there = training_windows(20, length=4, horizons=(1,), stride=1), present_parts(LAYOUT, 3)
    products, known = part_grams(path(0), LAYOUT, windows, 3, EDGES), torch.from_numpy(windows.known).double()
    found, _ = mixed(products, known, 1.0, 3, torch.Generator().manual_seed(0))
    kept = gathered(found, there)
    assert torch.allclose(kept.sum(2), found.sum(2))
    assert not kept[:, ~there.bool()].any()
    assert torch.equal(gathered(products, there), products)
    ratio = (found - products).sum(2).diagonal(dim1=-2, dim2=-1)[..., :3].sum(-1) / products.sum(2).diagonal(
        dim1=-2, dim2=-1
    )[..., :3].sum(-1)
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
