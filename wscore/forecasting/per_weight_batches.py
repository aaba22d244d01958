"""Training batches of per-weight series, resampled every epoch, with equally many series per tensor."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.models.per_weight import DiffusionPredictor, SeriesModel, scales
from wscore.forecasting.models.predictors import gram_features
from wscore.forecasting.splits import RunWindows
from wscore.forecasting.trajectories.grams import TINY, skill_loss, window_grams
from wscore.networks.layout import Layout
from wscore.training.batches import TensorBatches, derive_seed


class SeriesBatch(NamedTuple):
    """S series of each of L tensors of B windows, in units of `wscore.forecasting.models.per_weight`.

    Attributes:
        values: increments, newest first.
        statistics: `gram_features` of each tensor.
        targets: changes after the last known snapshot.
        inside: which entries are weights; short tensors don't fill a chunk.
        copied: mean squared target of each tensor, i.e. the error of copy-last.
        power: share of each tensor in the squared increments of its window.
        known: mask of existing targets.
    """

    values: Float[Tensor, "window tensor series increment chunk"]
    statistics: Float[Tensor, "window tensor increment feature"]
    targets: Float[Tensor, "window tensor series horizon chunk"]
    inside: Bool[Tensor, "window tensor series chunk"]
    copied: Float[Tensor, "window tensor horizon"]
    power: Float[Tensor, "window tensor"]
    known: Float[Tensor, "window horizon"]


class SeriesBatches:
    """Batches of series from windows of trajectories; without shuffling, the same series in every epoch."""

    def __init__(self, config: PredictorConfig, runs: Sequence[RunWindows], *, shuffle: bool) -> None:
        self.config, self.runs, self.shuffle = config, runs, shuffle
        self.layout = runs[0].layout
        each = [(number, windows) for number, run in enumerate(runs) for windows in run.windows]
        rows = [np.concatenate([windows.history, windows.targets], axis=1) for _, windows in each]
        sources = np.concatenate([np.full(len(windows.last), number) for number, windows in each])
        known = torch.from_numpy(np.concatenate([windows.known for _, windows in each])).float()
        facts = [self._facts(runs[number], windows) for number, windows in each]
        parts = [torch.cat(column) for column in zip(*facts, strict=True)]
        numbers = [torch.from_numpy(sources), torch.from_numpy(np.concatenate(rows))]
        self.windows = TensorBatches(
            *numbers, *parts, known, batch_size=config.batch_size, seed=config.seed, shuffle=shuffle
        )

    def __len__(self) -> int:
        return len(self.windows)

    def epoch(self, number: int) -> Iterator[SeriesBatch]:
        """Yield the batches of one epoch."""
        random = np.random.default_rng(derive_seed(self.config.seed, "series", number if self.shuffle else 0))
        for sources, rows, scale, statistics, copied, power, known in self.windows.epoch(number):
            columns, inside = draw_series(self.layout, self.config, random)
            pairs = zip(sources.tolist(), rows.numpy(), strict=True)
            chosen = np.stack([self.runs[source].weights[np.ix_(row, columns.ravel())] for source, row in pairs])
            whole = torch.from_numpy(chosen).unflatten(-1, columns.shape)  # (B, c+K, L, S, m)
            values, targets = self._scaled(whole, scale[:, None, :, None, None])
            mask = torch.from_numpy(inside)
            yield SeriesBatch(
                values * mask[..., None, :], statistics, targets * mask[..., None, :],
                mask.expand(len(rows), *mask.shape), copied, power, known,
            )  # fmt: skip

    def _scaled(self, whole: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        count = self.config.sequence_length
        roots = torch.tensor(self.config.steps).float().sqrt()[:, None, None, None]
        increments = (whole[:, 1:count] - whole[:, : count - 1]).flip(1) / scale
        targets = (whole[:, count:] - whole[:, count - 1 : count]) / (scale * roots)
        return increments.movedim(1, 3), targets.movedim(1, 3)  # (B, L, S, c-1, m), (B, L, S, K, m)

    def _facts(self, run: RunWindows, windows: Any) -> tuple[Tensor, ...]:
        count = self.config.sequence_length - 1
        grams = window_grams(run.grams, windows)  # (W, L, c-1+K, c-1+K)
        history_grams = grams[..., :count, :count]
        sizes = grams.new_tensor([spec.size for spec in self.layout.tensors])
        scale = scales(history_grams, self.layout)  # (W, L)
        units = (sizes * scale.square())[..., None] * grams.new_tensor(self.config.steps)
        copied = grams[..., count:, count:].diagonal(dim1=-2, dim2=-1) / units
        power = sizes * scale.square()
        power = power / power.sum(1, keepdim=True).clamp_min(TINY)
        return scale.float(), gram_features(history_grams, self.layout), copied.float(), power.float()


def draw_series(layout: Layout, config: PredictorConfig, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns (L, S, m) of equally many series per tensor, and a mask of those inside the tensor."""
    count = max(1, config.sampled_series // len(layout.tensors))
    run = np.arange(config.chunk_size)
    columns, inside = [], []
    for spec, offset in zip(layout.tensors, layout.offsets, strict=True):
        starts = config.chunk_size * random.integers(0, -(-spec.size // config.chunk_size), count)
        places = starts[:, None] + run
        columns.append(offset + np.minimum(places, spec.size - 1))
        inside.append(places < spec.size)
    return np.stack(columns), np.stack(inside)


def series_loss(model: SeriesModel, batch: SeriesBatch) -> dict[str, Tensor]:
    """Return the `skill_loss` of a `SeriesPredictor`, estimated from the sampled series."""
    predicted = model(*_flat(batch))
    return _loss(predicted.unflatten(0, batch.values.shape[:3]), batch)


def denoising_loss(model: DiffusionPredictor, batch: SeriesBatch) -> dict[str, Tensor]:
    """Return the `skill_loss` of denoised targets, at a noise level drawn per series."""
    values, statistics = _flat(batch)
    clean = batch.targets.flatten(0, 2)  # (S, K, m)
    level = torch.rand(len(clean), device=clean.device)
    angle = (torch.pi / 2 * level)[:, None, None]
    noisy = angle.cos() * clean + angle.sin() * torch.randn_like(clean)
    predicted = model.denoise(noisy, level, model.conditioned(values, statistics))
    return _loss(predicted.unflatten(0, batch.values.shape[:3]), batch)


@torch.no_grad()
def calibrate_bands(model: DiffusionPredictor, parts: Sequence[SeriesBatches]) -> None:
    """Calibrate the width of the bands to their nominal coverage on some windows.

    The width of a horizon is that quantile of |true - mean| / standard deviation over the samples, tensors weighted by
    their sizes.
    """
    ratios: list[Tensor] = []
    weights: list[Tensor] = []
    noise = model.generator()
    for batch, layout in ((batch, batches.layout) for batches in parts for batch in batches.epoch(1)):
        drawn = model.draw(*_flat(batch), model.config.samples, noise)  # (N, S, K, m)
        miss = (batch.targets.flatten(0, 2) - drawn.mean(0)).abs() / drawn.std(0).clamp_min(TINY)
        share = (batch.power.new_tensor([spec.size for spec in layout.tensors]))[None, :, None, None, None]
        counted = share * batch.inside[:, :, :, None, :] * batch.known[:, None, None, :, None]
        ratios.append(miss.transpose(1, 2).flatten(0, 1))  # (S m, K)
        weights.append(counted.expand(batch.targets.shape).flatten(0, 2).transpose(1, 2).flatten(0, 1))
    for number, (ratio, weight) in enumerate(zip(torch.cat(ratios).T, torch.cat(weights).T, strict=True)):
        model.width[number] = _quantile(ratio, weight, model.config.band)


def _quantile(values: Tensor, weights: Tensor, share: float) -> Tensor:
    """Return the weighted quantile at a share; 1 if all weights are zero."""
    order = values.argsort()
    sums = weights[order].double().cumsum(0)
    if sums[-1] <= 0:
        return torch.ones(())
    return values[order[int((sums < share * sums[-1]).sum())]]


def _flat(batch: SeriesBatch) -> tuple[Tensor, Tensor]:
    values = batch.values
    statistics = batch.statistics[:, :, None].expand(-1, -1, values.shape[2], -1, -1)
    return values.flatten(0, 2), statistics.flatten(0, 2)


def _loss(predicted: Tensor, batch: SeriesBatch) -> dict[str, Tensor]:
    inside = batch.inside[:, :, :, None, :]
    squares = (predicted - batch.targets).square() * inside
    error = squares.sum((2, 4)) / inside.sum((2, 4)).clamp_min(1)  # (B, L, K)
    power = batch.power[..., None]
    return skill_loss(error * power, batch.copied * power, batch.known)
