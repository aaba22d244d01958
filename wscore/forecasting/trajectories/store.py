"""Trajectories on disk: the weights of one training run at regular intervals, with metadata of each snapshot.

data/trajectories/sgd-seed-0/
  weights.npy     float32 [N, D] or longer, read through a memory map (bfloat16 would destroy the small increments)
  manifest.json   network, layout, training settings; step, epoch, learning rate, losses and accuracy of every snapshot
  constants.safetensors   masks and index tables of the network, if it has any
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.config import Section, to_plain
from wscore.errors import DataError, WscoreWarning
from wscore.io import hash_folder, read_json, read_tensors, write_json
from wscore.late import pd
from wscore.networks.layout import Layout
from wscore.networks.lenet import NetworkSpec

WEIGHTS, MANIFEST, CONSTANTS = "weights.npy", "manifest.json", "constants.safetensors"
ROWS_AT_ONCE = 16
COARSE = 0.005  # relative rounding error above which increments are damaged: bfloat16 has 0.0078, float16 0.00098


class SnapshotColumns(Section):
    """Metadata of the N snapshots of a trajectory, in order of time; null where unknown.

    Args:
        step: optimiser steps before it, or its index if unknown.
        epoch: the same in passes over the training images, or its index if unknown.
        lr: learning rate of the step that led to it; of the first step for the initial weights.
        train_loss: mean cross-entropy (nats) on training images.
        test_loss: mean cross-entropy (nats) on test images.
        test_accuracy: share of correctly classified test images.
    """

    step: tuple[int, ...]
    epoch: tuple[float, ...]
    lr: tuple[float | None, ...]
    train_loss: tuple[float | None, ...]
    test_loss: tuple[float | None, ...]
    test_accuracy: tuple[float | None, ...]


class Manifest(Section):
    """Metadata of a trajectory.

    Args:
        format: version of this file.
        run: name of the run, also of its folder.
        seed: of initialisation and data order; index of the run if it was imported.
        dataset: training images, `unknown` if not given.
        optimizer: its name, `unknown` if not given.
        weight_decay: of the optimiser.
        batch_size: images per step.
        snapshots_per_epoch: recording density.
        network: specification of the network; null if it can't be built here, so that it can't be evaluated on images.
        layout: where each tensor lies in a weight vector.
        snapshots: one entry per row of weights.npy.
        complex_tensors: names of tensors whose last axis holds real and imaginary parts.
    """

    format: Literal[1]
    run: str
    seed: int
    dataset: str
    optimizer: str
    weight_decay: float | None
    batch_size: Annotated[int, msgspec.Meta(gt=0)] | None
    snapshots_per_epoch: Annotated[float, msgspec.Meta(gt=0)] | None
    network: NetworkSpec | None
    layout: Layout
    snapshots: SnapshotColumns
    complex_tensors: tuple[str, ...] = ()

    @property
    def network_name(self) -> str:
        """Name of the network, `unknown` if it can't be built."""
        return self.network.name if self.network else "unknown"


class Trajectory:
    """One recorded training run, checked when opened and read through a memory map.

    Attributes:
        folder: where it lies.
        manifest: its metadata.
        weights: float32 [N, D], read-only.

    Raises:
        DataError: naming the file, if one is missing, malformed, of another length or shape, or holds a non-finite
            snapshot.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_run_manifest(self.folder / MANIFEST)
        self.weights = read_weights(self.folder / WEIGHTS, len(self.manifest.snapshots.step))
        _check(self)

    def __len__(self) -> int:
        """Return the number of snapshots N."""
        return len(self.weights)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.manifest.run

    @property
    def layout(self) -> Layout:
        """Where each tensor lies in a weight vector."""
        return self.manifest.layout

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """Return the network at a snapshot: weights in float32, counters as zeros, masks as at the last snapshot."""
        state = self.layout.unflatten(torch.from_numpy(self.weights[index].copy()))
        state |= {name: torch.view_as_complex(state[name]) for name in self.manifest.complex_tensors}
        path = self.folder / CONSTANTS
        return {**state, **(read_tensors(path) if path.is_file() else {})}


def read_run_manifest(path: Path) -> Manifest:
    """Return the manifest in a file.

    Raises:
        DataError: if it is missing or malformed.
    """
    try:
        return msgspec.convert(read_json(path), Manifest, strict=True)
    except msgspec.ValidationError as error:
        raise DataError("is not a trajectory manifest", where=path, got=error, fix="record it again") from error


def write_run_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a trajectory to its folder."""
    write_json(Path(folder) / MANIFEST, to_plain(manifest))


def write_trajectory(folder: Path, manifest: Manifest, weights: Float[np.ndarray, "snapshot weights"]) -> None:
    """Write a trajectory that is in memory."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    np.save(Path(folder) / WEIGHTS, np.ascontiguousarray(weights, dtype=np.float32), allow_pickle=False)
    write_run_manifest(folder, manifest)


def read_weights(path: Path, count: int) -> np.ndarray:
    """Return the first rows of a file; an ongoing or killed recording may have written more.

    Raises:
        DataError: if the file is missing or no array.
    """
    if not path.is_file():
        raise DataError("no such file", where=path, fix="run `dvc repro train_base`")
    try:
        return np.lib.format.open_memmap(path, mode="r")[:count]
    except (ValueError, TypeError, ArithmeticError, SyntaxError, TokenError, EOFError, OSError, IndexError) as error:
        raise DataError("is not a readable array", where=path, got=error, fix="record the trajectory again") from error


def warn_of_rounding(state: Mapping[str, Tensor], where: object) -> None:
    """Warn of weights with less precision than float16."""
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if _is_coarse(tensor)})
    if kinds:
        message = f"{where}: weights are {', '.join(kinds)}, which rounds away small changes between snapshots"
        warnings.warn(f"{message}; record them as float32", WscoreWarning, stacklevel=3)


def _is_coarse(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and torch.finfo(tensor.dtype).eps > COARSE


def open_trajectories(folder: Path) -> list[Trajectory]:
    """Return all trajectories below a folder, sorted by seed.

    Raises:
        DataError: if there is none, one is malformed, or they belong to different networks.
    """
    paths = sorted(path.parent for path in Path(folder).glob(f"*/{MANIFEST}"))
    orphans = sorted({path.parent for path in Path(folder).glob(f"*/{WEIGHTS}")} - set(paths))
    if orphans:
        raise DataError("no such file", where=orphans[0] / MANIFEST, fix="run `dvc repro train_base`")
    if not paths:
        raise DataError("holds no trajectory", where=folder, expected=f"*/{MANIFEST}", fix="run `dvc repro train_base`")
    runs = sorted((Trajectory(path) for path in paths), key=lambda run: (run.manifest.seed, run.name))
    for run in runs[1:]:
        if run.layout != runs[0].layout:
            expected = f"the {len(runs[0].layout.tensors)} tensors of {runs[0].name}"
            fix = "put the runs of each network into separate folders"
            raise DataError(
                "is of another network than the other runs", where=run.folder / MANIFEST, expected=expected, fix=fix
            )
    return runs


def identities(runs: Sequence[Trajectory]) -> list[str]:
    """Return a hash of the files of each trajectory."""
    return [hash_folder(run.folder) for run in runs]


def curves(runs: Sequence[Trajectory]) -> pd.DataFrame:
    """Return a row per run and snapshot: run, dataset, optimizer, step, epoch, lr, train_loss, test_loss, test_accuracy."""
    tables = [
        pd.DataFrame(
            {
                "run": run.name,
                "dataset": run.manifest.dataset,
                "optimizer": run.manifest.optimizer,
                **_numbers(run.manifest.snapshots),
            }
        )
        for run in runs
    ]
    return pd.concat(tables, ignore_index=True)


def _numbers(snapshots: SnapshotColumns) -> dict[str, np.ndarray]:
    """Return the columns as numbers, NaN where a value is not known."""
    plain = to_plain(snapshots)
    return {name: np.asarray(column, np.int64 if name == "step" else np.float64) for name, column in plain.items()}


def _check(run: Trajectory) -> None:
    columns = {name: len(column) for name, column in to_plain(run.manifest.snapshots).items()}
    if len(set(columns.values())) != 1:
        raise DataError("columns of `snapshots` differ in length", where=run.folder / MANIFEST, got=columns)
    wanted = (columns["step"], run.layout.size)
    where = run.folder / WEIGHTS
    if run.weights.shape != wanted or run.weights.dtype != np.float32:
        got = f"{run.weights.dtype} {run.weights.shape}"
        raise DataError("does not fit its manifest", where=where, expected=f"float32 {wanted}", got=got)
    steps = run.manifest.snapshots.step
    if any(late <= early for early, late in pairwise(steps)):
        raise DataError("snapshots are not in order of time", where=f"{run.folder / MANIFEST}: snapshots.step")
    for start in range(0, len(run), ROWS_AT_ONCE):
        finite = np.isfinite(run.weights[start : start + ROWS_AT_ONCE]).all(axis=1)
        if not finite.all():
            raise DataError(
                f"snapshot {start + int(np.argmin(finite))} is not finite", where=where, fix="train at a lower rate"
            )
