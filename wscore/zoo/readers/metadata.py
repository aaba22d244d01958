"""What is known about checkpoints besides their weights: a table beside the files, and the names of the files."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.networks.checkpoints import shown

TABLES = ("metadata.csv", "metadata.json", "metadata.jsonl", "metadata.parquet")
OURS = ("model_id", "layout", "n_weights", "weights", "dtype")
FIELD = re.compile(r"\{(\w+)(?::[\d.]*([dfs]))?\}")
PATTERNS = {"d": r"[-+]?\d+", "f": r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", "s": r"[^/]+?"}


class NamePattern:
    """Reads columns from the path of a file.

    Args:
        text: a template such as `epoch_{epoch:d}_acc_{accuracy:f}` (d: whole number, f: number, s or nothing: text; widths
            as in {epoch:03d} are ignored), or a regular expression with named groups; it may fit any part of the path
            without its extension.

    Raises:
        ConfigError: if it names no column or is no regular expression.
    """

    def __init__(self, text: str) -> None:
        where = "zoo.reading.name_pattern"
        self.kinds: dict[str, str] = {name: kind or "s" for name, kind in FIELD.findall(text)}
        source = text
        if self.kinds and "(?P<" not in text:
            pieces = FIELD.split(text)  # text, name, kind, text, ...
            source = re.escape(pieces[0])
            for place in range(1, len(pieces), 3):
                source += f"(?P<{pieces[place]}>{PATTERNS[pieces[place + 1] or 's']})" + re.escape(pieces[place + 2])
            last = pieces[-2] or "s"
            source += "$" if not pieces[-1] and last == "s" else ""
        try:
            self.pattern = re.compile(source)
        except re.error as error:
            raise ConfigError("is no pattern", where=where, got=f"{text!r}: {error}") from error
        if not self.pattern.groupindex:
            expected = "such as epoch_{epoch:d}_acc_{accuracy:f}, or a group (?P<epoch>\\d+)"
            raise ConfigError("names no column", where=where, expected=expected, got=text)

    def read(self, path: str) -> dict[str, Any]:
        """Return the columns in a path; none where it does not fit."""
        stem, dot, extension = path.rpartition(".")
        match = self.pattern.search(stem if dot and extension.isalnum() and not extension.isdecimal() else path)
        if match is None:
            return {}
        return {
            name: _value(text, self.kinds.get(name)) for name, text in match.groupdict().items() if text is not None
        }


def _value(text: str, kind: str | None) -> Any:
    if kind == "s":
        return text
    if re.fullmatch(r"[-+]?\d+", text) and kind != "f":
        return int(text)
    return float(text) if re.fullmatch(PATTERNS["f"], text) else text


def read_table(folder: Path) -> tuple[Path, pd.DataFrame] | None:
    """Return the table beside checkpoints and its path; its column `file` names a file by path or by name.

    `metadata.json` is a list of rows, or a mapping from files to rows.

    Raises:
        DataError: if there are two, or the table is unreadable, has no column `file`, or names a file twice.
    """
    paths = [folder / name for name in TABLES if (folder / name).is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        raise DataError("two tables of metadata", where=folder, expected="one", got=[path.name for path in paths])
    path = paths[0]
    content = _parsed(path)
    if "file" not in content:
        known = [str(name) for name in content][:12]
        raise DataError("has no column `file`", where=path, expected="paths or names of checkpoint files", got=known)
    taken = [name for name in content if name in OURS]
    if taken:
        raise DataError("has columns that are read from the files", where=path, got=taken, fix="rename or remove them")
    content["file"] = [_relative(folder, str(name)) for name in content["file"]]
    if content["file"].duplicated().any():
        raise DataError("names a file twice", where=path, got=content.loc[content["file"].duplicated(), "file"].iloc[0])
    return path, content


def _relative(folder: Path, name: str) -> str:
    """Return the path of a file in the folder with slashes, also one from Windows, or one with the folder before it."""
    name = name.replace("\\", "/")
    if name.startswith("/") and Path(name).is_relative_to(folder.absolute()):
        return Path(name).relative_to(folder.absolute()).as_posix()
    return name.removeprefix("./")


def _parsed(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype={"file": str})  # 0001 is a name
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        text = path.read_text(encoding="utf-8")
        rows = _json_rows(text, lines=path.suffix == ".jsonl")
    except (ValueError, OSError, pa.ArrowInvalid, RecursionError) as error:
        raise DataError("is not a readable table", where=path, got=shown(error)) from error
    return pd.DataFrame(rows)


def _json_rows(text: str, *, lines: bool) -> list[dict[str, Any]]:
    content = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    if isinstance(content, dict):
        content = [{"file": name, **row} if isinstance(row, dict) else row for name, row in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("expected a list of rows, or rows by file")
    return content


def join(paths: Sequence[str], table: pd.DataFrame, path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the row of each file, and the files that the table names in vain.

    A file is identified by its path or, if that is unique, its name; both also without extension.

    Raises:
        DataError: if two rows name a file, with and without its extension.
    """
    names = [Path(name).name for name in paths]
    keys = [[name, name.rpartition(".")[0] or name] for name in paths]
    shorter = [[name, name.rpartition(".")[0] or name] for name in names]
    counts = Counter(key for pair in shorter for key in set(pair))
    rows = {str(row["file"]): row for row in table.to_dict("records")}
    joined, used = [], set()
    for full, short in zip(keys, shorter, strict=True):
        if full[0] != full[1] and set(full) <= rows.keys():
            raise DataError("names a file twice", where=path, got=full)
        wanted = [*full, *(key for key in short if counts[key] == 1)]
        key = next((key for key in wanted if key in rows), None)
        joined.append({} if key is None else present(rows[key]))
        used.add(key)
    missing = sum(not row for row in joined)
    if missing:
        warnings.warn(f"{path}: {missing} checkpoints without a row", WscoreWarning, stacklevel=2)
    return joined, sorted(set(rows) - used)


def present(row: dict[Any, Any]) -> dict[str, Any]:
    """Return the entries of a row that hold something, as plain Python values."""
    plain = {str(name): plain_value(value) for name, value in row.items() if str(name) != "file"}
    return {name: value for name, value in plain.items() if value is not None}


def plain_value(value: Any) -> Any:
    """Return a number, truth value, text or list as Python has it; None for what is missing or not finite."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return None if value is pd.NA or value is pd.NaT else str(value)


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, names joined by underscores; lists of numbers become one column each.

    Lists of texts stay lists: they become one column of truth values for each text that occurs.
    """
    if isinstance(value, dict):
        result: dict[str, Any] = {}
        for name, item in value.items():
            key = re.sub(r"\W+", "_", str(name)).strip("_") or "value"
            result |= flattened(item, f"{prefix}_{key}" if prefix else key)
        return result
    name, plain = prefix or "value", plain_value(value)
    if isinstance(plain, list):
        if all(isinstance(item, str) for item in plain):
            return {name: plain}
        return {
            f"{name}_{place}": item for place, item in enumerate(plain) if isinstance(item, bool | int | float | str)
        }
    return {} if plain is None else {name: plain}


class MetadataColumns:
    """The columns that rows of metadata make together; rows are added first and then laid out, all or some at once.

    Numbers, truth values and texts stay what they are; a column of several types becomes text; a list of texts becomes
    one truth value per text that occurs anywhere.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, set[type]] = {}
        self.texts: dict[str, set[str]] = {}
        self.counts: Counter[str] = Counter()
        self.rows = 0

    def add(self, row: dict[str, Any]) -> None:
        """Take the types of one row into account."""
        self.rows += 1
        for name, value in row.items():
            if value is None:
                continue
            self.counts[name] += 1
            kind = (
                float if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63 else type(value)
            )
            self.kinds.setdefault(name, set()).add(kind)
            if isinstance(value, list):
                self.texts.setdefault(name, set()).update(str(item) for item in value)

    def table(self, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
        """Return some of the rows that were added, with the columns of all of them."""
        columns: dict[str, Any] = {}
        for name in self.kinds:
            values = [row.get(name) for row in rows]
            if name in self.texts:
                for text in sorted(self.texts[name]):
                    key = f"{name}_{re.sub(r'[^0-9A-Za-z]+', '_', text).strip('_')}"
                    columns[key] = [isinstance(value, list) and text in value for value in values]
            else:
                columns[name] = self._laid_out(name, values)
        return pd.DataFrame(columns, index=range(len(rows)))

    def _laid_out(self, name: str, values: list[Any]) -> Any:
        kinds, complete = self.kinds[name], self.counts[name] == self.rows
        if kinds <= {bool} and complete:
            return np.array(values, bool)
        if kinds == {int} and complete:
            return np.array(values, np.int64)
        if kinds <= {int, float} or kinds == {bool}:
            return np.array([np.nan if value is None else value for value in values], float)
        return pd.array([None if value is None else str(value) for value in values], dtype="str")
