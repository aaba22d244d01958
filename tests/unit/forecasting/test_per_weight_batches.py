"""Series of single weights against the vectors they are drawn from, and bands that hold what they promise."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from wscore.forecasting.models.per_weight import DiffusionPredictor, SeriesPredictor
from wscore.forecasting.per_weight_batches import SeriesBatch, SeriesBatches, calibrate_bands, draw_series, series_loss
from wscore.forecasting.splits import RunWindows, learned
from wscore.forecasting.trajectories.grams import relative_errors, skill_loss, window_grams


@pytest.fixture
def run(configured, recorded) -> Callable[..., RunWindows]:
    def walk(number: int, size: int) -> np.ndarray:
        random = np.random.default_rng(0)
        return random.standard_normal(size) + 0.1 * random.standard_normal((20, size))[: number + 1].sum(0)

    return lambda **changes: learned(configured(**changes), recorded(0, walk))


def test_equally_many_series_of_every_tensor_and_none_across_two(configured, run) -> None:
    layout, config = run().layout, configured(chunk_size=5, sampled_series=24)
    columns, inside = draw_series(layout, config, np.random.default_rng(0))
    assert columns.shape == inside.shape == (len(layout.tensors), 24 // len(layout.tensors), 5)
    for part, own, real in zip(layout.slices().values(), columns, inside, strict=True):
        assert (own >= part.start).all()
        assert (own < part.stop).all()
        assert real[:, 0].all()
        for row, count in zip(own, real.sum(1), strict=True):
            assert len(set(row[:count].tolist())) == count


def test_values_and_targets_are_scaled_changes_of_the_weights(configured, run) -> None:
    config, made = configured(batch_size=100, sampled_series=6000), run()
    batch = next(SeriesBatches(config, [made], shuffle=False).epoch(1))
    windows = made.windows[0]
    weights = np.asarray(made.weights, np.float64)
    for number, part in ((0, 0), (5, 2)):
        history = weights[windows.history[number]][:, list(made.layout.slices().values())[part]]
        steps = np.diff(history, axis=0)[::-1]
        scale = np.sqrt((steps**2).mean())
        drawn = batch.values[number, part, :, :, 0].numpy()
        for row in drawn[:5]:
            assert np.isclose(steps.T / scale, row, atol=1e-3).all(1).any()
        future = weights[windows.targets[number, 1]] - weights[windows.history[number, -1]]
        squares = (future[list(made.layout.slices().values())[part]] / (scale * np.sqrt(2))) ** 2
        assert batch.copied[number, part, 1].item() == pytest.approx(squares.mean(), rel=1e-3)
        estimate = batch.targets[number, part, :, 1].square().mean().item()
        assert estimate == pytest.approx(squares.mean(), rel=0.2)


def test_the_loss_of_all_series_is_that_of_the_vectors(configured, run) -> None:
    """Copy-last has loss 1.5 exactly; the estimate from many series comes close, whatever is drawn."""
    config, made = configured(batch_size=100, sampled_series=12_000), run()
    batch = next(SeriesBatches(config, [made], shuffle=False).epoch(1))
    found = series_loss(SeriesPredictor(config.series()), batch)
    grams = window_grams(made.grams, made.windows[0])
    errors = relative_errors(grams.new_zeros(*grams.shape[:2], 2, 2), grams)
    wanted = skill_loss(*errors, torch.from_numpy(made.windows[0].known).double())
    assert wanted["loss"].item() == pytest.approx(1.5)
    assert found["loss"].item() == pytest.approx(1.5, rel=0.02)


def test_the_same_series_in_every_epoch_without_shuffling(configured, run) -> None:
    made = run()
    still, moving = (SeriesBatches(configured(), [made], shuffle=shuffle) for shuffle in (False, True))
    first, second = ([next(batches.epoch(number)).values for number in (1, 2)] for batches in (still, moving))
    assert torch.equal(*first)
    assert not torch.equal(*second)


def test_calibrated_bands_hold_the_asked_share_of_the_weights(configured, run, monkeypatch) -> None:
    config = configured(batch_size=100, sampled_series=3000, samples=500, band=0.8)
    model, batches = DiffusionPredictor(config.diffusion()), SeriesBatches(config, [run()], shuffle=False)
    spread = torch.tensor([1.0, 4.0])[:, None]

    def draw(values: Tensor, statistics: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return spread * torch.linspace(-1.7, 1.7, count)[:, None, None, None].expand(count, len(values), 2, 1)

    monkeypatch.setattr(model, "draw", draw)
    monkeypatch.setattr(batches, "epoch", lambda number: [normal(next(SeriesBatches.epoch(batches, number)))])
    calibrate_bands(model, [batches])
    assert model.width.tolist() == pytest.approx([1.28 / 0.98, 1.28 / 0.98 / 4], rel=0.05)


def normal(batch: SeriesBatch) -> SeriesBatch:
    """The batch with standard normal targets."""
    return batch._replace(targets=torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(0)))
