"""Records the weights of a network in any PyTorch training loop.

    with wscore.record(network, "recordings/run-0", every=100, optimizer=optimizer) as recorder:
        for images, labels in batches:
            ...
            optimizer.step()
            recorder.step(train_loss=loss)

The folder is a trajectory in the format of `train_base`, complete after every snapshot. Folders of one network below
`recordings/` are used for forecasting with `base.source: folder` and `base.path: recordings`.
"""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from wscore.config import to_plain
from wscore.errors import DataError, TrainingError
from wscore.forecasting.trajectories.store import (
    CONSTANTS,
    MANIFEST,
    WEIGHTS,
    Manifest,
    SnapshotColumns,
    read_run_manifest,
    read_weights,
    warn_of_rounding,
    write_run_manifest,
)
from wscore.io import write_tensors
from wscore.networks.layout import layout_of
from wscore.networks.lenet import NetworkSpec
from wscore.networks.selection import is_weight

UNKNOWN = "unknown"
SCORES = ("train_loss", "test_loss", "test_accuracy")
HEADER = 128  # bytes before the rows
WRAPPED = ("_orig_mod", "module")  # torch.compile, data parallel


class Recorder:
    """Writes the weights of a network to a folder at regular intervals; the initial weights are snapshot 0.

    Args:
        network: a module whose state dict is recorded, as float32; complex tensors as pairs of real numbers. Masks and index
            tables are no weights: those of the last snapshot are kept beside it.
        folder: of the trajectory; its name is the name of the run.
        every: steps between snapshots.
        optimizer: whose learning rate and name are recorded.
        steps_per_epoch: for recording epochs.
        spec: from which `wscore.networks.lenet.build_network` builds the network; without it forecasts are evaluated as
            weights only.
        dataset: name of the data, recorded.
        seed: of the run, recorded.
        resume: continue the recording in the folder from its last snapshot.
        at: with `resume`, training step of the network, from your checkpoint; later snapshots are dropped. None: the
            step of the last snapshot.

    Raises:
        DataError: if the folder holds a recording and `resume` is not set, or it has another network, optimizer or
            interval, or if the weights are not those of step `at`.
        TrainingError: if a weight is not finite; also raised by `step`, as is a DataError if another process writes to
            the folder.

    Warns:
        WscoreWarning: if weights are bfloat16 or coarser, which rounds away most changes between snapshots.
    """

    def __init__(
        self,
        network: nn.Module,
        folder: Path | str,
        *,
        every: int,
        optimizer: torch.optim.Optimizer | None = None,
        steps_per_epoch: int | None = None,
        spec: NetworkSpec | None = None,
        dataset: str = UNKNOWN,
        seed: int = 0,
        resume: bool = False,
        at: int | None = None,
    ) -> None:
        if every < 1:
            raise DataError("is too small", where="every", expected="1 or more", got=every)
        self.folder, self.network, self.optimizer = Path(folder), unwrapped(network), optimizer
        self.every, self.steps_per_epoch = every, steps_per_epoch
        state = recorded_state(self.network)
        self.columns: dict[str, list[float | None]] = {name: [] for name in SnapshotColumns.__struct_fields__}
        self._scores: dict[str, float | Tensor] = {}
        self._manifest = Manifest(
            format=1,
            run=self.folder.name,
            seed=seed,
            dataset=dataset,
            optimizer=type(optimizer).__name__.lower() if optimizer else UNKNOWN,
            weight_decay=optimizer.param_groups[0].get("weight_decay") if optimizer else None,
            batch_size=None,
            snapshots_per_epoch=steps_per_epoch / every if steps_per_epoch else None,
            network=spec,
            layout=layout_of(state.weights),
            complex_tensors=state.complex_tensors,
            snapshots=msgspec.convert(self.columns, SnapshotColumns),
        )
        self._constants: dict[str, Tensor] = {}
        self._file = _Rows(self.folder / WEIGHTS, self._manifest.layout.size)
        warn_of_rounding(state.weights, self.folder)
        if resume and (self.folder / MANIFEST).is_file():
            self._go_on(at)
        else:
            self._begin(at or 0)

    def step(
        self,
        *,
        train_loss: float | Tensor | None = None,
        test_loss: float | Tensor | None = None,
        test_accuracy: float | Tensor | None = None,
    ) -> None:
        """Count one optimiser step, and take a snapshot if it is due, with the latest scores since the previous one.

        Raises:
            TrainingError: if a weight is not finite.
        """
        self.steps += 1
        given = zip(SCORES, (train_loss, test_loss, test_accuracy), strict=True)
        self._scores |= {
            name: value.detach() if isinstance(value, Tensor) else value for name, value in given if value is not None
        }
        if self.steps % self.every == 0:
            self._snapshot()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Do nothing: every snapshot is already on disk."""

    def _begin(self, at: int) -> None:
        if (self.folder / MANIFEST).is_file():
            fix = "choose another folder, or resume with `resume=True`"
            raise DataError("already holds a recording", where=self.folder, fix=fix)
        if at:
            raise DataError("holds no recording to resume", where=self.folder, got=f"at={at}")
        if not self._file.is_new():
            raise DataError("does not belong to a recording", where=self._file.path, fix="choose another folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise DataError("is no folder", where=self.folder, fix="choose another one") from error
        self.steps = 0
        self._file.cut(0)
        self._snapshot()

    def _go_on(self, at: int | None) -> None:
        known = read_run_manifest(self.folder / MANIFEST)
        self._check_same(known)
        kept = [step for step in known.snapshots.step if at is None or step <= at]
        self.steps = kept[-1] if at is None else at
        if not kept or self.steps - kept[-1] >= self.every:
            expected = f"0 to {known.snapshots.step[-1] + self.every - 1}"
            raise DataError("is beyond the recording", where=f"{self.folder}, at", expected=expected, got=at)
        vector = self._manifest.layout.flatten(recorded_state(self.network).weights)
        if self.steps == kept[-1] and not np.array_equal(self._file.row(len(kept) - 1), vector):
            fix = "load the weights of that step, or pass their step as `at`"
            raise DataError(f"the weights are not those of step {self.steps}", where=self.folder, fix=fix)
        self.columns = {name: list(column)[: len(kept)] for name, column in to_plain(known.snapshots).items()}
        self._write_manifest()
        self._file.cut(len(kept))

    def _check_same(self, known: Manifest) -> None:
        """Reject a recording of another network, optimizer or interval."""
        if known.layout != self._manifest.layout:
            raise DataError("is a recording of another network", where=self.folder, fix="choose another folder")
        if known.optimizer != self._manifest.optimizer:
            where, expected = f"{self.folder}, optimizer", known.optimizer
            got, fix = self._manifest.optimizer, "choose another folder"
            raise DataError("differs from the recording", where=where, expected=expected, got=got, fix=fix)
        distance = next((late - early for early, late in pairwise(known.snapshots.step)), self.every)
        if distance != self.every:
            where, expected = f"{self.folder}, every", distance
            raise DataError("differs from the recording", where=where, expected=expected, got=self.every)

    def _snapshot(self) -> None:
        state = recorded_state(self.network)
        vector = self._manifest.layout.flatten(state.weights)
        if not np.isfinite(vector).all():
            raise TrainingError(
                "weights are not finite", where=f"{self.folder}, step {self.steps}", fix="lower the learning rate"
            )
        self._keep_constants(state.constants)
        self._file.append(vector)
        known: Mapping[str, float | None] = {
            "step": self.steps,
            "epoch": self.steps / self.steps_per_epoch if self.steps_per_epoch else float(len(self.columns["step"])),
            "lr": float(self.optimizer.param_groups[0]["lr"]) if self.optimizer else None,
            **{name: float(value) for name, value in self._scores.items()},
        }
        for name, column in self.columns.items():
            column.append(known.get(name))
        self._scores = {}
        self._write_manifest()

    def _keep_constants(self, constants: Mapping[str, Tensor]) -> None:
        same = constants.keys() == self._constants.keys()
        if not same or not all(torch.equal(tensor, self._constants[name]) for name, tensor in constants.items()):
            self._constants = {name: tensor.clone() for name, tensor in constants.items()}
            write_tensors(self.folder / CONSTANTS, self._constants)

    def _write_manifest(self) -> None:
        snapshots = msgspec.convert(self.columns, SnapshotColumns)
        write_run_manifest(self.folder, msgspec.structs.replace(self._manifest, snapshots=snapshots))


record = Recorder


class RecordedState(NamedTuple):
    """What is recorded of a network.

    Attributes:
        weights: real tensors and counters.
        constants: masks and index tables.
        complex_tensors: names of weights whose last axis holds real and imaginary parts.
    """

    weights: dict[str, Tensor]
    constants: dict[str, Tensor]
    complex_tensors: tuple[str, ...]


def recorded_state(network: nn.Module) -> RecordedState:
    """Return the state dict of a network in the form that is recorded.

    Raises:
        RejectedError: naming the tensor, if one is sparse or quantised.
    """
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    parts = tuple(name for name, tensor in state.items() if tensor.is_complex())
    state |= {name: torch.view_as_real(state[name].resolve_conj()) for name in parts}
    weights = {name: tensor for name, tensor in state.items() if tensor.dtype != torch.bool and is_weight(name, tensor)}
    return RecordedState(weights, {name: state[name] for name in state.keys() - weights.keys()}, parts)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network without the wrappers of `torch.compile` and data-parallel training, which have no weights."""
    parts = dict(network.named_children())
    buffers = [buffer for buffer in network.buffers(recurse=False) if buffer.is_floating_point()]
    beside = [*network.parameters(recurse=False), *buffers]
    wrapped = len(parts) == 1 and next(iter(parts)) in WRAPPED and not beside
    return unwrapped(next(iter(parts.values()))) if wrapped else network


class _Rows:
    """A growing .npy file of float32 rows; numpy's header has room for the row count."""

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width, self.count = path, width, 0

    def is_new(self) -> bool:
        """Return whether the file is missing, or a remnant of a recording killed before its first manifest."""
        if not self.path.is_file():
            return True
        with self.path.open("rb") as stream:
            start = stream.read(len(np.lib.format.MAGIC_PREFIX))
        return start == np.lib.format.MAGIC_PREFIX and self.path.stat().st_size < HEADER + 8 * self.width

    def row(self, number: int) -> np.ndarray:
        """Return one row.

        Raises:
            DataError: if the file ends before it.
        """
        rows = read_weights(self.path, number + 1)
        if rows.shape != (number + 1, self.width):
            raise DataError("does not fit its manifest", where=self.path, fix="choose another folder")
        return rows[number]

    def cut(self, count: int) -> None:
        """Keep the first rows; create the file if it does not exist."""
        self.count = count
        with self.path.open("r+b" if self.path.is_file() else "w+b") as stream:
            start = self._write_header(stream)
            stream.truncate(start + 4 * self.width * count)

    def append(self, row: np.ndarray) -> None:
        """Append a row, then update the row count.

        Raises:
            DataError: if the file does not end where this recorder left it.
        """
        with self.path.open("r+b") as stream:
            if stream.seek(0, os.SEEK_END) != HEADER + 4 * self.width * self.count:
                fix = "give each recorder a separate folder"
                raise DataError("was changed by another process", where=self.path, fix=fix)
            stream.write(row.astype("<f4").tobytes())
            stream.flush()
            self.count += 1
            stream.seek(0)
            self._write_header(stream)

    def _write_header(self, stream: BinaryIO) -> int:
        shape = (self.count, self.width)
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return stream.tell()
