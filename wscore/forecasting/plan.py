"""Which runs and which windows are learned from, and which are kept for the test."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wscore.errors import ConfigError
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.sequences import Windows, check_lengths, split_point, test_windows, training_windows
from wscore.forecasting.snapshots import MANIFEST, Trajectory
from wscore.zoo.layout import Layout


class Plan(NamedTuple):
    """Which runs are for what.

    Attributes:
        training: runs whose first part is learned from and whose rest is tested on.
        held_out: runs that are only tested on.
    """

    training: list[Trajectory]
    held_out: list[Trajectory]


class Material(NamedTuple):
    """Snapshots of one run and windows over them.

    Attributes:
        weights: float32 (N, D).
        layout: of the vectors.
        windows: over these N snapshots.
    """

    weights: Float[np.ndarray, "snapshot weights"]
    layout: Layout
    windows: list[Windows]


def make_plan(config: PredictorConfig, runs: Sequence[Trajectory]) -> Plan:
    """Return which runs are trained on and which are held out, the last ones.

    Raises:
        ConfigError: if no run is left to train on, or `train_split` leaves nothing to train or test on.
        DataError: if a trajectory is shorter than one window.
    """
    kept = len(runs) - config.holdout_runs
    if kept < 1:
        expected = f"at most {len(runs) - 1} of {len(runs)} runs"
        raise ConfigError("leaves no run to train on", where="predictor.holdout_runs", expected=expected)
    for run in runs:
        check_lengths(
            run.folder / MANIFEST,
            len(run),
            split_point(len(run), config.train_split),
            length=config.sequence_length,
            horizons=config.extrapolation_steps,
            stride=config.stride,
            least=config.strides[0],
        )
    return Plan(list(runs[:kept]), list(runs[kept:]))


def learned(config: PredictorConfig, run: Trajectory) -> Material:
    """Return the part of a run before the split, with windows at every stride and offset."""
    split = split_point(len(run), config.train_split)
    shape = {"length": config.sequence_length, "horizons": config.extrapolation_steps}
    windows = [training_windows(split, stride=stride, **shape) for stride in config.strides]
    return Material(run.weights[:split], run.layout, [some for some in windows if len(some.last)])


def later(config: PredictorConfig, run: Trajectory) -> Material:
    """Return a whole run with the windows whose targets all lie after the split, at the forecast's stride."""
    split = split_point(len(run), config.train_split)
    return Material(run.weights, run.layout, [windows_between(config, split, len(run))])


def windows_between(config: PredictorConfig, start: int, stop: int) -> Windows:
    """Return the windows whose targets all lie in [start, stop), at the forecast's stride."""
    shape = {"length": config.sequence_length, "horizons": config.extrapolation_steps, "stride": config.stride}
    return test_windows(start, stop, **shape)
