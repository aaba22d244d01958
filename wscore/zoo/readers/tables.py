"""Tables of networks, local or from the Hub: columns are mapped by parameters, rows are read some at a time."""

import contextlib
import functools
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from wscore.errors import ConfigError, DataError
from wscore.hub.client import download_zoo
from wscore.io import content_hash
from wscore.networks.checkpoints import BROKEN, HARMLESS_SIZE, RATIO, shown
from wscore.networks.records import RawNetwork, Rejected, RejectedError
from wscore.networks.selection import only, select_all
from wscore.zoo.config import ColumnsConfig, ReadingConfig, ZooConfig
from wscore.zoo.readers.flat_vectors import split_vector
from wscore.zoo.readers.folder import find_folder, stamp
from wscore.zoo.readers.ingest import ReadPlan
from wscore.zoo.readers.metadata import flattened, plain_value, present
from wscore.zoo.store import Zoo

ROWS_PER_SHARD = 512
BATCH = 16  # rows in memory at once


class Piece(NamedTuple):
    """Consecutive row groups of a parquet file; `first` is the number of their first row in the whole table."""

    file: str
    groups: tuple[int, ...]
    first: int


def plan_hub(config: ZooConfig) -> ReadPlan:
    """Return how a data set on the Hub, or a local copy of one, is read: a zoo of ours, or a table in parquet files.

    Raises:
        ConfigError: if `zoo.path` is missing, or a column that is named does not exist.
        DataError: if the Hub can't be reached, has no such data set, or it holds no parquet file.
    """
    if config.path is None:
        expected = "a data set id on the Hub or a local copy"
        raise ConfigError("is missing", where="zoo.path", expected=expected, got="null")
    local = Path(config.path)
    folder = local if local.is_dir() else download_zoo(config.path, config.revision)
    origin = {"source": "hub", "path": config.path}
    if folder is not local:
        origin["revision"] = folder.name  # the commit that a branch or tag stood for
    if (folder / "layouts.json").is_file():
        return _plan_own(folder, origin)
    return _plan_table(folder, config, origin)


def plan_parquet(config: ZooConfig) -> ReadPlan:
    """Return how the parquet files below a local folder are read.

    Raises:
        ConfigError: if a column that is named does not exist.
        DataError: if there is no parquet file, or one is unreadable.
    """
    folder = find_folder(config)
    return _plan_table(folder, config, {"source": "parquet", "path": str(config.path)})


def read_own(folder: str, rows: tuple[int, int]) -> Iterator[RawNetwork | Rejected]:
    """Yield some rows of a zoo in the format that wscore writes; a damaged row group costs its own rows."""
    zoo = _open(folder)
    given = zoo.table.iloc[rows[0] : rows[1]].to_dict("records")
    start, end = rows
    while start < end:
        try:
            for row, vector in zoo.stream(start, end):
                yield _own_row(zoo, row, given[row - rows[0]], vector)
                start = row + 1
        except DataError as error:
            following = min((int(first) for first in zoo.reader.groups[:, 2] if start < first < end), default=end)
            names = zoo.table["model_id"].iloc[start:following].astype(str)
            yield from (Rejected(name, "unreadable", str(error)) for name in names)
            start = following


def _own_row(zoo: Zoo, row: int, given: dict[Any, Any], vector: np.ndarray) -> RawNetwork | Rejected:
    known = present(given)
    name, run = str(known.pop("model_id")), str(known.pop("run_id"))
    checkpoint, layout = known.pop("checkpoint"), zoo.layout(row)
    for key in ("layout", "n_weights", "dtype", "constants"):
        known.pop(key, None)
    architecture = str(known.pop("architecture", ""))
    if len(vector) != layout.size:
        return Rejected(name, "mismatched_layout", f"{len(vector):,} weights; the layout holds {layout.size:,}")
    state = layout.unflatten(torch.from_numpy(vector.copy()))
    return RawNetwork(name, run, float(checkpoint), state, known, architecture, zoo.constants(row))


def read_piece(reading: ReadingConfig, piece: Piece) -> Iterator[RawNetwork | Rejected]:
    """Yield the networks in some rows of a table; rows that can't be unpacked are rejected one by one."""
    number = piece.first
    with pq.ParquetFile(piece.file) as file:
        for group in piece.groups:
            count = file.metadata.row_group(group).num_rows
            done = 0
            try:
                _check_group(file, group, piece.file)
                for batch in file.iter_batches(batch_size=BATCH, row_groups=[group]):
                    for row in _rows(batch, reading.columns.weights):
                        yield _read_row(number + done, row, reading)
                        done += 1
            except RejectedError as error:
                rest = Rejected("", error.reason, error.detail)
            except (*BROKEN, pa.ArrowException) as error:
                rest = Rejected("", "unreadable", shown(error))
            else:
                rest = None
            if rest is not None:
                yield from (rest._replace(model_id=f"row-{row:07d}") for row in range(number + done, number + count))
            number += count


def _check_group(file: pq.ParquetFile, group: int, path: str) -> None:
    """Reject a row group that claims to unpack to far more than the file holds, also by repeating a single value."""
    _check_footer(group, path)
    size, claimed, meta = Path(path).stat().st_size, 0, file.metadata.row_group(group)
    for column in range(meta.num_columns):
        chunk = meta.column(column)
        claimed += max(chunk.total_uncompressed_size, 8 * chunk.num_values)
    if claimed > max(RATIO * size, HARMLESS_SIZE):
        raise RejectedError("too_large", f"{claimed:,} bytes in a file of {size:,}")


class _SealedError(Exception):
    """Data of a parquet file was about to be read."""


class _Footer(io.FileIO):
    """A parquet file that cannot be read any further once it is sealed."""

    sealed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.sealed:
            raise _SealedError
        return super().read(-1 if size is None else size)


def _check_footer(group: int, path: str) -> None:
    """Raise an error of pyarrow for columns of a row group that do not fit the schema.

    `metadata.row_group(...).column(...)` would abort the process; reading checks them before it asks for data.
    """
    with _Footer(path) as stream:
        file = pq.ParquetFile(stream)
        stream.sealed = True
        with contextlib.suppress(_SealedError):
            file.read_row_group(group, use_threads=False)


def _read_row(number: int, row: dict[str, Any], reading: ReadingConfig) -> RawNetwork | Rejected:
    given = None if reading.columns.id is None else plain_value(row.get(reading.columns.id))
    name = f"row-{number:07d}" if given is None else str(given)
    try:
        return _network(name, row, reading)
    except RejectedError as error:
        return Rejected(name, error.reason, error.detail)
    except BROKEN as error:
        return Rejected(name, "unreadable", shown(error))


@functools.lru_cache(maxsize=1)
def _open(folder: str) -> Zoo:
    return Zoo(Path(folder))


def _plan_own(folder: Path, origin: dict[str, str]) -> ReadPlan:
    zoo = Zoo(folder)
    unknown = sorted(set(zoo.table["layout"].astype(str)) - set(zoo.layouts))
    if unknown:
        raise DataError("layouts are missing", where=folder / "layouts.json", got=unknown[:3])
    starts = range(0, len(zoo), ROWS_PER_SHARD)
    pieces = [(start, min(start + ROWS_PER_SHARD, len(zoo))) for start in starts]
    known = content_hash(stamp([*zoo.parts, folder / "layouts.json"]), str(folder.resolve()))
    return ReadPlan(functools.partial(read_own, str(folder.resolve())), pieces, [], known, origin)


def _plan_table(folder: Path, config: ZooConfig, origin: dict[str, str]) -> ReadPlan:
    paths = sorted(path for path in folder.rglob("*.parquet") if path.name != "metadata.parquet")
    if not paths:  # a data set of other files leaves no folder
        files = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
        raise DataError("no parquet files here", where=origin["path"], expected="a table of networks", got=files)
    pieces, first, rejected = [], 0, []
    for path in paths:
        try:
            meta, names = pq.ParquetFile(path).metadata, pq.read_schema(path).names
        except (*BROKEN, pa.ArrowException) as error:
            if len(paths) == 1:
                raise DataError("is not a readable parquet file", where=path, got=error) from error
            rejected.append(Rejected(path.relative_to(folder).as_posix(), "unreadable", shown(error)))
            continue
        _check_columns(config.reading.columns, names, path)
        groups: list[int] = []
        count = 0
        for group in range(meta.num_row_groups):
            groups.append(group)
            count += meta.row_group(group).num_rows
            if count >= ROWS_PER_SHARD or group == meta.num_row_groups - 1:
                pieces.append(Piece(str(path.resolve()), tuple(groups), first))
                first, groups, count = first + count, [], 0
    known = content_hash(stamp(paths), *(str(path.resolve()) for path in paths))
    return ReadPlan(functools.partial(read_piece, config.reading), pieces, rejected, known, origin)


def _check_columns(columns: ColumnsConfig, names: list[str], path: Path) -> None:
    named = {key: value for key in ColumnsConfig.__struct_fields__ if isinstance(value := getattr(columns, key), str)}
    named |= {f"metadata[{place}]": name for place, name in enumerate(columns.metadata or ())}
    for key, name in named.items():
        if name not in names:
            where = f"zoo.reading.columns.{key}={name}"
            raise ConfigError(f"no such column in {path.name}", where=where, expected=f"one of {', '.join(names)}")


def _rows(batch: pa.RecordBatch, weights: str) -> Iterator[dict[str, Any]]:
    """Yield rows as plain values; a flat list of weights stays an array."""
    column = batch.column(weights)
    flat = (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    )
    flat = flat and pa.types.is_floating(column.type.value_type)
    rows = batch.drop_columns([weights]).to_pylist() if batch.num_columns > 1 else [{} for _ in range(batch.num_rows)]
    for place, row in enumerate(rows):
        cell = column[place]
        row[weights] = cell.values.to_numpy(zero_copy_only=False) if flat and cell.is_valid else cell.as_py()
        yield row


def _network(name: str, row: Mapping[str, Any], reading: ReadingConfig) -> RawNetwork:
    columns = reading.columns
    known = {} if columns.layout is None else dict(_json(row[columns.layout]))
    metadata: dict[str, Any] = {}
    weights = row[columns.weights]
    if isinstance(weights, str | bytes):
        weights = _json(weights)
    if isinstance(weights, Mapping) and isinstance(weights.get("weights"), Mapping):
        metadata |= flattened(weights.get("config") or {}, "config")
        weights = weights["weights"]
    state = _state(weights, known or reading.layout, reading.max_weights)
    content = only(select_all(state, key=reading.state_key, most=reading.max_weights))
    special = {columns.weights, columns.layout, columns.id, columns.run, columns.checkpoint, columns.architecture}
    for column in columns.metadata if columns.metadata is not None else [name for name in row if name not in special]:
        metadata |= _metadata(column, row[column])
    run = name if columns.run is None or row[columns.run] is None else str(row[columns.run])
    number = None if columns.checkpoint is None else row[columns.checkpoint]
    architecture = "" if columns.architecture is None else str(row[columns.architecture] or "")
    checkpoint = None if number is None else float(number)
    return RawNetwork(name, run, checkpoint, content.state, metadata, architecture, content.constants)


def _metadata(column: str, value: Any) -> dict[str, Any]:
    """Return the columns of one cell: JSON objects become one column per entry, under its own name."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return {column: value}
        return flattened(value)
    return flattened(value, column)


def _json(text: Any) -> Any:
    if isinstance(text, str | bytes):
        if not text.lstrip()[:1] or text.lstrip()[:1] in ("{", "[", b"{", b"["):
            return json.loads(text)
        raise RejectedError("no_checkpoint", f"text instead of weights: {text[:40]!r}")
    if text is None:
        raise RejectedError("no_checkpoint", "an empty cell")
    return text


def _state(weights: Any, layout: Mapping[str, Any], most: int) -> Any:
    """Return weights of any shape as nested mappings of tensors.

    Raises:
        RejectedError: if they are no weights, or do not fit their layout.
    """
    if isinstance(weights, Mapping):
        tensors = {str(key): value for key, value in weights.items() if value is not None}
        return {
            key: _state(value, {}, most) if isinstance(value, Mapping) else _tensor(value)
            for key, value in tensors.items()
        }
    if weights is None:
        raise RejectedError("no_checkpoint", "an empty cell")
    vector = _tensor(weights)
    if vector.numel() > most:
        raise RejectedError("too_large", f"{vector.numel():,} numbers")
    if not layout:
        return {"weights": vector}
    shapes = {str(name): tuple(int(size) for size in shape) for name, shape in layout.items()}
    if any(size < 0 for shape in shapes.values() for size in shape):
        raise RejectedError("mismatched_layout", "a negative size")
    return split_vector(vector.reshape(-1), shapes)


def _tensor(value: Any) -> Tensor:
    if value is None:
        raise RejectedError("no_checkpoint", "a tensor is missing")
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.float32 if array.ndim else np.int64))
    if array.dtype.kind != "f":
        raise RejectedError("not_real", f"numbers expected, not {array.dtype}")
    return torch.from_numpy(np.array(array)).float()  # beyond its range a number becomes infinite, and is excluded
