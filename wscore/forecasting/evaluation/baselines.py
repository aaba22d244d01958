"""Baseline forecasts without a neural network, reported next to every learned predictor.

All share the interface of `Forecaster`, as do the learned predictors: `fit` on training windows, then `predict` from
the last known snapshots at the forecast's stride, oldest first.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.errors import ModelError
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.models.predictors import Steps, steps_of
from wscore.forecasting.pca import SnapshotPca, fit_snapshot_pca
from wscore.forecasting.splits import RunWindows, one_network
from wscore.forecasting.trajectories.grams import TINY, window_grams
from wscore.networks.layout import Layout

AVERAGED = 3  # snapshots in LAWA
DECAY = 0.8  # of the exponential moving average, per step
REMEMBERED = 12  # snapshots in the moving average; older ones have a total weight below 7%
RIDGE = 1e-2  # relative to the mean eigenvalue of the normal equations

Snapshots = Float[Tensor, "snapshot weights"]
Forecast = Float[Tensor, "horizon weights"]


class Forecaster(ABC):
    """Interface of all forecasting methods.

    Args:
        config: section `predictor:`.
    """

    def __init__(self, config: PredictorConfig) -> None:
        self.config = config

    def fit(self, known: Sequence[RunWindows], validation: Sequence[RunWindows] = ()) -> None:  # noqa: B027
        """Fit to windows of trajectories; the base class fits nothing.

        Args:
            known: training snapshots and windows over them.
            validation: windows for model selection, such as the best epoch.
        """

    @abstractmethod
    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:
        """Return the weights some steps after the last snapshot; see `WeightPredictor.predict`."""


class CopyLast(Forecaster):
    """w(t + k) = w(t)."""

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:  # noqa: ARG002
        """Return the last snapshot for every horizon."""
        return history[-1].expand(len(steps_of(horizons)), -1)


class Linear(Forecaster):
    """w(t + k) = w(t) + a k d with the last increment d, and a = 1."""

    coefficient = 1.0

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:  # noqa: ARG002
        """Extrapolate the last increment linearly."""
        steps = torch.tensor(steps_of(horizons), dtype=history.dtype)[:, None]
        return history[-1] + self.coefficient * steps * (history[-1] - history[-2])


class Damped(Linear):
    """`Linear` with the coefficient a fitted on the training windows by least squares.

    a = sum k <y_k, d> / sum k^2 |d|^2 over windows and known horizons k.
    """

    def fit(self, known: Sequence[RunWindows], validation: Sequence[RunWindows] = ()) -> None:  # noqa: ARG002
        """Fit the coefficient at the forecast's stride."""
        product, square = 0.0, 0.0
        steps = torch.tensor(self.config.steps, dtype=torch.float64)
        for grams, mask in _grams_and_masks(self.config, known):
            whole = grams.sum(1)  # (W, c-1+K, c-1+K)
            product += float((steps * whole[:, 0, -len(steps) :] * mask).sum())
            square += float((steps.square() * whole[:, :1, 0] * mask).sum())
        self.coefficient = product / square if square > 0 else 0.0


class OnlineAr1(Forecaster):
    """w(t + k) = w(t) + (r + .. + r^k) d, with r fitted per tensor to the increments of the given history.

    r = sum <d(s), d(s - 1)> / sum |d(s - 1)|^2, within [-1, 1]. Nothing is fitted beforehand.
    """

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:
        """Extrapolate the last increment as a geometric series."""
        history, steps = history[-self.config.sequence_length :], torch.tensor(steps_of(horizons))
        increments = history[1:] - history[:-1]
        powers = torch.arange(1, int(steps.max()) + 1, dtype=torch.float64)
        change = []
        for columns in layout.slices().values():
            changes = increments[:, columns].double()
            squares = changes[:-1].square().sum()
            ratio = (changes[1:] * changes[:-1]).sum() / squares.clamp_min(TINY)
            sums = (ratio.clamp(-1, 1) ** powers).cumsum(0)[steps - 1]  # (K,)
            change.append(sums[:, None] * changes[-1])
        return history[-1] + torch.cat(change, dim=1).to(history.dtype)


class RidgeAr(Forecaster):
    """w(t + k) = w(t) + sum_i b[i, k] d_i for each tensor, with b from ridge regression over the training windows."""

    coefficients: Float[Tensor, "tensor increment horizon"]

    def fit(self, known: Sequence[RunWindows], validation: Sequence[RunWindows] = ()) -> None:  # noqa: ARG002
        """Fit the per-tensor coefficients at the forecast's stride.

        Raises:
            ConfigError: if the runs belong to different networks.
        """
        one_network(known, "ridge_ar")
        count = self.config.sequence_length - 1
        left = right = torch.zeros(())
        for grams, mask in _grams_and_masks(self.config, known):
            left = left + torch.einsum("wlij,wk->lkij", grams[..., :count, :count], mask)
            right = right + torch.einsum("wlik,wk->lki", grams[..., :count, count:], mask)
        self.coefficients = _ridge(left, right).transpose(1, 2).float()  # (L, c-1, K)

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:
        """Return the last snapshot plus the fitted combination of increments."""
        chosen = [self.config.steps.index(step) for step in steps_of(horizons)]
        if len(layout.tensors) != len(self.coefficients):
            expected = f"{len(self.coefficients)} tensors"
            raise ModelError("was fitted to another network", expected=expected, got=len(layout.tensors))
        increments = _increments(history, self.config)
        parts = zip(self.coefficients, layout.slices().values(), strict=True)
        return history[-1] + torch.cat([b[:, chosen].T @ increments[:, span] for b, span in parts], dim=1)


class PcaAr(Forecaster):
    """w(t + k) = w(t) + V y_k, one autoregression per principal component of the change.

    V are the principal components of the training snapshots; y_k[r] = sum_i b[i, k, r] z_i[r] of their increments
    z = V^T d, b by ridge regression over the training windows.
    """

    basis: SnapshotPca
    coefficients: Float[Tensor, "rank increment horizon"]

    def fit(self, known: Sequence[RunWindows], validation: Sequence[RunWindows] = ()) -> None:  # noqa: ARG002
        """Compute the components and fit one autoregression to each, at the forecast's stride.

        Raises:
            ConfigError: if the runs belong to different networks.
        """
        one_network(known, "pca_ar")
        self.basis = fit_snapshot_pca([run.weights for run in known], self.config.n_components)
        left = right = torch.zeros(())
        for run in known:
            scores = torch.stack([self._scores(row) for row in run.weights]).double()  # (N, R)
            for windows in run.windows:
                if windows.stride == self.config.stride:
                    past = scores[windows.history]  # (W, c, R)
                    steps = (past[:, 1:] - past[:, :-1]).flip(1)
                    future = scores[windows.targets] - past[:, -1:]  # (W, K, R)
                    mask = torch.from_numpy(windows.known).double()
                    left = left + torch.einsum("wir,wjr,wk->rkij", steps, steps, mask)
                    right = right + torch.einsum("wir,wkr,wk->rki", steps, future, mask)
        self.coefficients = _ridge(left, right).transpose(1, 2).float()  # (R, c-1, K)

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:
        """Return the last snapshot plus the forecast change along the components."""
        if layout.size != len(self.basis.mean):
            raise ModelError("was fitted to another network", expected=len(self.basis.mean), got=layout.size)
        chosen = [self.config.steps.index(step) for step in steps_of(horizons)]
        steps = _increments(history, self.config) @ self.basis.components.T  # (c-1, R)
        change = torch.einsum("rik,ir->kr", self.coefficients[..., chosen], steps)
        return history[-1] + change @ self.basis.components

    def _scores(self, row: object) -> Tensor:
        return self.basis.components @ (torch.tensor(row) - self.basis.mean)


class Lawa(Forecaster):
    """The mean of the last three snapshots for every horizon (latest weight averaging, arXiv 2306.03241)."""

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:  # noqa: ARG002
        """Return the mean."""
        return history[-AVERAGED:].mean(0).expand(len(steps_of(horizons)), -1)


class Ema(Forecaster):
    """The exponential moving average of the snapshots for every horizon: m = 0.8 m + 0.2 w."""

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Forecast:  # noqa: ARG002
        """Return the average."""
        average = history[-REMEMBERED:][0]
        for snapshot in history[-REMEMBERED:][1:]:
            average = DECAY * average + (1 - DECAY) * snapshot
        return average.expand(len(steps_of(horizons)), -1)


BASELINES: dict[str, type[Forecaster]] = {
    "copy_last": CopyLast,
    "linear": Linear,
    "damped": Damped,
    "ridge_ar": RidgeAr,
    "online_ar1": OnlineAr1,
    "pca_ar": PcaAr,
    "lawa": Lawa,
    "ema": Ema,
}


def fit_baselines(config: PredictorConfig, known: Sequence[RunWindows]) -> dict[str, Forecaster]:
    """Return all baselines by name, fitted on the predictor's training windows."""
    methods = {name: kind(config) for name, kind in BASELINES.items()}
    for method in methods.values():
        method.fit(known)
    return methods


def _grams_and_masks(config: PredictorConfig, known: Sequence[RunWindows]) -> list[tuple[Tensor, Tensor]]:
    """Return inner products (W, L, c-1+K, c-1+K) and known targets (W, K) of the windows at the forecast's stride."""
    return [
        (window_grams(run.grams, windows), torch.from_numpy(windows.known).double())
        for run in known
        for windows in run.windows
        if windows.stride == config.stride
    ]


def _increments(history: Snapshots, config: PredictorConfig) -> Tensor:
    known = history[-config.sequence_length :]
    return (known[1:] - known[:-1]).flip(0)  # (c-1, D), newest first


def _ridge(
    left: Float[Tensor, "part horizon increment increment"], right: Float[Tensor, "part horizon increment"]
) -> Float[Tensor, "part horizon increment"]:
    """Solve A b = v with a small ridge on the diagonal of A; zero where A is zero."""
    mean = left.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return torch.linalg.solve(left + (RIDGE * mean + TINY) * torch.eye(left.shape[-1], dtype=left.dtype), right)
