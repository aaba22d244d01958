"""Storage of a zoo: parquet shards (one row = one checkpoint of one network) and layouts as JSON.

zoo/
  rows/part-00000.parquet   one row per checkpoint: REQUIRED columns, `weights` as list<float32>, any metadata
  layouts.json              {layout identity: {"tensors": [...], "counters": {...}}}
  source.json               origin of imported networks
  set_aside.csv             excluded networks, with reasons
  rebuilding.csv            which imported networks can be rebuilt, and why others can't
  accuracy.csv              stated accuracies of imported networks next to those measured on the images of section data
  constants.json            masks and index tables of imported networks, stored in constants.safetensors
  README.md                 card that lets `datasets.load_dataset("zoo")` and pandas read the rows
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.errors import DataError
from wscore.io import atomic_file, hash_folder, read_tensors, write_csv, write_json, write_text
from wscore.late import pd
from wscore.lru import Recent
from wscore.networks.layout import Layout, read_layouts
from wscore.networks.records import Rejected

ROW_GROUP = 256  # rows read at once, fewer for large networks
WEIGHTS_PER_GROUP = 1 << 24
REMEMBERED = 1 << 24  # weights of row groups that stay in memory: networks of one layout lie in many groups
EXCLUDED = "set_aside.csv"  # the name in zoos of every version
OTHERS = "other_files.csv"  # files of a source that are not checkpoints
CONSTANTS = "constants.safetensors"
REQUIRED = ("model_id", "run_id", "checkpoint", "layout", "architecture")
CARD = """---
configs:
- config_name: default
  data_files: rows/*.parquet
---
# A zoo of trained networks

One row is one checkpoint. `weights` is the flat float32 vector; `layout` names the entry of `layouts.json` that says
which tensor lies where; `architecture` is the JSON description from which `wscore.networks.architectures.build` makes the
network again. Checkpoints of one training run share `run_id`.
"""


class Weights(NamedTuple):
    """Reader of the weights of a zoo without its metadata; can be sent to any process that sees the same files.

    Attributes:
        parts: parquet files, as absolute paths.
        groups: (groups, 3): part, number within the part and first row of every row group.
        total: number of rows.
    """

    parts: tuple[Path, ...]
    groups: Int[np.ndarray, "groups 3"]
    total: int

    def stream(self, start: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row number, weights (D,) float32) of the rows from `start` up to `end`, one row group at a time."""
        following = [*self.groups[1:, 2].tolist(), self.total]
        for (part, group, first), last in zip(self.groups.tolist(), following, strict=True):
            if first < end and last > start:
                for shift, vector in enumerate(_read_group(self.parts[part], group)):
                    if start <= first + shift < end:
                        yield first + shift, vector

    def weights(self, rows: Sequence[int] | np.ndarray) -> Float[np.ndarray, "rows weights"]:
        """Return the weights (n, D) of rows that share one layout, in the given order.

        Raises:
            DataError: if the rows have different numbers of weights.
        """
        wanted: dict[int, list[int]] = {}
        for place, row in enumerate(np.asarray(rows, dtype=int)):
            wanted.setdefault(int(np.searchsorted(self.groups[:, 2], row, side="right")) - 1, []).append(place)
        matrix: np.ndarray | None = None
        for number, places in wanted.items():
            part, group, first = self.groups[number].tolist()
            content = _read_group(self.parts[part], group)
            for place in places:
                vector = content[int(rows[place]) - first]
                if matrix is None:
                    matrix = np.empty((len(rows), vector.size), np.float32)
                if vector.size != matrix.shape[1]:
                    sizes, folder = sorted({vector.size, matrix.shape[1]}), self.parts[part].parent.parent
                    raise DataError("rows of different layouts can't be read together", where=folder, got=sizes)
                matrix[place] = vector  # a copy, so that the row group can be freed
        return np.zeros((0, 0), np.float32) if matrix is None else matrix


class Zoo:
    """A zoo of networks, read lazily: metadata is one table in memory, weights stay on disk until needed.

    Attributes:
        table: metadata of all rows, without weights, in the order of the files; its index is the row number 0..N-1.
        layouts: layout of each identity.
    """

    def __init__(self, folder: Path | str) -> None:
        """Open a zoo folder.

        Raises:
            DataError: if the folder, its layouts or a required column is missing, or it has no rows.
        """
        self.folder = Path(folder)
        self.parts = sorted((self.folder / "rows").glob("*.parquet"))
        if not self.parts:
            raise DataError(
                "no zoo here: rows/*.parquet is missing", where=self.folder, fix="run `dvc repro fetch_zoo`"
            )
        self.layouts = read_layouts(self.folder / "layouts.json")
        self.table = pd.concat([read_metadata(part) for part in self.parts], ignore_index=True)
        missing = [name for name in REQUIRED if name not in self.table]
        if missing:
            raise DataError("columns are missing", where=self.folder / "rows", expected=REQUIRED, got=missing)
        if self.table.empty:
            raise DataError("the zoo is empty", where=self.folder, expected="at least one network")

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def identity(self) -> str:
        """Hash of the folder's content."""
        return hash_folder(self.folder)

    @cached_property
    def reader(self) -> Weights:
        """Reader of the weights only, small enough to send to a worker."""
        groups, first = [], 0
        for number, part in enumerate(self.parts):
            meta = _open(part).metadata
            for group in range(meta.num_row_groups):
                groups.append((number, group, first))
                first += meta.row_group(group).num_rows
        return Weights(tuple(part.absolute() for part in self.parts), np.array(groups, np.int64), first)

    def excluded(self) -> pd.DataFrame:
        """Return the excluded networks: columns model_id, reason and detail."""
        path = self.folder / EXCLUDED
        return pd.read_csv(path) if path.is_file() else pd.DataFrame({"model_id": [], "reason": [], "detail": []})

    def constants(self, row: int) -> dict[str, Tensor]:
        """Return the masks and index tables of one network by name; empty if it has none or they were not stored."""
        key = str(self.table["constants"].iloc[row]) if "constants" in self.table else ""
        return dict(self._constants.get(key, {}))

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """Return the state dict of one network: weights in float32, counters as zeros, and what `constants` returns."""
        layout = self.layout(row)
        return {**layout.unflatten(torch.from_numpy(self.weights([row])[0].copy())), **self.constants(row)}

    @cached_property
    def _constants(self) -> dict[str, dict[str, Tensor]]:
        sets: dict[str, dict[str, Tensor]] = {}
        path = self.folder / CONSTANTS
        for name, tensor in (read_tensors(path) if path.is_file() else {}).items():
            key, _, tensor_name = name.partition("/")
            sets.setdefault(key, {})[tensor_name] = tensor
        return sets

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """Return the state dict of one network, so that `for state in zoo` gives all of them.

        Raises:
            IndexError: if there is no such row.
        """
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a zoo of {len(self)} networks")
        return self.state_dict(row % len(self))

    def row_of(self, model_id: str) -> int:
        """Return the row of a network.

        Raises:
            DataError: if there is none, or several have this id.
        """
        rows = (self.table["model_id"].astype(str) == model_id).to_numpy().nonzero()[0]
        if len(rows) != 1:
            known = ", ".join(self.table["model_id"].astype(str).head(3))
            expected = f"a model_id such as {known}"
            raise DataError("no such network in the zoo", where=self.folder, expected=expected, got=model_id)
        return int(rows[0])

    def layout(self, row: int) -> Layout:
        """Return the layout of one row."""
        return self.layouts[str(self.table["layout"].iloc[row])]

    def stream(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row number, weights (D,) float32) of rows `start` to `end` (default: all), one row group at a time."""
        return self.reader.stream(start, len(self) if end is None else end)

    def weights(self, rows: Sequence[int] | np.ndarray) -> Float[np.ndarray, "rows weights"]:
        """Return the weights (n, D) of rows that share one layout, in the given order.

        Raises:
            DataError: if the rows have different numbers of weights.
        """
        return self.reader.weights(rows)

    def last_checkpoints(self, rows: Int[np.ndarray, " rows"] | None = None) -> Int[np.ndarray, " runs"]:
        """Return the row of the last checkpoint of each run among the given rows (default: all), in ascending order."""
        table = self.table if rows is None else self.table.iloc[rows]
        return np.sort(table.groupby("run_id", sort=False)["checkpoint"].idxmax().to_numpy())

    def families(self) -> Iterator[tuple[str, Layout, np.ndarray]]:
        """Yield (architecture JSON, layout, row numbers) of every set of rows that differ in their weights only."""
        for key, rows in self.table.groupby(["architecture", "layout"], sort=True):
            architecture, layout = cast(tuple[str, str], key)
            yield architecture, self.layouts[layout], rows.index.to_numpy()


def write_part(path: Path, table: pd.DataFrame, weights: Iterable[np.ndarray]) -> None:
    """Write one parquet shard atomically: metadata columns plus `weights`, in row groups of at most `ROW_GROUP`.

    Raises:
        OSError: naming the shard, if it can't be written, for example because the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = [np.ascontiguousarray(vector, dtype=np.float32) for vector in weights]
    offsets = np.cumsum([0, *(vector.size for vector in vectors)], dtype=np.int64)
    flat = np.concatenate(vectors) if vectors else np.zeros(0, np.float32)
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
    content = pa.Table.from_pandas(table.reset_index(drop=True), preserve_index=False)
    content = content.append_column("weights", column)
    texts = [name for name in table.columns if pd.api.types.is_string_dtype(table[name])]
    dictionary: Any = texts  # pyarrow's annotation allows only bool
    group = max(1, min(ROW_GROUP, WEIGHTS_PER_GROUP // max([1, *(vector.size for vector in vectors)])))
    try:
        with atomic_file(path) as temporary:
            pq.write_table(content, temporary, row_group_size=group, use_dictionary=dictionary, compression="zstd")
    except OSError as error:
        if not error.errno or error.filename:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write_excluded(folder: Path, rejected: Sequence[Rejected]) -> None:
    """Write the list of excluded networks, with reasons."""
    write_csv(folder / EXCLUDED, {name: [getattr(item, name) for item in rejected] for name in Rejected._fields})


def write_layouts(folder: Path, layouts: Iterable[Layout]) -> None:
    """Write layouts.json and the card of a zoo folder."""
    entries = {layout.identity: msgspec.to_builtins(layout) for layout in layouts}
    write_json(folder / "layouts.json", dict(sorted(entries.items())))
    write_text(folder / "README.md", CARD)


def read_part(path: Path) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Return the metadata and the weights of all rows of one shard.

    Raises:
        DataError: if the file is not readable.
    """
    table = read_metadata(path)
    groups = range(_open(path).metadata.num_row_groups)
    return table, [vector for group in groups for vector in _read_group(path, group)]


def is_whole(path: Path) -> bool:
    """Return whether a shard is complete."""
    try:
        _open(path).close()
    except (OSError, ValueError):  # ArrowInvalid is a ValueError
        return False
    return True


def count_rows(path: Path) -> int:
    """Return the number of rows of a shard."""
    return _open(path).metadata.num_rows


def read_metadata(part: Path) -> pd.DataFrame:
    """Return all columns of one shard except the weights.

    Raises:
        DataError: if the file is not readable.
    """
    try:
        file = _open(part)
        names = [name for name in file.schema_arrow.names if name != "weights"]
        return _with_names(file.read(columns=names).to_pandas(), file.schema_arrow.metadata)
    except _broken() as error:
        raise _unreadable(part, error) from error


def _open(part: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(part)


def _broken() -> tuple[type[Exception], ...]:
    """Return the errors raised for damaged parquet files."""
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError


def _unreadable(part: Path, error: Exception) -> DataError:
    return DataError("is not a readable parquet file", where=part, got=str(error)[:200], fix="fetch the zoo again")


def _with_names(table: pd.DataFrame, metadata: dict[bytes, bytes] | None) -> pd.DataFrame:
    """Return a table with class labels of a Hub data set, stored there as integers, replaced by their names."""
    description = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    for name, kind in description.get("info", {}).get("features", {}).items():
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and name in table:
            names = dict(enumerate(kind["names"]))
            table[name] = table[name].map(names.get, na_action="ignore").astype(object)
    return table


RECENT: Recent[list[np.ndarray]] = Recent(REMEMBERED)


def _read_group(part: Path, group: int) -> list[np.ndarray]:
    """Return the vectors of one row group as read-only views of one array; reads lists of any type and precision.

    Raises:
        DataError: if the file is damaged there.
    """
    try:
        status = part.stat()
        key = f"{group} {status.st_size} {status.st_mtime_ns} {status.st_ino} {part}"
        return RECENT.get(key, lambda: _decode_group(part, group), size=lambda vectors: sum(map(len, vectors)))
    except _broken() as error:
        raise _unreadable(part, error) from error


def _decode_group(part: Path, group: int) -> list[np.ndarray]:
    import pyarrow as pa

    column = _open(part).read_row_group(group, columns=["weights"]).column("weights")
    array = column.cast(pa.large_list(pa.float32())).combine_chunks()
    lists = array if isinstance(array, pa.LargeListArray) else array.chunk(0)
    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    return [values[start:end] for start, end in itertools.pairwise(offsets)]
