"""Which runs and which windows are learned from, and which are kept for the test."""

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
    """Which runs are for what.

    Attributes:
        training: runs that are learned from (with `split: temporal` from their first part; the rest is tested on).
        held_out: runs of the same data sets and optimisers that are only tested on.
        validation: runs of the same kind that choose the best epoch, and are for no test.
        other_optimizer: runs of optimisers that are not learned from.
        other_dataset: runs on data sets that are not learned from.
    """

    training: list[Trajectory]
    held_out: list[Trajectory]
    validation: list[Trajectory]
    other_optimizer: list[Trajectory]
    other_dataset: list[Trajectory]

    @property
    def tested(self) -> dict[str, list[Trajectory]]:
        """Runs by what a forecast of them is a test of."""
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
        grams: inner products of the snapshots of the whole run, as `snapshot_grams` returns them.
    """

    weights: Float[np.ndarray, "snapshot weights"]
    layout: Layout
    windows: list[Windows]
    grams: Float[Tensor, "tensor snapshot snapshot"]


def make_plan(config: PredictorConfig, runs: Sequence[Trajectory]) -> RunSplit:
    """Return which runs are for what; of each data set, optimiser and rate the last ones are held out.

    Raises:
        ConfigError: if no run is left to train on, or `train_split` leaves nothing to train or test on.
        DataError: if a trajectory is shorter than one window.

    Warns:
        WscoreWarning: if a data set, or an optimiser that is not of this package, is to be left out and has no run.
    """
    _check_names(config, runs)
    plan = RunSplit([], [], [], [], [])
    for (dataset, optimizer, _), group in _groups(runs).items():
        if dataset in config.unseen_datasets:
            plan.other_dataset.extend(group)
        elif optimizer in config.unseen_optimizers:
            plan.other_optimizer.extend(group)
        else:
            kept = _kept(config, group)
            plan.training.extend(group[:kept])
            plan.validation.extend(group[kept : kept + config.validation_runs])
            plan.held_out.extend(group[kept + config.validation_runs :])
    if not plan.training:
        found = ", ".join(sorted({f"{run.manifest.optimizer} on {run.manifest.dataset}" for run in runs}))
        where = "predictor.unseen_optimizers, predictor.unseen_datasets"
        raise ConfigError("leave no run to train on", where=where, got=f"runs of {found}", fix="set them to []")
    for run in runs:
        _check_length(config, run)
    return plan


def reachable(config: PredictorConfig, plan: RunSplit) -> PredictorConfig:
    """Return the configuration, without a far step that no training window reaches: nothing can be learned of it."""
    if config.far_step is None:
        return config
    needed = (config.sequence_length - 1 + config.far_step) * config.strides[0]
    longest = max(_learned_until(config, run) for run in plan.training)
    return config if needed < longest else msgspec.structs.replace(config, far_step=None)


def _learned_until(config: PredictorConfig, run: Trajectory) -> int:
    return len(run) if config.split == "run" else split_point(len(run), config.train_split)


def _check_names(config: PredictorConfig, runs: Sequence[Trajectory]) -> None:
    """Warn of names that leave nothing out, which may be misspelt; the default names an optimiser whether it is used or not."""
    known = {"unseen_datasets": {run.manifest.dataset for run in runs}}
    known["unseen_optimizers"] = {run.manifest.optimizer for run in runs}
    for key, found in known.items():
        wrong = set(getattr(config, key)) - found - set(get_args(OptimizerName))
        if wrong:
            message = f"predictor.{key}: no run is of {', '.join(sorted(wrong))}, but of {', '.join(sorted(found))}"
            warnings.warn(message, WscoreWarning, stacklevel=3)


def learned(config: PredictorConfig, run: Trajectory) -> RunWindows:
    """Return the part of a run that may be learned from, with windows at every stride and offset."""
    stop = _learned_until(config, run)
    shape = {"length": config.sequence_length, "horizons": config.steps}
    windows = [training_windows(stop, stride=stride, **shape) for stride in config.strides]
    grams = snapshot_grams(run.weights, run.layout)
    return RunWindows(run.weights[:stop], run.layout, [some for some in windows if len(some.last)], grams)


def later(config: PredictorConfig, run: Trajectory) -> RunWindows:
    """Return a whole run with the windows whose targets all lie after the split, at the forecast's stride."""
    split = split_point(len(run), config.train_split)
    grams = snapshot_grams(run.weights, run.layout)
    return RunWindows(run.weights, run.layout, [windows_between(config, split, len(run))], grams)


def windows_between(config: PredictorConfig, start: int, stop: int) -> Windows:
    """Return the windows whose targets up to `extrapolation_steps` lie in [start, stop), at the forecast's stride."""
    shape = {"length": config.sequence_length, "horizons": config.steps, "stride": config.stride}
    return test_windows(start, stop, **shape, asked=config.extrapolation_steps)


def one_network(known: Sequence[RunWindows], where: str) -> None:
    """Refuse runs of several networks for what fits one only.

    Raises:
        ConfigError: naming what was asked for, if the runs are not of one network.
    """
    count = len({part.layout.identity for part in known})
    if count > 1:
        fix = "take predictor.kind=gram, or runs of one network"
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
