"""Training data and loss of each kind of predictor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.models.matrix_parts import present_parts
from wscore.forecasting.models.per_weight import DiffusionPredictor, SeriesPredictor
from wscore.forecasting.models.predictors import GramPredictor, PcaPredictor, WeightPredictor, agreed, part_features
from wscore.forecasting.pca import fit_snapshot_pca
from wscore.forecasting.per_weight_batches import SeriesBatches, calibrate_bands, denoising_loss, series_loss
from wscore.forecasting.sequences import reaching_back
from wscore.forecasting.splits import RunWindows, one_network
from wscore.forecasting.trajectories.grams import (
    TINY,
    WORST,
    gathered,
    gram_loss,
    mixed,
    noise_grams,
    normalised,
    part_grams,
    shortened,
    with_noise,
)
from wscore.training.batches import Batches, TensorBatches, derive_seed, permutation

Loss = Callable[[Any, Any], Mapping[str, Tensor]]


class Task(NamedTuple):
    """A model with its training data and loss.

    Attributes:
        model: untrained.
        batches: makes batches of the windows of some trajectories, shuffled or not.
        loss: of a batch.
        facts: description of the model as plain data.
        finish: called with the trained model and validation batches, or training batches if there are none.
    """

    model: WeightPredictor
    batches: Callable[[Sequence[RunWindows], bool], Batches]
    loss: Loss
    facts: dict[str, Any]
    finish: Callable[[Any, Any], object] = lambda model, batches: None  # noqa: ARG005


def gram_task(config: PredictorConfig, known: Sequence[RunWindows]) -> Task:  # noqa: ARG001
    """Return the task of a `GramPredictor`, on Gram matrices of the increments of each window."""
    with _seeded(config):
        model = GramPredictor(config.gram())

    def loss(model: GramPredictor, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        features, products, known, there = batch  # (B, T, m, F), (B, L, P, m+K, m+K), (B, K), (B, L, P)
        each, increments = model.each(features), features.shape[2]  # (M, B, T, m, K)
        seen_products = products[:, there[0].bool()][..., :increments, :increments]
        with torch.no_grad():
            pooled = gram_loss(agreed(each, seen_products), products, there[0], known)  # only logged in training
        if not model.training:
            return pooled
        losses = [gram_loss(coefficients, products, there[0], known)["loss"] for coefficients in each]
        return {**pooled, "loss": torch.stack(losses).mean()}  # members are trained independently

    return Task(model, lambda runs, shuffle: WindowBatches(config, runs, GramBatches, shuffle=shuffle), loss, {})


def pca_task(config: PredictorConfig, known: Sequence[RunWindows]) -> Task:
    """Return the task of a `PcaPredictor` with the PCA of the training snapshots, on the scores of each window."""
    one_network(known, "predictor.kind: transformer_pca")
    vectors = [snapshots.weights for snapshots in known]
    basis = fit_snapshot_pca(vectors, config.n_components)
    rank = len(basis.components) if config.apply_pca else None
    with _seeded(config):
        model = PcaPredictor(config.pca(vectors[0].shape[1], rank))
    model.mean.copy_(basis.mean)
    if rank is not None:
        model.components.copy_(basis.components)
    model.scale.copy_(torch.cat([_scores(model, snapshots) for snapshots in vectors]).square().mean().sqrt())
    facts = {"components": rank or 0, "numerical_rank": basis.numerical_rank}
    return Task(model, lambda runs, shuffle: _ScoreBatches(config, model, runs, shuffle=shuffle), _pca_loss, facts)


def param_task(config: PredictorConfig, known: Sequence[RunWindows]) -> Task:  # noqa: ARG001
    """Return the task of a `SeriesPredictor`, on series of weights resampled from each window every epoch."""
    with _seeded(config):
        model = SeriesPredictor(config.series())
    return Task(
        model, lambda runs, shuffle: WindowBatches(config, runs, SeriesBatches, shuffle=shuffle), series_loss, {}
    )


def diffusion_task(config: PredictorConfig, known: Sequence[RunWindows]) -> Task:  # noqa: ARG001
    """Return the task of a `DiffusionPredictor`, on the same series; its bands are calibrated after training."""
    with _seeded(config):
        model = DiffusionPredictor(config.diffusion())
    return Task(
        model,
        lambda runs, shuffle: WindowBatches(config, runs, SeriesBatches, shuffle=shuffle),
        denoising_loss,
        {},
        lambda model, batches: calibrate_bands(model, batches.parts),
    )


TASKS: dict[str, Callable[[PredictorConfig, Sequence[RunWindows]], Task]] = {
    "gram": gram_task,
    "transformer_pca": pca_task,
    "transformer_param": param_task,
    "diffusion": diffusion_task,
}


class WindowBatches:
    """Batches of windows of runs of one or several networks; each batch has a single network.

    Args:
        config: section `predictor:`.
        runs: windows of each run.
        make: builds batches of the windows of one network.
        shuffle: whether the order of batches and networks is reshuffled every epoch.
    """

    def __init__(
        self, config: PredictorConfig, runs: Sequence[RunWindows], make: Callable[..., Any], *, shuffle: bool
    ) -> None:
        groups: dict[str, list[RunWindows]] = {}
        for run in runs:
            groups.setdefault(run.layout.identity, []).append(run)
        self.parts = [make(config, group, shuffle=shuffle) for group in groups.values()]
        self.seed, self.shuffle = config.seed, shuffle

    def __len__(self) -> int:
        return sum(len(batches) for batches in self.parts)

    def epoch(self, number: int) -> Iterator[Any]:
        """Yield the batches of one epoch."""
        running = [batches.epoch(number) for batches in self.parts]
        turns = torch.repeat_interleave(torch.tensor([len(batches) for batches in self.parts]))
        if self.shuffle:
            turns = turns[permutation(len(turns), self.seed, number)]
        for turn in turns.tolist():
            yield next(running[turn])


class GramBatches:
    """Features, Gram matrices and known targets of windows; augmented when training.

    Args:
        config: section `predictor:`.
        runs: windows of runs of one network.
        shuffle: whether they are for training: reshuffled and augmented anew every epoch.
    """

    def __init__(self, config: PredictorConfig, runs: Sequence[RunWindows], *, shuffle: bool) -> None:
        shape, self.layout = config.gram(), runs[0].layout
        self.increments, self.lagged_snapshots = shape.sequence_length - 1, shape.lagged_snapshots
        self.seed, self.share = config.seed, config.augment_share if shuffle else 0.0
        self.older_lost = shuffle and bool(self.lagged_snapshots)
        self.noise = noise_grams(shape.back, shape.horizons)
        self.there = present_parts(self.layout, len(shape.rank_splits) + 1)
        products = [
            part_grams(
                run.weights,
                self.layout,
                reaching_back(windows, self.lagged_snapshots),
                self.increments,
                shape.rank_splits,
            )
            for run in runs
            for windows in run.windows
        ]
        products = torch.cat([normalised(vectors, self.increments) for vectors in products])
        known = torch.cat([torch.from_numpy(windows.known).float() for run in runs for windows in run.windows])
        self.numbers = TensorBatches(products, known, batch_size=config.batch_size, seed=config.seed, shuffle=shuffle)

    def __len__(self) -> int:
        return len(self.numbers)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield features of the T parts, Gram matrices of m increments and targets, known targets, and existing parts.

        (B, T, m, F), (B, L, P, m+K, m+K), (B, K), (B, L, P)
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augment", number))
        count = self.increments + len(self.lagged_snapshots)
        for products, known in self.numbers.epoch(number):
            products, known = self._altered(products, known, generator)  # noqa: PLW2901
            features = part_features(products[..., :count, :count], self.layout, self.increments)
            yield features, products, known, self.there.expand(len(products), -1, -1)

    def _altered(self, products: Tensor, known: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.share:
            products, known = mixed(products, known, self.share, self.increments, generator)
            products = gathered(products, self.there)
            whole = products.flatten(1, 2)
            products = with_noise(whole, self.noise, self.share, self.increments, generator).view_as(products)
        if self.older_lost:
            whole = products.flatten(1, 2)
            products = shortened(whole, self.increments, len(self.lagged_snapshots), generator).view_as(products)
        return products, known


def _pca_loss(model: PcaPredictor, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """Return 1 - skill within the principal components (at most 5 a window), or the scaled error for `absolute`."""
    history, targets, known = batch  # (B, c, R), (B, K, R), (B, K)
    error = (model(history) - targets).square().sum(-1)  # (B, K)
    relative = (error / (targets - history[:, -1:]).square().sum(-1).clamp_min(TINY)).clamp(max=WORST)
    each = error / model.scale.square() if model.config.mode == "absolute" else relative
    count = known.sum().clamp_min(1)
    return {"loss": (each * known).sum() / count, "skill": 1 - (relative * known).sum() / count}


class _ScoreBatches:
    """Batches of principal-component scores, gathered on demand."""

    def __init__(
        self, config: PredictorConfig, model: PcaPredictor, runs: Sequence[RunWindows], *, shuffle: bool
    ) -> None:
        self.scores = torch.cat([_scores(model, run.weights) for run in runs])
        rows: list[list[np.ndarray]] = []
        start = 0
        for run in runs:
            rows += [[windows.history + start, windows.targets + start, windows.known] for windows in run.windows]
            start += len(run.weights)
        parts = [torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True)]
        self.numbers = TensorBatches(*parts, batch_size=config.batch_size, seed=config.seed, shuffle=shuffle)

    def __len__(self) -> int:
        return len(self.numbers)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield scores of histories (B, c, R) and targets (B, K, R), and known targets (B, K)."""
        for history, targets, known in self.numbers.epoch(number):
            yield self.scores[history], self.scores[targets], known.float()


def _scores(model: PcaPredictor, weights: np.ndarray) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.project(torch.from_numpy(np.array(row[None]))) for row in weights])


@contextmanager
def _seeded(config: PredictorConfig) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "predictor"))
        yield
