"""Writes the tokens of a zoo block by block, in this process or in workers, with bit-identical results.

A block is a range of consecutive rows of the zoo, bounded by their total number of weights. Its tokens and the moments of
its training networks depend only on its networks. The tokens of all blocks are concatenated in tokens.npy, and the moments
are merged in block order, so that the normalizer is bit-identical wherever they were computed. Workers write each block to
a shard and its moments to a second file; both are atomic, and finished shards are not computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from wscore.errors import DataError
from wscore.io import atomic_file, read_tensors, write_tensors
from wscore.late import pd
from wscore.networks.layout import Layout
from wscore.parallel import Workers, one_thread
from wscore.tokens.index import group_places
from wscore.tokens.normalizer import Moments, Normalization, NormalizerFit, tensor_moments
from wscore.tokens.tokenizer import Tokenizer
from wscore.tokens.unit_orders import Placed
from wscore.zoo.store import Weights, Zoo

BLOCK = 1 << 22  # weights in memory at once while a cache is built
PART = 1 << 18  # weights aligned at once
ENTRIES = 1 << 20  # of tokens written at once


class WriteJob(NamedTuple):
    """Settings shared by all blocks.

    Attributes:
        weights: reader of the networks.
        tokenizer: of the networks.
        mode: of the normalization; `none` computes no moments.
        zoo: folder, for messages.
    """

    weights: Weights
    tokenizer: Tokenizer
    mode: Normalization
    zoo: str


class RowRange(NamedTuple):
    """Consecutive rows of a zoo.

    Attributes:
        start: the first row.
        layouts: of the networks.
        codes: index of each network's layout among them.
        models: name of each network.
        runs: run of each network.
        trained: whether each network is in the training split.
        placed: unit orders of these networks.
        path: of the shard; None without shards.
    """

    start: int
    layouts: tuple[Layout, ...]
    codes: Int[np.ndarray, " row"]
    models: np.ndarray
    runs: np.ndarray
    trained: Bool[np.ndarray, " row"]
    placed: Placed
    path: Path | None

    def moments(self) -> Path:
        """Return the path of the moments, next to the shard."""
        assert self.path is not None
        return self.path.with_suffix(".safetensors")


def plan_blocks(
    zoo: Zoo, trained: Bool[np.ndarray, " row"], placed: Placed, shards: Path | None = None
) -> Iterator[RowRange]:
    """Yield the blocks of a zoo: consecutive rows with `BLOCK` weights in total, rounded up to whole rows.

    Args:
        zoo: the networks.
        trained: whether each of them is in the training split.
        placed: their unit orders.
        shards: folder of the shards; None without shards.
    """
    codes, names = pd.factorize(zoo.table["layout"].astype(str))
    layouts = [zoo.layouts[str(name)] for name in names]
    sizes = np.array([layout.size for layout in layouts])[codes]
    for number, (start, stop) in enumerate(row_ranges(sizes, BLOCK)):
        used, numbers = np.unique(codes[start:stop], return_inverse=True)
        rows = slice(start, stop)
        models, runs = (zoo.table[name].iloc[rows].astype(str).to_numpy(object) for name in ("model_id", "run_id"))
        by_layout = {layouts[code].identity: runs[numbers == place] for place, code in enumerate(used)}
        yield RowRange(
            start, tuple(layouts[code] for code in used), numbers, models, runs, trained[rows],
            placed if shards is None else placed.only(by_layout),
            None if shards is None else shards / f"tokens-{number:05d}.bin",
        )  # fmt: skip


def row_ranges(sizes: Int[np.ndarray, " row"], most: int) -> list[tuple[int, int]]:
    """Return (start, end) of consecutive rows whose sizes add up to at least `most`, except for the last range."""
    ends = np.cumsum(sizes)
    ranges, start, done = [], 0, 0
    while start < len(sizes):
        stop = min(len(sizes), int(np.searchsorted(ends, done + most)) + 1)
        ranges.append((start, stop))
        start, done = stop, int(ends[stop - 1])
    return ranges


def write_tokens(
    path: Path, blocks: Iterable[RowRange], job: WriteJob, *, shape: tuple[int, int], workers: Workers
) -> NormalizerFit:
    """Write tokens.npy in the order of the zoo, and return the statistics of the training networks.

    Args:
        path: of the file.
        blocks: of all networks, each with a shard if the work runs in other processes.
        job: settings shared by all blocks.
        shape: number of tokens and entries per token.
        workers: that tokenize the blocks.

    Raises:
        DataError: naming a network that does not fit its layout or has weights that are not finite.
    """
    fit = NormalizerFit(job.mode)
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        if workers.shards is None:
            with one_thread():  # as in other processes
                for block in blocks:
                    _merge(fit, block, write_block(block, job, stream))
            return fit
        listed = list(blocks)
        for block, _ in zip(listed, workers.map(partial(write_shard, job=job), listed), strict=True):
            assert block.path is not None
            with block.path.open("rb") as shard:
                shutil.copyfileobj(shard, stream, 1 << 22)
            _merge(fit, block, _read_moments(block.moments()))
    return fit


def write_shard(block: RowRange, job: WriteJob) -> int:
    """Write the tokens and moments of a block to its shard files, unless they exist; return its number of rows."""
    path = block.path
    assert path is not None
    if not (path.is_file() and block.moments().is_file()):
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            by_layout = write_block(block, job, stream)
            tensors = {f"{name}/{field}": torch.from_numpy(values) for name, moments in by_layout.items()
                       for field, values in moments._asdict().items()}  # fmt: skip
            write_tensors(block.moments(), tensors)
    return len(block.codes)


def write_block(block: RowRange, job: WriteJob, stream: BinaryIO) -> dict[str, Moments]:
    """Write the tokens of a block to a stream, and return the moments of its training networks by layout."""
    vectors = [vector for _, vector in job.weights.stream(block.start, block.start + len(block.codes))]
    moments: dict[str, Moments] = {}
    groups: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for places in group_places(block.codes):
        code = int(block.codes[places[0]])
        layout = block.layouts[code]
        networks = _prepared(block, job, layout, places, [vectors[place] for place in places])
        trained = networks[block.trained[places]]
        if job.mode != "none" and len(trained):
            moments[layout.identity] = tensor_moments(layout, trained)
        groups[code] = places, networks
    del vectors
    _encode(block, job.tokenizer, groups, stream)
    return moments


def _encode(
    block: RowRange, tokenizer: Tokenizer, groups: dict[int, tuple[np.ndarray, np.ndarray]], stream: BinaryIO
) -> None:
    """Write tokens of networks (n, D), given by layout with their positions in the block, about `ENTRIES` at once."""
    lengths = np.array([tokenizer.count(layout) for layout in block.layouts])[block.codes]
    size = max(1, ENTRIES // (int(lengths.max()) * tokenizer.token_dim))
    for start in range(0, len(lengths), size):
        counts = lengths[start : start + size]
        tokens = np.empty((int(counts.sum()), tokenizer.token_dim), "<f4")
        firsts = np.cumsum(counts) - counts
        for code, (places, networks) in groups.items():
            inside = slice(*np.searchsorted(places, (start, start + size)))
            made = tokenizer.encode(block.layouts[code], networks[inside])
            tokens[firsts[places[inside] - start, None] + np.arange(made.shape[1])] = made
        stream.write(tokens.data)


def _merge(fit: NormalizerFit, block: RowRange, moments: dict[str, Moments]) -> None:
    for layout in block.layouts:
        if layout.identity in moments:
            fit.merge(layout, moments[layout.identity])


def _read_moments(path: Path) -> dict[str, Moments]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in read_tensors(path).items():
        name, _, field = key.rpartition("/")
        parts.setdefault(name, {})[field] = tensor.numpy()
    return {name: Moments(**fields) for name, fields in parts.items()}


def _prepared(
    block: RowRange, job: WriteJob, layout: Layout, places: np.ndarray, vectors: Sequence[np.ndarray]
) -> np.ndarray:
    """Return checked and aligned networks of one layout as (n, D), in batches to limit memory."""
    networks = np.empty((len(places), layout.size), np.float32)
    step = max(1, PART // layout.size)
    for start in range(0, len(places), step):
        batch = slice(start, start + step)
        checked = _stack(job.zoo, layout, block.models[places[batch]], vectors[batch])
        networks[batch] = block.placed.apply_runs(layout, checked, block.runs[places[batch]])
    return networks


def _stack(zoo: str, layout: Layout, models: np.ndarray, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return checked networks of one layout as (n, D)."""
    sizes = np.array([vector.size for vector in vectors])
    for place in np.flatnonzero(sizes != layout.size)[:1]:
        raise DataError("does not fit its layout", where=models[place], expected=layout.size, got=sizes[place])
    networks = np.stack(vectors)
    finite = np.isfinite(networks).sum(axis=1)
    for place in np.flatnonzero(finite != layout.size)[:1]:
        raise DataError(
            "network has weights that are not finite",
            where=models[place],
            expected="finite numbers",
            got=f"{layout.size - finite[place]} of {layout.size} NaN or infinite",
            fix=f"exclude it from {zoo}",
        )
    return networks
