"""Checkpoints of your own as a zoo: a folder of state dicts, with metadata from a table beside them."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.io import atomic_folder, read_tensors
from wscore.zoo.architectures import parse
from wscore.zoo.config import ZooConfig
from wscore.zoo.layout import Layout, layout_of
from wscore.zoo.store import write_layouts, write_part

SUFFIXES = (".pt", ".pth", ".safetensors", ".npz")
WRAPPERS = ("state_dict", "model_state_dict", "model")
METADATA = "metadata.csv"
OURS = ("model_id", "layout", "n_weights", "has_conv_layers", "has_batch_norm")
FILES_PER_PART = 1024
UnpicklingError = torch.serialization.pickle.UnpicklingError  # pyright: ignore[reportPrivateImportUsage]


class Found(NamedTuple):
    """One checkpoint file.

    Attributes:
        path: relative to the folder, with slashes.
        run: what it belongs to.
        checkpoint: number in the run, or None where the name does not say.
    """

    path: str
    run: str
    checkpoint: int | None


def read_folder(config: ZooConfig, out: Path) -> None:
    """Write the zoo made of all `.pt`, `.pth`, `.safetensors` and `.npz` state dicts below `zoo.path`.

    A `metadata.csv` in that folder adds its columns to the rows whose path (or, where that is unique, file name) stands
    in its column `file`; a column `architecture` holds JSON for `wscore.zoo.architectures.parse`.

    Raises:
        ConfigError: if `zoo.path` is missing or `zoo.run_pattern` is no regular expression with a group `run`.
        DataError: naming the file, if there is none, or one is unreadable or holds something else than finite weights.
    """
    folder = _folder(config.path)
    found = _numbered(_find(folder, _pattern(config.run_pattern)))
    table = _table(found, folder)
    layouts: dict[str, Layout] = {}
    with atomic_folder(out) as temporary:
        for part, start in enumerate(range(0, len(table), FILES_PER_PART)):
            rows = table.iloc[start : start + FILES_PER_PART]
            states = [read_state(folder / item.path) for item in found[start : start + FILES_PER_PART]]
            held = [layout_of(state) for state in states]
            weights = [layout.flatten(state) for layout, state in zip(held, states, strict=True)]
            write_part(temporary / "rows" / f"part-{part:05d}.parquet", _described(rows, held), weights)
            layouts.update({layout.identity: layout for layout in held})
        write_layouts(temporary, layouts.values())


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint file, checked to hold finite numbers.

    Raises:
        DataError: naming the file and the tensor, if it is unreadable, holds something else, or a number is not finite.
    """
    try:
        content = _READERS[path.suffix](path)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, BadZipFile, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError("is not a readable checkpoint", where=path, got=reason or type(error).__name__) from error
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise DataError("holds no state dict", where=path, expected="tensors by name", got=type(content).__name__)
    state = {str(name): value for name, value in content.items()}
    _check(state, path)
    return state


def _check(state: Mapping[str, Any], path: Path) -> None:
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_complex() or value.is_sparse:
            kind = type(value).__name__ if not isinstance(value, Tensor) else str(value.dtype)
            raise DataError("holds something else than real tensors", where=f"{path}: {name}", got=kind)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise DataError(
                "holds numbers that are not finite", where=f"{path}: {name}", got=f"{count} of {value.numel()}"
            )
    if not any(value.is_floating_point() and value.numel() for value in state.values()):
        raise DataError("holds no weights", where=path, expected="floating-point tensors", got=sorted(state))


def _folder(path: str | None) -> Path:
    if path is None:
        raise ConfigError("is missing", where="zoo.path", expected="the folder of your checkpoints", got="null")
    if not Path(path).is_dir():
        raise DataError("no such folder", where=f"zoo.path={path}", fix="name the folder of your checkpoints")
    return Path(path)


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError("is no regular expression", where="zoo.run_pattern", got=f"{text!r}: {error}") from error
    if "run" not in pattern.groupindex:
        raise ConfigError(
            "has no group `run`",
            where="zoo.run_pattern",
            expected="such as (?P<run>.+)/epoch_(?P<checkpoint>[0-9]+)",
            got=text,
        )
    return pattern


def _find(folder: Path, pattern: re.Pattern[str] | None) -> list[Found]:
    """Return the checkpoint files in natural order (2 before 10); those that the pattern does not fit are left out."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    paths = sorted((path for path in paths if not any(part.startswith(".") for part in path.parts)), key=_natural)
    if not paths:
        raise DataError("no checkpoints here", where=f"zoo.path={folder}", expected=f"files *{', *'.join(SUFFIXES)}")
    found = [item for path in paths if (item := _named(path, pattern)) is not None]
    if not found:
        raise DataError(
            "fits no checkpoint", where="zoo.run_pattern", expected=f"a match in paths like {paths[0].as_posix()}"
        )
    if len(found) < len(paths):
        message = f"{len(paths) - len(found)} of {len(paths)} checkpoints don't fit zoo.run_pattern and were left out"
        warnings.warn(message, WscoreWarning, stacklevel=2)
    return found


def _named(path: Path, pattern: re.Pattern[str] | None) -> Found | None:
    if pattern is None:
        run = path.parent.as_posix() if path.parent.parts else path.stem
        return Found(path.as_posix(), run, None)
    match = pattern.search(path.as_posix())
    if match is None or match["run"] is None:
        return None
    number = match.groupdict().get("checkpoint")
    if number is not None and not number.isdecimal():
        raise DataError("the group `checkpoint` of zoo.run_pattern is no number", where=path.as_posix(), got=number)
    return Found(path.as_posix(), match["run"], None if number is None else int(number))


def _numbered(found: list[Found]) -> list[Found]:
    """Return the files with every checkpoint numbered; those without a number are counted within their run."""
    seen: dict[tuple[str, int], str] = {}
    numbered = []
    counts: dict[str, int] = {}
    for item in found:
        count = counts[item.run] = counts.get(item.run, -1) + 1
        number = count if item.checkpoint is None else item.checkpoint
        first = seen.setdefault((item.run, number), item.path)
        if first != item.path:
            where = f"run {item.run}, checkpoint {number}"
            raise DataError(
                "two files are the same checkpoint", where=where, expected="one", got=f"{first}, {item.path}"
            )
        numbered.append(item._replace(checkpoint=number))
    return numbered


def _table(found: list[Found], folder: Path) -> pd.DataFrame:
    """Return one row per file with the columns of metadata.csv, and an empty `architecture` where it says nothing."""
    table = pd.DataFrame({
        "model_id": [Path(item.path).with_suffix("").as_posix() for item in found],
        "run_id": [item.run for item in found],
        "checkpoint": [item.checkpoint for item in found],
    })  # fmt: skip
    path = folder / METADATA
    if path.is_file():
        keys = [item.path for item in found]
        table = pd.concat([table, _joined(keys, _read_metadata(path), path)], axis=1)
    known = table["architecture"].fillna("") if "architecture" in table else ""
    table["architecture"] = known
    for text in {str(text) for text in table["architecture"]} - {""}:
        parse(text)
    return table


def _read_metadata(path: Path) -> pd.DataFrame:
    try:
        content = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise DataError("is not a readable table", where=path, got=error) from error
    if "file" not in content:
        raise DataError(
            "has no column `file`", where=path, expected="paths or names of checkpoint files", got=list(content)
        )
    taken = [name for name in content if name in (*OURS, "weights", "run_id", "checkpoint")]
    if taken:
        raise DataError("has columns that are told from the files", where=path, got=taken, fix="rename or remove them")
    content["file"] = content["file"].astype(str)
    if content["file"].duplicated().any():
        raise DataError("names a file twice", where=path, got=content.loc[content["file"].duplicated(), "file"].iloc[0])
    return content


def _joined(paths: list[str], content: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the row of each file, told from its path or, where no other has it, from its name."""
    counts = Counter(Path(name).name for name in paths)
    known = {str(name) for name in content["file"]}
    keys = [name if name in known or counts[Path(name).name] > 1 else Path(name).name for name in paths]
    for count, what in (
        (len(set(keys) - known), "checkpoints without a row"),
        (len(known - set(keys)), "rows without a file"),
    ):
        if count:
            warnings.warn(f"{path}: {count} {what}", WscoreWarning, stacklevel=2)
    return content.set_index("file").reindex(keys).reset_index(drop=True)


def _described(rows: pd.DataFrame, layouts: list[Layout]) -> pd.DataFrame:
    kinds = [{spec.kind for spec in layout.tensors} for layout in layouts]
    return rows.assign(
        layout=[layout.identity for layout in layouts],
        n_weights=[layout.size for layout in layouts],
        has_conv_layers=["conv" in found for found in kinds],
        has_batch_norm=["running_mean" in found for found in kinds],
    )


def _natural(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Return a key under which 2 comes before 10; 02 and 2 are told apart by the text."""
    text = path.as_posix()
    parts = re.split(r"(\d+)", text)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], text


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_npz(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
        return {name: torch.from_numpy(np.asarray(content[name])) for name in content.files}


_READERS = {".pt": _read_torch, ".pth": _read_torch, ".safetensors": read_tensors, ".npz": _read_npz}
