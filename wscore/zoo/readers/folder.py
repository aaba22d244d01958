"""Checkpoints of your own, and the trial directories of Ray Tune: files of state dicts with their metadata."""

import functools
import json
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wscore.errors import ConfigError, DataError, WscoreWarning, printable
from wscore.io import content_hash
from wscore.networks.checkpoints import BROKEN, SUFFIXES, file_kind, read_file_networks, shown
from wscore.networks.naming import natural
from wscore.networks.records import RawNetwork, Rejected, RejectedError
from wscore.networks.selection import Checkpoint
from wscore.networks.shards import INDEX, read_index
from wscore.zoo.config import ReadingConfig, ZooConfig
from wscore.zoo.readers.ingest import ReadPlan
from wscore.zoo.readers.metadata import TABLES, NamePattern, flattened, join, read_table

FILES_PER_SHARD = 64
RESERVED = ("model_id", "run_id", "layout", "weights")
SHARD = re.compile(r"[-_.]\d{1,6}[-_]of[-_]\d{1,6}(?=\.)")
ZERO = re.compile(r"zero_pp_rank_\d+")  # optimizer and parameters of one process of DeepSpeed
RANK = re.compile(r"mp_rank_\d+")  # a slice of a network over several processes, if there are several
STEP = re.compile(
    r"(?:(?:model|global|training)[-_.]?)?(?:checkpoint|ckpt|step|epoch|iter|iteration)[-_.=]?(\d+)", re.IGNORECASE
)
FIRST = re.compile(r"(?:^|[-_.])(?:init|initial|start|untrained)(?:$|[-_.])", re.IGNORECASE)
USUAL = (
    "model", "pytorch_model", "adapter_model", "flax_model", "checkpoint", "checkpoints", "weights", "state_dict", "ckpt",
)  # fmt: skip


class File(NamedTuple):
    """One checkpoint file and its metadata.

    Attributes:
        path: relative to the folder, with slashes.
        name: of the network: the path without its extension, unless another file has the same.
        run: training run.
        checkpoint: number in the run, or None if unknown.
        metadata: columns.
        rejected: reason why it is not read, or empty.
        detail: of that reason.
        run_from_folder: whether its run is only known from its folder, so that notes in the file take precedence.
    """

    path: str
    name: str
    run: str
    checkpoint: float | None
    metadata: dict[str, Any]
    rejected: str = ""
    detail: str = ""
    run_from_folder: bool = False


def plan_folder(config: ZooConfig) -> ReadPlan:
    """Return how the checkpoints below `zoo.path` are read.

    Raises:
        ConfigError: if `zoo.path` is missing, or a pattern is no pattern.
        DataError: if there is no checkpoint, or the table of metadata is unreadable.
    """
    folder = find_folder(config)
    paths, other_files, unnamed = _checkpoints(folder)
    paths, lone = without_shards(folder, paths)
    rows, late = _metadata(folder, paths, config)
    pattern = _run_pattern(config.run_pattern)
    named = zip(paths, _names(paths), rows, strict=True)
    files = _of_one_run([_named(folder, path, name, row, pattern, config) for path, name, row in named])
    left_out = [file.path for file in files if file.rejected == "no_match"]
    if len(left_out) == len(files):
        where = "zoo.run_pattern"
        raise DataError("fits no checkpoint", where=where, expected=f"a match in paths like {paths[0]}")
    if left_out:
        message = f"{len(left_out)} of {len(files)} checkpoints don't fit zoo.run_pattern and were left out"
        warnings.warn(message, WscoreWarning, stacklevel=2)
    files = [file._replace(**lone.get(file.path, {})) for file in files]
    how = "zoo.run_pattern" if pattern is not None else "their folders (zoo.run_pattern changes this)"
    late += [Rejected(path, "unreadable", "its name is not UTF-8") for path in unnamed]
    return _plan(folder, files, late, config)._replace(others=other_files, runs=how)


def _names(paths: list[str]) -> list[str]:
    """Return the paths without extensions, of files that would share a name with them."""
    endings = ["pth.tar", *(index[1:] for index in INDEX), *(suffix[1:] for suffix in SUFFIXES), "zip"]
    ending = re.compile(r"\.(?:" + "|".join(map(re.escape, endings)) + ")$", re.IGNORECASE)
    short = [ending.sub("", path) for path in paths]
    counts = Counter(short)
    return [name if counts[name] == 1 else path for name, path in zip(short, paths, strict=True)]


def plan_trials(config: ZooConfig) -> ReadPlan:
    """Return how the trials of Ray Tune below `zoo.path` are read, as the model zoos of the field are published.

    A trial is a directory with `params.json`, `result.json` (one JSON object per iteration) and directories
    `checkpoint_<number>` that hold a file `checkpoints` (or `checkpoint.pt`, `model.pt`, ...). The trial is the run; the
    results of an iteration belong to the checkpoint of the same number.

    Raises:
        DataError: if there is no trial.
    """
    folder = find_folder(config)
    trials = sorted(
        {path.parent for path in folder.rglob("params.json")}, key=lambda path: natural_key(path.as_posix())
    )
    listed = [(trial.relative_to(folder).as_posix(), _trial(folder, trial)) for trial in trials]
    files = [file for _, paths in listed for file in paths]
    empty = [Rejected(name, "file_missing", "a trial without checkpoints") for name, paths in listed if not paths]
    if not files:
        expected = "directories with params.json and checkpoint_*/checkpoints"
        raise DataError("no trials of Ray Tune here", where=f"zoo.path={folder}", expected=expected)
    return _plan(folder, files, empty, config)


def find_folder(config: ZooConfig) -> Path:
    """Return `zoo.path` as an existing folder.

    Raises:
        ConfigError: if it is not given.
        DataError: if it does not exist.
    """
    if config.path is None:
        raise ConfigError("is missing", where="zoo.path", expected="the folder of the networks", got="null")
    if not Path(config.path).is_dir():
        raise DataError("no such folder", where=f"zoo.path={config.path}", fix="name the folder of the networks")
    return Path(config.path)


def stamp(paths: list[Path]) -> str:
    """Return a hash of names, sizes and times of files: what was read of them is kept while it is the same."""
    stats = [(path.as_posix(), path.lstat()) for path in paths]
    return content_hash(*(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats))


def natural_key(text: str) -> tuple[list[tuple[int, Any]], str]:
    """Return a key that sorts numbers in names by value, equal ones by their digits."""
    return natural(text), text


def read_files(folder: Path, reading: ReadingConfig, files: list[File]) -> Iterator[RawNetwork | Rejected]:
    """Yield the networks in each file, or why there is none.

    Raises:
        DataError: if `zoo.reading.checkpoint_column` names a value in a file that is no number.
    """
    for file in files:
        if file.rejected:
            yield Rejected(file.path, file.rejected, file.detail)
            continue
        try:
            networks = read_file_networks(folder / file.path, key=reading.state_key, most=reading.max_weights)
        except RejectedError as error:
            yield Rejected(file.path, error.reason, error.detail)
            continue
        for network in networks:
            yield _described(file, network, len(networks) > 1, reading)


def _described(file: File, network: Checkpoint, several: bool, reading: ReadingConfig) -> RawNetwork:
    """Return one network of a file with its run, checkpoint and columns; several of one file share their split."""
    notes = flattened(network.notes)
    run, checkpoint = file.run, file.checkpoint
    if file.run_from_folder and notes.get(reading.run_column or "run_id") is not None:
        run = str(notes[reading.run_column or "run_id"])
    if checkpoint is None and reading.checkpoint_column is not None:
        checkpoint = _number(notes.get(reading.checkpoint_column), file.path)
    remarks = {
        "state_key": network.key,
        "left_out": ", ".join(network.left_out),
        "stubbed": ", ".join(network.stubbed[:16]),
    }
    known = {**notes, **file.metadata, **{name: text for name, text in remarks.items() if text}}
    metadata = {column: value for column, value in known.items() if column not in RESERVED}
    if several:
        metadata["group"] = run
    place = f"#{network.key}" if several else ""
    architecture = str(metadata.pop("architecture", "") or "")
    return RawNetwork(
        f"{file.name}{place}", f"{run}{place}", checkpoint, network.state, metadata, architecture, network.constants
    )


def _plan(folder: Path, files: list[File], late: list[Rejected], config: ZooConfig) -> ReadPlan:
    read = functools.partial(read_files, folder.resolve(), config.reading)
    pieces = [files[start : start + FILES_PER_SHARD] for start in range(0, len(files), FILES_PER_SHARD)]
    known = content_hash(repr(files), stamp([folder / file.path for file in files]), str(folder.resolve()))
    return ReadPlan(read, pieces, late, known, {"source": config.source, "path": str(config.path)})


def _checkpoints(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the paths of all checkpoint files in the order of time, of all other files, and of those that are no text.

    Hidden files are left out.
    """
    all_files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    shown_files = [path for path in all_files if not any(part.startswith(".") for part in path.parts)]
    unnamed = [path for path in shown_files if not _is_text(path)]
    shown_files = [path for path in shown_files if path not in unnamed]
    chosen = [path for path in shown_files if _is_checkpoint(folder / path)]
    if not chosen:
        raise DataError("no checkpoints here", where=f"zoo.path={folder}", expected=f"files *{', *'.join(SUFFIXES)}")
    other_files = {path.as_posix() for path in shown_files} - {path.as_posix() for path in chosen} - set(TABLES)
    paths = sorted((path.as_posix() for path in chosen), key=in_time)
    return paths, sorted(other_files, key=natural_key), sorted(map(printable, unnamed))


def _is_text(path: Path) -> bool:
    """Return whether the bytes of a path are UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_checkpoint(path: Path) -> bool:
    """Return whether a file is named as a checkpoint or an index of shards, or begins as one."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if not path.is_file():
        return False
    try:
        file_kind(path)
    except (RejectedError, OSError, zipfile.BadZipFile):
        return False
    return True


def in_time(path: str) -> tuple[Any, int, Any]:
    """Return a key that sorts paths by folder, and in it initial, numbered and other files (best, last), 2 before 10."""
    parent, _, name = path.rpartition("/")
    numbered = re.search(r"\d", name.partition(".")[0]) or STEP.search(name)
    return natural_key(parent), 0 if FIRST.search(name) else 1 if numbered else 2, natural_key(name)


def without_shards(folder: Path, paths: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the paths without those of shards that an index names, and why lone shards and damaged indices are no networks."""
    members: set[str] = set()
    rejected: dict[str, dict[str, str]] = {}
    for path in (path for path in paths if path.endswith(INDEX)):
        try:
            members |= _shards(folder, path)
        except RejectedError as error:
            rejected[path] = {"rejected": error.reason, "detail": error.detail}
    ranks = Counter(RANK.sub("", path) for path in paths)
    for path in (path for path in paths if path not in members and not path.endswith(INDEX)):
        if fix := _how_to_join(path, ranks):
            rejected[path] = {"rejected": "no_checkpoint", "detail": f"a shard of a network without its index; {fix}"}
    return [path for path in paths if path not in members], rejected


def _how_to_join(path: str, ranks: Mapping[str, int]) -> str:
    """Return how a shard becomes a part of a network; nothing for other files."""
    if ZERO.search(path) or ranks[RANK.sub("", path)] > 1:
        return "join them by zero_to_fp32.py of DeepSpeed"
    if path.endswith(".distcp"):
        return "convert it by dcp_to_torch_save"
    return "put its index (.index.json) beside it" if SHARD.search(path) else ""


def _shards(folder: Path, path: str) -> set[str]:
    """Return the files that an index of shards names."""
    places = {Path(path).with_name(name).as_posix() for name in read_index(folder / path).values()}
    for place in sorted(places):
        if not (folder / place).resolve().is_relative_to(folder.resolve()):
            raise RejectedError("outside", f"{place} leads out of the folder")
    return places


def _metadata(folder: Path, paths: list[str], config: ZooConfig) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Return the columns of every file, from its name and from the table, and the rows without a file."""
    template = config.reading.name_pattern
    pattern = None if template is None else NamePattern(template)
    rows: list[dict[str, Any]] = [{} if pattern is None else pattern.read(path) for path in paths]
    left_out = sum(not row for row in rows) if pattern is not None else 0
    if left_out == len(rows):
        raise DataError(
            "fits no checkpoint", where="zoo.reading.name_pattern", expected=f"a match in paths like {paths[0]}"
        )
    if left_out:
        message = (
            f"{left_out} of {len(rows)} checkpoints don't match zoo.reading.name_pattern and get no columns from it"
        )
        warnings.warn(message, WscoreWarning, stacklevel=2)
    table = read_table(folder)
    if table is None:
        return rows, []
    joined, unused = join(paths, table[1], table[0])
    late = [Rejected(name, "file_missing", f"named in {table[0].name}") for name in unused]
    return [{**row, **more} for row, more in zip(rows, joined, strict=True)], late


def _named(
    folder: Path, path: str, name: str, row: dict[str, Any], pattern: re.Pattern[str] | None, config: ZooConfig
) -> File:
    """Return a file with its run and checkpoint: from the pattern, from metadata, else from its folder."""
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        return File(path, name, "", None, {}, "outside", f"leads to {(folder / path).resolve()}")
    if not (folder / path).is_file():  # a pipe would be waited for without end
        return File(path, name, "", None, {}, "unreadable", "no regular file")
    reading = config.reading
    parent, step = _folder_of_run(path)
    run = row.get(reading.run_column or "run_id")
    number = row.get(reading.checkpoint_column or "checkpoint", step)
    if pattern is not None:
        match = pattern.search(path)
        if match is None or match["run"] is None:
            return File(path, name, "", None, {}, "no_match", pattern.pattern)
        run, number = match["run"], match.groupdict().get("checkpoint") or number
    named = run if run is not None else parent if parent != "." else Path(path).stem
    metadata = {column: value for column, value in row.items() if column not in ("run_id", "checkpoint")}
    return File(path, name, str(named), _number(number, path), metadata, run_from_folder=run is None)


def _folder_of_run(path: str) -> tuple[str, int | None]:
    """Return what the folders of a file say of its run, and its time in it if there is a folder for each step.

    Of `run0/checkpoint-500/model.safetensors` the run is `run0`; an unusual file name is added to it.
    """
    place = Path(path)
    step = STEP.fullmatch(place.parent.name)
    if step is None:
        return place.parent.as_posix(), None
    stem = place.name.partition(".")[0]
    parts = [*place.parent.parent.parts, *([] if stem.lower() in USUAL else [stem])]
    return "/".join(parts) or "run", int(step[1])


def _of_one_run(files: list[File]) -> list[File]:
    """Return files where `model.safetensors` beside `checkpoint-500/model.safetensors` belongs to the run of the latter."""
    if not any(STEP.fullmatch(file.path.partition("/")[0]) and "/" in file.path for file in files):
        return files
    last = {file.path for file in files if file.run_from_folder and file.path.partition(".")[0].lower() in USUAL}
    return [file._replace(run="run") if file.path in last else file for file in files]


def _number(value: Any, path: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError("the checkpoint of a run is no number", where=path, expected="a number", got=value) from None


def _run_pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError("is no regular expression", where="zoo.run_pattern", got=f"{text!r}: {error}") from error
    if "run" not in pattern.groupindex:
        expected = "such as (?P<run>.+)/epoch_(?P<checkpoint>[0-9]+)"
        raise ConfigError("has no group `run`", where="zoo.run_pattern", expected=expected, got=text)
    return pattern


def _trial(folder: Path, trial: Path) -> list[File]:
    """Return the checkpoints of one trial, with its configuration and the results of each iteration."""
    name = trial.relative_to(folder).as_posix()
    paths = [_content(path) for path in trial.glob("checkpoint_*")]
    paths = sorted((path for path in paths if path is not None), key=lambda path: natural_key(path.as_posix()))
    try:
        given = flattened(json.loads((trial / "params.json").read_text(encoding="utf-8")))
        results = _results(trial / "result.json")
    except BROKEN as error:
        detail = f"params.json or result.json: {shown(error)}"
        places = [path.relative_to(folder).as_posix() for path in paths]
        return [File(place, place, "", None, {}, "unreadable", detail) for place in places]
    files = []
    for path in paths:
        number = int(re.findall(r"\d+", path.relative_to(trial).parts[0])[-1])
        inside = path.resolve().is_relative_to(folder.resolve())
        rejected = ("", "") if inside else ("outside", f"leads to {path.resolve()}")
        metadata = {**given, **results.get(number, {})}
        place = path.relative_to(folder).as_posix()
        files.append(File(place, _names([place])[0], name, number, metadata, *rejected))
    return files


def _content(path: Path) -> Path | None:
    """Return the file that holds the weights of a checkpoint directory of Ray Tune."""
    if path.is_file():
        return path
    names = ("checkpoints", "checkpoint", "checkpoint.pt", "model.pt", "model.pth", "checkpoint.pth", "state_dict.pt")
    return next((path / name for name in names if (path / name).is_file()), None)


def _results(path: Path) -> dict[int, dict[str, Any]]:
    """Return the measured columns of each iteration; the nested copy of the configuration is left out."""
    results: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for place, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            if place == len(lines) - 1:
                break  # a trial that was stopped while it wrote
            raise
        if isinstance(row, Mapping):
            measured = {key: value for key, value in row.items() if key not in ("config", "node_ip", "hostname", "pid")}
            results[int(row.get("training_iteration", place + 1))] = flattened(measured)
    return results
