"""Windows over a trajectory (c equally spaced input snapshots and K targets), and the split in time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from wscore.errors import ConfigError, DataError

Steps = Sequence[int]  # ahead, rising


class Windows(NamedTuple):
    """W windows of one trajectory, as snapshot indices.

    Attributes:
        history: c snapshots each, oldest first; the last is the present t.
        targets: the K snapshots at the horizons after it, clipped to the last one within the bounds.
        known: which targets are within the bounds.
        stride: snapshots per step.
    """

    history: Int[np.ndarray, "window snapshot"]
    targets: Int[np.ndarray, "window horizon"]
    known: Bool[np.ndarray, "window horizon"]
    stride: int

    @property
    def last(self) -> Int[np.ndarray, " window"]:
        """The present t of each window."""
        return self.history[:, -1]


def split_point(count: int, train_split: float) -> int:
    """Return the number of first snapshots, of `count`, in the training part of a trajectory.

    >>> split_point(121, train_split=0.5)
    60
    """
    return math.floor(count * train_split)


def training_windows(stop: int, *, length: int, horizons: Steps, stride: int) -> Windows:
    """Return all windows whose history and known targets lie before snapshot `stop`, with at least one known target."""
    return _windows(
        np.arange((length - 1) * stride, max((length - 1) * stride, stop - stride)), stop, length, horizons, stride
    )


def test_windows(start: int, stop: int, *, length: int, horizons: Steps, stride: int, furthest: int) -> Windows:
    """Return all windows whose targets lie in [start, stop), at least those up to `furthest` steps ahead.

    Histories may start earlier; further targets are known where they are within the bounds.
    """
    first = max(start - 1, (length - 1) * stride)
    return _windows(np.arange(first, max(first, stop - furthest * stride)), stop, length, horizons, stride)


def reaching_back(windows: Windows, lagged_snapshots: Steps) -> Windows:
    """Return windows with further snapshots before their history, given as steps back from the present.

    Indices before the start of the trajectory become snapshot 0.
    """
    further = windows.last[:, None] - windows.stride * np.asarray(lagged_snapshots, dtype=np.int64)[::-1]
    return windows._replace(history=np.concatenate([np.maximum(further, 0), windows.history], axis=1))


def check_lengths(
    where: object, count: int, split: int, *, length: int, horizons: int, stride: int, least: int
) -> None:
    """Reject a trajectory of `count` snapshots that is too short for training or testing.

    Args:
        where: its file, for the message.
        count: snapshots.
        split: number of them for training.
        length: snapshots c of a window.
        horizons: steps K ahead.
        stride: snapshots per step when testing.
        least: smallest stride when training.

    Raises:
        DataError: if the whole trajectory is shorter than one window.
        ConfigError: if the split leaves no training window with all K targets, or no test window.
    """
    if count < (length - 1 + horizons) * stride + 1:
        needed = (
            f"{(length - 1 + horizons) * stride + 1} or more (sequence_length + extrapolation_steps, times the stride)"
        )
        fix = (
            "raise base.epochs or base.snapshots_per_epoch, or lower predictor.stride or predictor.extrapolation_steps"
        )
        raise DataError("has too few snapshots", where=where, expected=needed, got=count, fix=fix)
    window = (length - 1 + horizons) * least + 1
    if split < window:
        expected = f"{window} or more"
        raise ConfigError(
            f"leaves {split} of {count} snapshots to train on", where="predictor.train_split", expected=expected
        )
    if count - split < horizons * stride:
        expected = f"{horizons * stride} or more (extrapolation_steps times the stride)"
        raise ConfigError(
            f"leaves {count - split} of {count} snapshots to test on", where="predictor.train_split", expected=expected
        )


def _windows(last: np.ndarray, stop: int, length: int, horizons: Steps, stride: int) -> Windows:
    history = last[:, None] + stride * np.arange(1 - length, 1)
    targets = last[:, None] + stride * np.asarray(horizons)
    known = targets < stop
    latest = np.where(known, targets, last[:, None]).max(axis=1, initial=0)
    return Windows(history, np.where(known, targets, latest[:, None]), known, stride)
