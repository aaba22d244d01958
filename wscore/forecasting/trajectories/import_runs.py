"""Imports training runs, from a folder of state dicts or recordings, as trajectories.

`base.pattern` is the naming scheme of the state dicts, relative to `base.path`. It is matched against the end of the
path; `*` matches anything within a name, and a field in braces matches:

    {run}                   text; the run. Without it, each folder is a run
    {epoch} {step}          numbers; the time. One of them is required, unless `{batch}` or `{pct}` is given
    {batch} {pct}           numbers; batch within the epoch, or per cent of the epoch
    {acc} {loss} {lr}       numbers; test accuracy (as share or per cent), test loss, learning rate

as in `{run}/epoch_{epoch}_batch_{pct}pct_acc_{acc}.pt`. Without a pattern, the single number that differs between file
names in a folder is the time.
"""

import math
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.forecasting.trajectories.recorder import UNKNOWN
from wscore.forecasting.trajectories.store import (
    CONSTANTS,
    MANIFEST,
    WEIGHTS,
    Manifest,
    SnapshotColumns,
    Trajectory,
    open_trajectories,
    read_run_manifest,
    warn_of_rounding,
    write_run_manifest,
)
from wscore.forecasting.trajectories.train_base import BaseConfig, network_spec
from wscore.io import atomic_folder, create_array
from wscore.networks.checkpoints import SUFFIXES, read_network
from wscore.networks.images import Images
from wscore.networks.layout import Layout, layout_of
from wscore.networks.lenet import NetworkSpec, accuracy_and_loss, network_layout

NUMBER = r"(?<!\d)\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\d)"  # never part of a longer number; a preceding "-" is not a sign
FIELDS = {"run": r"[^/]+?", **dict.fromkeys(("epoch", "step", "batch", "pct", "acc", "loss", "lr"), NUMBER)}
TIMES = ("epoch", "step", "batch", "pct")
EXAMPLE = "epoch_{epoch}_batch_{pct}pct_acc_{acc}.pt"
POINT = 0.01  # difference of accuracies that is a warning
WIDEST, NARROWEST = 1.5, 0.5  # range of gaps between snapshots, relative to the median, that counts as even


class RunFiles(NamedTuple):
    """Content common to the files of all runs.

    Attributes:
        layout: of the tensors, in the order of `base.network` if they match it.
        spec: specification of the network; None if unknown.
        first: reference file, which all others must match.
    """

    layout: Layout
    spec: NetworkSpec | None
    first: Path


class SnapshotFile(NamedTuple):
    """One file of a state dict.

    Attributes:
        path: of the file.
        run: name of its run.
        fields: numbers in its name.
    """

    path: Path
    run: str
    fields: Mapping[str, float]


def import_runs(config: BaseConfig, images: Images, out: Path) -> list[Manifest]:
    """Write the runs in `base.path` as trajectories below `out` and return their manifests.

    State dicts of `base.network` are evaluated on the images; those of other networks are kept as weights only.

    Raises:
        ConfigError: if `base.path` is missing, or `base.pattern` is malformed, matches no file or is required.
        DataError: naming the file, if one is unreadable or not finite, a snapshot is missing, or networks are mixed.
    """
    folder = _folder(config.path)
    recordings = sorted(path.parent for path in folder.glob(f"**/{MANIFEST}"))
    with atomic_folder(out) as temporary:
        if recordings:
            _check_recordings(recordings)
            manifests = [_copy_recording(path, _run_of(path, folder), temporary, images) for path in recordings]
        else:
            runs = list(_in_order(find_files(folder, config.pattern)).values())
            network = _network_of(runs[0][0].path, config, images)
            manifests = [
                _import_run(files, number, temporary, config, network, images) for number, files in enumerate(runs)
            ]
        open_trajectories(temporary)
    return manifests


def find_files(folder: Path, pattern: str | None) -> list[SnapshotFile]:
    """Return the state dicts below a folder that match a pattern; without one, all, timed by the numbers in their names.

    Raises:
        ConfigError: if the pattern is malformed or matches nothing, or without one if names differ in several numbers.
        DataError: if there is no state dict.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [
        path for path in paths if not any(component.startswith(".") for component in path.relative_to(folder).parts)
    ]
    if not paths:
        expected = f"files *{', *'.join(SUFFIXES)}, or recordings by wscore.record"
        raise DataError("holds no training run", where=f"base.path={folder}", expected=expected)
    if pattern is None:
        return [file for group in _by_folder(paths).values() for file in _by_number(group, folder)]
    expression = pattern_expression(pattern)
    matches = [(path, expression.search(path.relative_to(folder).as_posix())) for path in paths]
    files = [_named(path, match, folder) for path, match in matches if match]
    if not files:
        first = paths[0].relative_to(folder).as_posix()
        raise ConfigError(
            "matches no file", where="base.pattern", expected=f"a match in names like {first}", got=pattern
        )
    if len(files) < len(paths):
        message = f"{len(paths) - len(files)} of {len(paths)} files don't match base.pattern and were skipped"
        warnings.warn(message, WscoreWarning, stacklevel=2)
    return files


def pattern_expression(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern such as `epoch_{epoch}_acc_{acc}.pt`.

    Raises:
        ConfigError: if a field is unknown or named twice, or none of them gives the time.

    >>> match = pattern_expression("epoch_{epoch}_acc_{acc}.pt").search("runs/epoch_12_acc_0.97.pt")
    >>> match and (match["epoch"], match["acc"])
    ('12', '0.97')
    """
    names = re.findall(r"\{(.*?)\}", pattern)
    wrong = [name for name in names if name not in FIELDS]
    if wrong or len(set(names)) < len(names):
        expected = f"each at most once: {', '.join(f'{{{name}}}' for name in FIELDS)}"
        raise ConfigError("has wrong fields", where="base.pattern", expected=expected, got=pattern)
    if not set(names) & set(TIMES):
        expected = f"one of {', '.join(f'{{{name}}}' for name in TIMES)}, as in {EXAMPLE}"
        raise ConfigError("does not give the order of the files", where="base.pattern", expected=expected, got=pattern)
    parts = re.split(r"(\{.*?\}|\*)", pattern)
    text = "".join(_expression(piece) for piece in parts)
    return re.compile(f"(?:^|/){text}$")


def _expression(piece: str) -> str:
    if piece == "*":
        return "[^/]*"
    return f"(?P<{piece[1:-1]}>{FIELDS[piece[1:-1]]})" if piece.startswith("{") else re.escape(piece)


def _named(path: Path, match: re.Match[str], folder: Path) -> SnapshotFile:
    fields = {name: text for name, text in match.groupdict().items() if text is not None}
    run = fields.pop("run", None) or _run_of(path.parent, folder)
    return SnapshotFile(path, run, {name: float(text) for name, text in fields.items()})


def _run_of(parent: Path, folder: Path) -> str:
    return "-".join(parent.relative_to(folder).parts) or folder.resolve().name or "run"


def _by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.parent, []).append(path)
    return groups


def _by_number(paths: Sequence[Path], folder: Path) -> list[SnapshotFile]:
    """Return the files of one folder, with the single number that differs between their names as `step`."""
    run = _run_of(paths[0].parent, folder)
    if len(paths) == 1:
        return [SnapshotFile(paths[0], run, {"step": 0.0})]
    numbers = [re.findall(r"\d+", path.stem) for path in paths]
    columns = list(zip(*numbers, strict=True)) if len({len(row) for row in numbers}) == 1 else []
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) != 1:
        got = ", ".join(path.relative_to(folder).as_posix() for path in paths[:3])
        raise ConfigError(
            "is required: the names don't give the order of the files", where="base.pattern", expected=EXAMPLE, got=got
        )
    return [SnapshotFile(path, run, {"step": float(text)}) for path, text in zip(paths, varying[0], strict=True)]


def _in_order(unsorted: Sequence[SnapshotFile]) -> dict[str, list[SnapshotFile]]:
    """Return the files of each run in order of time, checked to be evenly spaced.

    Raises:
        DataError: if two have the same time, or one is missing.
    """
    batches = batches_of(unsorted)
    runs: dict[str, list[tuple[float, SnapshotFile]]] = {}
    for file in unsorted:
        runs.setdefault(file.run, []).append((_time(file.fields, batches), file))
    ordered = {name: sorted(files, key=lambda item: item[0]) for name, files in sorted(runs.items())}
    for name, files in ordered.items():
        _check_spacing(name, files)
    return {name: [file for _, file in files] for name, files in ordered.items()}


def batches_of(files: Sequence[SnapshotFile]) -> list[float]:
    """Return the batch numbers that occur, sorted."""
    return sorted({file.fields["batch"] for file in files if "batch" in file.fields})


def _time(fields: Mapping[str, float], batches: Sequence[float]) -> float:
    """Return the time of a file, in epochs or else in steps; batches within an epoch count as evenly spaced."""
    if "step" in fields and "epoch" not in fields:
        return fields["step"]
    fraction = fields.get("pct", 0.0) / 100
    if "batch" in fields:
        fraction = batches.index(fields["batch"]) / len(batches)
    return fields.get("epoch", 0.0) + fraction


def _check_spacing(run: str, files: Sequence[tuple[float, SnapshotFile]]) -> None:
    where = f"{files[0][1].path.parent}, run {run}"
    if len(files) < 2:
        raise DataError(
            "has a single snapshot", where=where, expected="several", fix="separate the runs by {run} in base.pattern"
        )
    middle = float(np.median(np.diff([time for time, _ in files])))
    for (early, first), (late, second) in pairwise(files):
        names = f"{first.path.name} and {second.path.name}"
        if late - early < NARROWEST * middle or late == early:
            got = f"{names}, at the same time" if late == early else f"{late - early:g} between {names}"
            fix, expected = "exclude one by base.pattern", f"one every {middle:g}"
            raise DataError("snapshots are not evenly spaced", where=where, expected=expected, got=got, fix=fix)
        if late - early > WIDEST * middle:
            expected = f"one every {middle:g}"
            raise DataError("a snapshot is missing", where=where, expected=expected, got=f"none between {names}")


def _network_of(path: Path, config: BaseConfig, images: Images) -> RunFiles:
    """Return the content of a file; its tensor order is ignored, since some formats sort by name."""
    layout, spec = layout_of(read_network(path).state), network_spec(config, images)
    known = network_layout(spec)
    if _shapes(layout) == _shapes(known):
        return RunFiles(known, spec, path)
    return RunFiles(layout, None, path)


def _shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in layout.tensors}


def _import_run(
    files: Sequence[SnapshotFile], number: int, out: Path, config: BaseConfig, network: RunFiles, images: Images
) -> Manifest:
    layout, spec, first = network
    folder = out / files[0].run
    folder.mkdir()
    weights = create_array(folder / WEIGHTS, (len(files), layout.size), np.float32)
    for place, file in enumerate(files):
        state = read_network(file.path).state
        if _shapes(layout_of(state)) != _shapes(layout):
            fix = "put the runs of each network into separate folders"
            raise DataError("is of another network", where=file.path, expected=f"as {first}", fix=fix)
        if place == 0:
            warn_of_rounding(state, file.path)
        weights[place] = layout.flatten(state)
    columns = _columns(files)
    if spec is not None:
        _compare(columns["test_accuracy"][-1], spec, weights[-1:], images, config, files[-1].path)
        columns = _scored(columns, spec, weights, images, config.probe_images)
    weights.flush()
    manifest = Manifest(
        format=1,
        run=files[0].run,
        seed=number,
        dataset=config.dataset if spec else UNKNOWN,
        optimizer=UNKNOWN,
        weight_decay=None,
        batch_size=None,
        snapshots_per_epoch=None,
        network=spec,
        layout=layout,
        snapshots=msgspec.convert(columns, SnapshotColumns),
    )
    write_run_manifest(folder, manifest)
    return manifest


def _columns(files: Sequence[SnapshotFile]) -> dict[str, Any]:
    fields = {name: [file.fields.get(name) for file in files] for name in FIELDS}
    accuracies = [value for value in fields["acc"] if value is not None]
    unit = 100 if accuracies and max(accuracies) > 1 else 1
    times = [_time(file.fields, batches_of(files)) for file in files]
    return {
        "step": [int(n) if n is not None and n == int(n) else place for place, n in enumerate(fields["step"])],
        "epoch": times if "epoch" in files[0].fields else [float(place) for place in range(len(files))],
        "lr": fields["lr"],
        "train_loss": [None] * len(files),
        "test_loss": fields["loss"],
        "test_accuracy": [None if value is None else value / unit for value in fields["acc"]],
    }


def _compare(
    stated: float | None, spec: NetworkSpec, weights: np.ndarray, images: Images, config: BaseConfig, path: Path
) -> None:
    """Warn if the last network of a run has another accuracy than its file name says, by more than a point.

    Where `base.max_test` limits the test images, four standard errors are allowed too.
    """
    if stated is None:
        return
    measured = float(
        accuracy_and_loss(spec, torch.from_numpy(weights.copy()), images.x_test, images.y_test).accuracy[0]
    )
    error = 4 * math.sqrt(measured * (1 - measured) / len(images.y_test)) if config.max_test is not None else 0.0
    if abs(measured - stated) > POINT + error:
        message = f"{path}: {stated:.2%} stated, {measured:.2%} measured on {images.name}"
        warnings.warn(f"{message}; see base.dataset and base.normalize", WscoreWarning, stacklevel=2)


def _scored(
    columns: Mapping[str, Any], spec: NetworkSpec, weights: np.ndarray, images: Images, count: int
) -> dict[str, Any]:
    """Return the columns with losses and accuracies computed where the names don't give them."""
    vectors: Tensor = torch.from_numpy(np.asarray(weights))
    train = accuracy_and_loss(spec, vectors, images.x_train[:count], images.y_train[:count])
    test = accuracy_and_loss(spec, vectors, images.x_test[:count], images.y_test[:count])
    scores = {"train_loss": train.loss, "test_loss": test.loss, "test_accuracy": test.accuracy}
    filled = {
        name: [
            measured if given is None else given for given, measured in zip(columns[name], values.tolist(), strict=True)
        ]
        for name, values in scores.items()
    }
    return {**columns, **filled}


def _check_recordings(folders: Sequence[Path]) -> None:
    """Check recordings in place, so that errors name the original files."""
    runs = [Trajectory(folder) for folder in folders]
    for run in runs[1:]:
        if run.layout != runs[0].layout:
            fix = "put the runs of each network into separate folders"
            raise DataError("is of another network", where=run.folder, expected=f"as {runs[0].folder}", fix=fix)


def _copy_recording(folder: Path, name: str, out: Path, images: Images) -> Manifest:
    manifest = msgspec.structs.replace(read_run_manifest(folder / MANIFEST), run=name)
    spec, (channels, size) = manifest.network, images.x_test.shape[1:3]
    if spec is not None and (spec.channels, spec.size) != (channels, size):
        expected, got = f"{spec.channels} x {spec.size} x {spec.size}", f"{channels} x {size} x {size}"
        fix = "set base.dataset and base.size to its training images"
        raise DataError("expects images of another shape", where=folder, expected=expected, got=got, fix=fix)
    target = out / name
    if target.exists():
        raise DataError("two recordings have the same name", where=folder, got=name, fix="rename one of the folders")
    target.mkdir()
    for file in (WEIGHTS, CONSTANTS):
        if (folder / file).is_file():
            shutil.copyfile(folder / file, target / file)
    write_run_manifest(target, manifest)
    return manifest


def _folder(path: str | None) -> Path:
    if path is None:
        raise ConfigError("is missing", where="base.path", expected="a folder of training runs", got="null")
    if not Path(path).is_dir():
        raise DataError("no such folder", where=f"base.path={path}", fix="name a folder of training runs")
    return Path(path)
