"""Splits runs and windows into training, validation and test."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple, get_args

import msgspec
import numpy as np
from jaxtyping import Float
from torch import Tensor

from wscore.errors import ConfigError, WscoreWarning
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.sequences import Windows, check_lengths, split_point, test_windows, training_windows
from wscore.forecasting.trajectories.grams import snapshot_grams
from wscore.forecasting.trajectories.optimizers import OptimizerName
from wscore.forecasting.trajectories.store import MANIFEST, Trajectory
from wscore.networks.layout import Layout


class RunSplit(NamedTuple):
    """Split of the runs.

    Attributes:
        training: training runs (with `split: temporal`, their first part; the rest is for testing).
        held_out: test runs of the same data sets and optimisers.
        validation: runs of the same kind for choosing the best epoch, not tested on.
        other_optimizer: test runs of optimisers outside the training runs.
        other_dataset: test runs on data sets outside the training runs.
    """

    training: list[Trajectory]
    held_out: list[Trajectory]
    validation: list[Trajectory]
    other_optimizer: list[Trajectory]
    other_dataset: list[Trajectory]

    @property
    def tested(self) -> dict[str, list[Trajectory]]:
        """Test runs by test set."""
        return {
            "temporal": self.training,
            "unseen_run": self.held_out,
            "unseen_optimizer": self.other_optimizer,
            "unseen_dataset": self.other_dataset,
        }


class RunWindows(NamedTuple):
    """Snapshots of one run and windows over them.

    Attributes:
        weights: float32 (N, D).
        layout: of the vectors.
        windows: over these N snapshots.
        grams: Gram matrices of the snapshots of the whole run, from `snapshot_grams`.
    """

    weights: Float[np.ndarray, "snapshot weights"]
    layout: Layout
    windows: list[Windows]
    grams: Float[Tensor, "tensor snapshot snapshot"]


def make_plan(config: PredictorConfig, runs: Sequence[Trajectory]) -> RunSplit:
    """Return the split of the runs; the last ones of each data set, optimiser and rate are held out.

    Raises:
        ConfigError: if no run is left to train on, or `train_split` leaves nothing to train or test on.
        DataError: if a trajectory is shorter than one window.

    Warns:
        WscoreWarning: if a held-out data set, or a held-out optimiser unknown to this package, has no run.
    """
    _check_names(config, runs)
    plan = RunSplit([], [], [], [], [])
    for (dataset, optimizer, _), group in _groups(runs).items():
        if dataset in config.unseen_datasets:
            plan.other_dataset.extend(group)
        elif optimizer in config.unseen_optimizers:
            plan.other_optimizer.extend(group)
        else:
            learned_from = _kept(config, group)
            plan.training.extend(group[:learned_from])
            plan.validation.extend(group[learned_from : learned_from + config.validation_runs])
            plan.held_out.extend(group[learned_from + config.validation_runs :])
    if not plan.training:
        kinds = ", ".join(sorted({f"{run.manifest.optimizer} on {run.manifest.dataset}" for run in runs}))
        where = "predictor.unseen_optimizers, predictor.unseen_datasets"
        raise ConfigError("leave no run to train on", where=where, got=f"runs of {kinds}", fix="set them to []")
    for run in runs:
        _check_length(config, run)
    return plan


def reachable(config: PredictorConfig, plan: RunSplit) -> PredictorConfig:
    """Return the configuration, without a far step that no training window reaches."""
    if config.far_step is None:
        return config
    needed = (config.sequence_length - 1 + config.far_step) * config.strides[0]
    longest = max(_learned_until(config, run) for run in plan.training)
    return config if needed < longest else msgspec.structs.replace(config, far_step=None)


def _learned_until(config: PredictorConfig, run: Trajectory) -> int:
    return len(run) if config.split == "run" else split_point(len(run), config.train_split)


def _check_names(config: PredictorConfig, runs: Sequence[Trajectory]) -> None:
    """Warn of held-out names without a run, which may be misspelt; optimisers of this package are exempt."""
    known = {"unseen_datasets": {run.manifest.dataset for run in runs}}
    known["unseen_optimizers"] = {run.manifest.optimizer for run in runs}
    for key, names in known.items():
        wrong = set(getattr(config, key)) - names - set(get_args(OptimizerName))
        if wrong:
            message = f"predictor.{key}: no run of {', '.join(sorted(wrong))}, only of {', '.join(sorted(names))}"
            warnings.warn(message, WscoreWarning, stacklevel=3)


def learned(config: PredictorConfig, run: Trajectory) -> RunWindows:
    """Return the training part of a run, with windows at every stride and offset."""
    stop = _learned_until(config, run)
    shape = {"length": config.sequence_length, "horizons": config.steps}
    windows = [training_windows(stop, stride=stride, **shape) for stride in config.strides]
    grams = snapshot_grams(run.weights, run.layout)
    return RunWindows(run.weights[:stop], run.layout, [group for group in windows if len(group.last)], grams)


def later(config: PredictorConfig, run: Trajectory) -> RunWindows:
    """Return a whole run with the windows whose targets all lie after the split, at the forecast's stride."""
    split = split_point(len(run), config.train_split)
    grams = snapshot_grams(run.weights, run.layout)
    return RunWindows(run.weights, run.layout, [windows_between(config, split, len(run))], grams)


def windows_between(config: PredictorConfig, start: int, stop: int) -> Windows:
    """Return the windows whose targets up to `extrapolation_steps` lie in [start, stop), at the forecast's stride."""
    shape = {"length": config.sequence_length, "horizons": config.steps, "stride": config.stride}
    return test_windows(start, stop, **shape, furthest=config.extrapolation_steps)


def one_network(known: Sequence[RunWindows], where: str) -> None:
    """Reject runs of several networks for methods limited to one.

    Raises:
        ConfigError: naming the method, if the runs belong to different networks.
    """
    count = len({run.layout.identity for run in known})
    if count > 1:
        fix = "use predictor.kind=gram, or runs of one network"
        raise ConfigError("fits one network only", where=where, got=f"runs of {count} networks", fix=fix)


def _groups(runs: Sequence[Trajectory]) -> dict[tuple[str, str, float | None], list[Trajectory]]:
    groups: dict[tuple[str, str, float | None], list[Trajectory]] = {}
    for run in runs:
        manifest = run.manifest
        key = (manifest.dataset, manifest.optimizer, manifest.snapshots.lr[0])
        groups.setdefault(key, []).append(run)
    return groups


def _kept(config: PredictorConfig, group: Sequence[Trajectory]) -> int:
    spared = config.holdout_runs + config.validation_runs
    if spared >= len(group):
        key = "predictor.holdout_runs" if config.holdout_runs >= len(group) else "predictor.validation_runs"
        expected = f"together at most {len(group) - 1} of the {len(group)} runs of a data set and optimiser"
        got = f"{config.holdout_runs} held out and {config.validation_runs} for validation"
        raise ConfigError("leaves no run to train on", where=key, expected=expected, got=got)
    return len(group) - spared


def _check_length(config: PredictorConfig, run: Trajectory) -> None:
    check_lengths(
        run.folder / MANIFEST,
        len(run),
        split_point(len(run), config.train_split),
        length=config.sequence_length,
        horizons=config.extrapolation_steps,
        stride=config.stride,
        least=config.strides[0],
    )
