"""Recording of a training of your own, in any PyTorch loop.

    with wscore.record(network, "recordings/run-0", every=100, optimizer=optimizer) as recorder:
        for images, labels in batches:
            ...
            optimizer.step()
            recorder.step(train_loss=loss)

The folder is a trajectory as `train_base` writes it, and whole after every snapshot. Folders of one network below
`recordings/` are forecast with `base.source: folder` and `base.path: recordings`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from wscore.config import to_plain
from wscore.errors import DataError, TrainingError
from wscore.forecasting.networks import NetworkSpec
from wscore.forecasting.snapshots import MANIFEST, WEIGHTS, Manifest, SnapshotColumns, read_manifest, write_manifest
from wscore.zoo.layout import layout_of

UNKNOWN = "unknown"
SCORES = ("train_loss", "test_loss", "test_accuracy")
WRAPPED = ("_orig_mod", "module")  # torch.compile, data parallel


class Recorder:
    """Writes the weights of a network to a folder every so many steps; the weights it starts from are snapshot 0.

    Args:
        network: a module whose state dict is recorded, as float32.
        folder: of the trajectory; its name is the name of the run.
        every: steps from one snapshot to the next.
        optimizer: whose learning rate and name are noted down.
        steps_per_epoch: to note down epochs.
        spec: what `wscore.forecasting.networks.build_network` makes such a network of; without it forecasts are judged
            as weights only.
        dataset: name of the data, noted down.
        seed: of the run, noted down.
        resume: go on with the recording that lies in the folder, from its last snapshot.

    Raises:
        DataError: if the folder holds a recording and `resume` is not set, or it is of another network.
        TrainingError: from `step`, if a weight is not finite.
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
    ) -> None:
        if every < 1:
            raise DataError("is too small", where="every", expected="1 or more", got=every)
        self.folder, self.network, self.optimizer = Path(folder), unwrapped(network), optimizer
        self.every, self.steps_per_epoch = every, steps_per_epoch
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
            layout=layout_of(self.network.state_dict()),
            snapshots=msgspec.convert(self.columns, SnapshotColumns),
        )
        self._file = _Rows(self.folder / WEIGHTS, self._manifest.layout.size)
        self._start(resume=resume)

    def step(
        self,
        *,
        train_loss: float | Tensor | None = None,
        test_loss: float | Tensor | None = None,
        test_accuracy: float | Tensor | None = None,
    ) -> None:
        """Count one step of the optimiser, and take a snapshot if it is due; scores are the newest since the last one.

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
        """Nothing is left to do: every snapshot is on the disk already."""

    def _start(self, *, resume: bool) -> None:
        self.steps = 0
        if not (self.folder / MANIFEST).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file.cut(0)
            self._snapshot()
            return
        if not resume:
            fix = "choose another folder, or `resume=True` to go on"
            raise DataError("holds a recording already", where=self.folder, fix=fix)
        known = read_manifest(self.folder / MANIFEST)
        if known.layout != self._manifest.layout:
            raise DataError("is a recording of another network", where=self.folder, fix="choose another folder")
        self.columns = {name: list(column) for name, column in to_plain(known.snapshots).items()}
        self.steps = known.snapshots.step[-1]
        self._file.cut(len(known.snapshots.step))

    def _snapshot(self) -> None:
        vector = self._manifest.layout.flatten(self.network.state_dict())
        if not np.isfinite(vector).all():
            raise TrainingError(
                "weights are not finite", where=f"{self.folder}, step {self.steps}", fix="lower the rate"
            )
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
        snapshots = msgspec.convert(self.columns, SnapshotColumns)
        write_manifest(self.folder, msgspec.structs.replace(self._manifest, snapshots=snapshots))


record = Recorder


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `torch.compile` and of data parallel training."""
    parts = dict(network.named_children())
    wrapped = len(parts) == 1 and next(iter(parts)) in WRAPPED
    return unwrapped(next(iter(parts.values()))) if wrapped else network


class _Rows:
    """A .npy file of float32 rows that grows: numpy leaves room in the header for the count of rows."""

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width, self.count = path, width, 0

    def cut(self, count: int) -> None:
        """Keep the first rows; a file that does not exist is made."""
        self.count = count
        with self.path.open("r+b" if self.path.is_file() else "w+b") as stream:
            start = self._write_header(stream)
            stream.truncate(start + 4 * self.width * count)

    def append(self, row: np.ndarray) -> None:
        """Write one more row, then the count of rows."""
        with self.path.open("r+b") as stream:
            stream.seek(0, os.SEEK_END)
            stream.write(row.astype("<f4").tobytes())
            stream.flush()
            self.count += 1
            stream.seek(0)
            self._write_header(stream)

    def _write_header(self, stream: BinaryIO) -> int:
        shape = (self.count, self.width)
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return stream.tell()
