"""Published zoos of flat vectors: folders as a `ZooDataset` reads them, and the layout of the small-CNN zoo."""

import functools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wscore.errors import ConfigError, DataError
from wscore.io import content_hash
from wscore.networks.checkpoints import BROKEN, KERAS, load_file, shown
from wscore.networks.naming import outputs_first
from wscore.networks.records import RawNetwork, Rejected, RejectedError
from wscore.zoo.config import ReadingConfig, ZooConfig
from wscore.zoo.readers.folder import find_folder, natural_key, stamp
from wscore.zoo.readers.ingest import ReadPlan
from wscore.zoo.readers.metadata import flattened, present

ROWS_PER_SHARD = 512


def plan_vectors(config: ZooConfig) -> ReadPlan:
    """Return how a folder `weights/*.pt` of flat vectors is read.

    A file holds a tensor (networks, weights), a list of vectors, a list of (properties, vector), or a mapping from names
    of data sets to these or to tuples that begin with one; else its data set is the file's name. `layer_info` in the
    properties, (name, shape) of each tensor, says how a vector is cut; else `zoo.reading.layout` does, and without it
    the vector is one tensor.

    Raises:
        DataError: if there is no such file, or `zoo.reading.dataset` names none.
    """
    folder = find_folder(config)
    inner = folder / "weights" if (folder / "weights").is_dir() else folder
    paths = sorted((p for p in inner.iterdir() if p.suffix in (".pt", ".pth")), key=lambda p: natural_key(p.name))
    if not paths:
        raise DataError("no vectors here", where=f"zoo.path={folder}", expected="weights/*.pt")
    known = content_hash(stamp(paths), str(folder.resolve()))
    read = functools.partial(read_vectors, config.reading)
    origin = {"source": config.source, "path": str(config.path), "dataset": config.reading.dataset}
    names = ", ".join(path.name for path in paths[:8])
    empty = f"no data set of zoo.reading.dataset={config.reading.dataset} is in {names}; joint reads all"
    return ReadPlan(read, [str(path.resolve()) for path in paths], [], known, origin, empty)


def read_vectors(reading: ReadingConfig, file: str) -> Iterator[RawNetwork | Rejected]:
    """Yield the networks of one file of vectors."""
    path = Path(file)
    try:
        content = load_file(path, most=reading.max_weights).value
        for dataset, rows in _data_sets(content, path.stem.removesuffix("_data")):
            if reading.dataset not in ("joint", dataset):
                continue
            for number, row in enumerate(rows):
                if reading.topk is not None and number >= reading.topk:
                    break
                yield _network(f"{path.stem}/{dataset}/{number}", dataset, row, reading)
    except RejectedError as error:
        yield Rejected(path.name, error.reason, error.detail)
    except BROKEN as error:
        yield Rejected(path.name, "unreadable", shown(error))


def _data_sets(content: Any, name: str) -> Iterator[tuple[str, Sequence[Any]]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            first = value[0] if isinstance(value, tuple) and len(value) else value
            yield str(key), _rows(first, value)
    else:
        yield name, _rows(content, content)


def _rows(value: Any, content: Any) -> Sequence[Any]:
    if isinstance(value, Tensor):
        return list(value) if value.ndim > 1 else [value]
    if isinstance(value, list):
        return value
    raise RejectedError("no_checkpoint", f"{type(content).__name__} instead of vectors")


def _network(name: str, dataset: str, row: Any, reading: ReadingConfig) -> RawNetwork | Rejected:
    properties: dict[str, Any] = {}
    if isinstance(row, tuple | list) and len(row) == 2 and isinstance(row[0], Mapping):
        properties, row = dict(row[0]), row[1]
    if not isinstance(row, Tensor):
        return Rejected(name, "no_checkpoint", f"{type(row).__name__} instead of a vector")
    vector = row.reshape(-1).float()
    longest = reading.max_len
    if longest is not None and len(vector) > longest:
        return Rejected(name, "too_large", f"{len(vector):,} weights; zoo.reading.max_len is {longest:,}")
    info = properties.pop("layer_info", None)
    metadata = {"dataset": dataset, **flattened({str(key): value for key, value in properties.items()})}
    vector, scaling = _normalised(vector, reading.normalize)
    metadata |= scaling
    if longest is not None:
        metadata["length"] = len(vector)
        vector = torch.cat([vector, vector.new_zeros(longest - len(vector))])
    shapes = {str(key): tuple(map(int, shape)) for key, shape in info} if info else reading.layout
    try:
        state = split_vector(vector, shapes, exact=longest is None) if shapes else {"weights": vector}
    except RejectedError as error:
        return Rejected(name, error.reason, error.detail)
    run = str(metadata.pop("run_id", metadata.get("run", name)))
    return RawNetwork(name, run, None, state, metadata)


def split_vector(vector: Tensor, shapes: Mapping[str, tuple[int, ...]], *, exact: bool = True) -> dict[str, Tensor]:
    """Return a flat vector as tensors by name; what is left over becomes `padding` unless the cut must be exact.

    Raises:
        RejectedError: if the shapes hold another count of numbers.
    """
    total = sum(math.prod(shape) for shape in shapes.values())
    if total > len(vector) or (exact and total < len(vector)):
        raise RejectedError("mismatched_layout", f"{len(vector):,} weights; the layout holds {total:,}")
    segments = vector.split([*(math.prod(shape) for shape in shapes.values()), len(vector) - total])
    state = {name: segment.reshape(shape) for (name, shape), segment in zip(shapes.items(), segments, strict=False)}
    return state if total == len(vector) else {**state, "padding": segments[-1]}


def _normalised(vector: Tensor, how: str) -> tuple[Tensor, dict[str, float]]:
    if how == "none" or not len(vector):
        return vector, {}
    low, high = float(vector.min()), float(vector.max())
    shift, scale = (low, high - low) if how == "minmax" else (float(vector.mean()), float(vector.std(correction=0)))
    scale = scale or 1.0
    return (vector - shift) / scale, {"weight_shift": shift, "weight_scale": scale}


class VectorRows(NamedTuple):
    """Metadata, run and step (None if unknown) of consecutive rows of the small-CNN zoo from row `start`."""

    start: int
    metadata: list[dict[str, Any]]
    runs: list[str]
    checkpoints: list[float | None]


def plan_small_cnns(config: ZooConfig) -> ReadPlan:
    """Return how `weights.npy` (networks, weights), `metrics.csv` (also .csv.gz, as published) and `layout.csv` are read.

    `layout.csv` names each tensor (varname), its place (start_idx, end_idx) and its shape, kernels as TensorFlow has
    them: height, width, inputs, outputs. They come with outputs first. The column `modeldir` of the metrics is the run,
    `step` the checkpoint, unless `zoo.reading` names others.

    Raises:
        DataError: if a file is missing, unreadable, or they do not fit each other.
    """
    folder = find_folder(config)
    packed = folder / "metrics.csv.gz"
    metrics_path = packed if packed.is_file() else folder / "metrics.csv"
    paths = [folder / "weights.npy", metrics_path, folder / "layout.csv"]
    for path in paths:
        if not path.is_file():
            raise DataError("file is missing", where=path, expected="weights.npy, metrics.csv[.gz] and layout.csv")
    weights = _mapped(paths[0])
    metrics, layout = _csv(paths[1]), _csv(paths[2])
    if len(metrics) != len(weights):
        got = f"{len(weights)} and {len(metrics)} rows"
        raise DataError("weights.npy and metrics.csv differ in length", where=folder, got=got)
    tensors = _tensors(layout, weights.shape[1], paths[2])
    for key in ("run_column", "checkpoint_column"):
        if (name := getattr(config.reading, key)) is not None and name not in metrics:
            where, expected = f"zoo.reading.{key}={name}", f"one of {', '.join(map(str, metrics))}"
            raise ConfigError(f"no such column in {paths[1].name}", where=where, expected=expected)
    run, step = config.reading.run_column or "modeldir", config.reading.checkpoint_column or "step"
    pieces = [_piece(metrics, start, run, step) for start in range(0, len(metrics), ROWS_PER_SHARD)]
    known = content_hash(stamp(paths), str(folder.resolve()), run, step)
    origin = {"source": config.source, "path": str(config.path)}
    return ReadPlan(functools.partial(read_rows, str(paths[0].resolve()), tensors), pieces, [], known, origin)


def read_rows(
    file: str, tensors: list[tuple[str, int, int, tuple[int, ...]]], piece: VectorRows
) -> Iterator[RawNetwork | Rejected]:
    """Yield some rows of a matrix of weights."""
    weights = _mapped(Path(file))
    for place, known in enumerate(piece.metadata):
        row = torch.from_numpy(np.array(weights[piece.start + place], np.float32))
        state = {}
        for name, start, end, shape in tensors:
            state[name] = outputs_first("kernel", row[start:end].reshape(shape))
        yield RawNetwork(f"row-{piece.start + place:06d}", piece.runs[place], piece.checkpoints[place], state, known)


def _piece(metrics: pd.DataFrame, start: int, run: str, step: str) -> VectorRows:
    block = metrics.iloc[start : start + ROWS_PER_SHARD]
    rows = [present(row) for row in block.to_dict("records")]
    runs = [str(row.get(run, f"row-{start + place:06d}")) for place, row in enumerate(rows)]
    steps = [row.get(step) for row in rows]
    numbers = [float(value) if isinstance(value, int | float) else None for value in steps]
    metadata = [flattened({name: value for name, value in row.items() if name != run}) for row in rows]
    return VectorRows(start, metadata, runs, numbers)


def _mapped(path: Path) -> np.ndarray:
    try:
        weights = np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN as error:
        raise DataError("is not a readable array", where=path, got=shown(error)) from error
    if not isinstance(weights, np.ndarray) or weights.ndim != 2 or weights.dtype.kind != "f":
        raise DataError("is no matrix of weights", where=path, expected="floats (networks, weights)")
    return weights


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError("is not a readable table", where=path, got=shown(error)) from error


def _tensors(layout: pd.DataFrame, width: int, path: Path) -> list[tuple[str, int, int, tuple[int, ...]]]:
    columns = ("varname", "start_idx", "end_idx", "shape")
    missing = [name for name in columns if name not in layout]
    if missing:
        raise ConfigError("has no column of this name", where=path, expected=columns, got=missing)
    tensors = []
    for varname, first, last, text in layout[list(columns)].itertuples(index=False):
        try:
            start, end = int(first), int(last)
            shape = tuple(int(length) for length in str(text).strip("()[] ").replace(",", " ").split())
        except (ValueError, OverflowError) as error:
            got = f"{varname}: {first} to {last}, shape {text}"
            raise DataError("is no layout", where=path, expected="whole numbers", got=got) from error
        *modules, leaf = str(varname).partition(":")[0].split("/")
        name = ".".join([*modules, KERAS.get(leaf, leaf)])
        if end - start != math.prod(shape) or not 0 <= start <= end <= width:
            got = f"{varname}: {start} to {end}, shape {shape}, of {width}"
            raise DataError("layout does not fit the weights", where=path, got=got)
        tensors.append((name, start, end, shape))
    ends = [0, *sorted(end for _, _, end, _ in tensors)]
    if sorted(start for _, start, _, _ in tensors) != ends[:-1] or ends[-1] != width:
        expected, got = f"0 to {width:,} without gaps", f"{sum(end - start for _, start, end, _ in tensors):,} weights"
        raise DataError("layout does not cover the weights once", where=path, expected=expected, got=got)
    if len({name for name, *_ in tensors}) < len(tensors):
        raise DataError("layout names a tensor twice", where=path, got=[name for name, *_ in tensors])
    return tensors
