"""Token cache on disk: written once by streaming over a zoo, then read in batches through a memory map.

tokens/
  tokens.npy         raw tokens (all tokens of all networks, dim) float32, padding as zeros
  index.parquet      one row per item, i.e. per network or window of a network
  layouts.json       {layout identity: {"tensors": [...], "counters": {...}}}
  tokenizer.json     granularity, chunk size, entries per token
  symmetry.json      permutation spec of each layout, where known
  references.safetensors   reference networks of the alignment; empty without alignment
  normalizer.json    shifts and scales, fitted on the training split
  manifest.json      configuration, identity of zoo and cache, size and hash of the files above
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, Shaped
from torch import Tensor

from wscore.errors import DataError
from wscore.io import atomic_folder, content_hash, read_json, source_code, write_json
from wscore.late import pd
from wscore.lru import Recent
from wscore.networks.layout import Layout, read_layouts
from wscore.parallel import Workers
from wscore.tokens.alignment import HERE, Alignment
from wscore.tokens.batch import TokenBatch, layout_key
from wscore.tokens.codec import TokenCodec
from wscore.tokens.config import TokensConfig
from wscore.tokens.index import group_places, make_index, split_rows
from wscore.tokens.manifest import read_cache_manifest, recipe, verify_files, write_cache_manifest
from wscore.tokens.normalizer import Normalizer
from wscore.tokens.tokenizer import FEATURES, Tokenizer
from wscore.tokens.writer import WriteJob, plan_blocks, write_tokens
from wscore.zoo.splits import ALL_SPLITS
from wscore.zoo.store import Zoo

CODEC = ("tokenizer.json", "normalizer.json", "symmetry.json", "references.safetensors")
LAYOUTS = "layouts.json"
SHARDS = Path(".cache/tokens")
REMEMBERED = 1 << 25  # entries of all cached frames together, 9 bytes each
Item = int | np.integer
Items = Sequence[Item] | np.ndarray


class CacheSummary(NamedTuple):
    """Counts and sizes of a cache.

    Attributes:
        networks: number of networks in each split.
        runs: number of runs in each split.
        layouts: number of layouts.
        windowed: number of networks split into windows.
        items: number of items (networks or windows of networks).
        tokens: number of tokens.
        token_dim: entries per token.
        max_tokens: tokens of the longest item.
        padding_share: fraction of the entries of tokens.npy that are padding.
        megabytes: size of tokens.npy in MB.
    """

    networks: dict[str, int]
    runs: dict[str, int]
    layouts: int
    windowed: int
    items: int
    tokens: int
    token_dim: int
    max_tokens: int
    padding_share: float
    megabytes: float

    def figures(self) -> dict[str, float]:
        """Return all of it as floats under flat names."""
        splits = {f"networks_{split}": count for split, count in self.networks.items()}
        splits |= {f"runs_{split}": count for split, count in self.runs.items()}
        rest = {name: value for name, value in self._asdict().items() if name not in ("networks", "runs")}
        return {name: float(value) for name, value in (splits | rest).items()}

    def sentence(self) -> str:
        """Return one line for the user."""
        parts = ", ".join(f"{count:,} {split}" for split, count in self.networks.items() if count)
        cut = f", {self.windowed:,} of them cut into windows" if self.windowed else ""
        return (
            f"{sum(self.networks.values()):,} networks of {sum(self.runs.values()):,} runs ({parts}){cut}: "
            f"{self.tokens:,} tokens of {self.token_dim}, {self.padding_share:.0%} padding, {self.megabytes:,.1f} MB"
        )


class _Frame(NamedTuple):
    """Arrays shared by all networks of one layout, per token: (T, dim), and (T, 5) for the features."""

    mask: np.ndarray
    features: np.ndarray
    shift: np.ndarray
    scale: np.ndarray


class TokenCache:
    """Reads a cache folder. An item is a network, or a window of a network longer than the maximum length.

    Attributes:
        table: one row per item, its index is the item number; columns: row (of the zoo), model_id, run_id, split,
            layout, window (0 for the first), start (its first token within the network), offset (its first token in
            tokens.npy), length (number of tokens). The windows of a network are consecutive.
        layouts: layout of each identity.
        tokenizer: also applicable to other networks.
        normalizer: fitted on the training split.
        codec: converts between tokens and weights.
        alignment: aligns other networks to the references of this cache.
        manifest: configuration, identities and file hashes.
        max_tokens: tokens of the longest item, to which batches are padded.
        identity: hash of zoo and configuration.
    """

    def __init__(self, folder: Path | str) -> None:
        """Open a cache folder.

        Raises:
            DataError: if a file is missing, altered or of another version.
        """
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = read_cache_manifest(self.folder)
        self.max_tokens: int = self.manifest["max_tokens"]
        self.identity: str = self.manifest["identity"]
        self.layouts = read_layouts(self.folder / "layouts.json")
        self.tokenizer = Tokenizer.load(self.folder / "tokenizer.json")
        self.normalizer = Normalizer.load(self.folder / "normalizer.json")
        self.codec = TokenCodec(self.tokenizer, self.normalizer, self.max_tokens)
        self.alignment = Alignment.load(self.folder)
        self.table = pd.read_parquet(self.folder / "index.parquet")
        self._tokens = np.load(self.folder / "tokens.npy", mmap_mode="r").view(np.ndarray)
        self._row, self._window, self._start, self._offset, self._length = (
            self.table[name].to_numpy(np.int64) for name in ("row", "window", "start", "offset", "length")
        )
        self._code, names = pd.factorize(self.table["layout"])
        self._layouts = [self.layouts[str(name)] for name in names]
        self._windows = np.zeros(len(names), np.int64)  # windows per network of each layout
        np.maximum.at(self._windows, self._code, self._window + 1)
        self._frames: Recent[_Frame] = Recent(REMEMBERED)
        self._keys: dict[tuple[int, int], int] = {}  # by number of the layout, and window

    def __len__(self) -> int:
        return len(self.table)

    @property
    def token_dim(self) -> int:
        """Entries per token, padding included."""
        return self.tokenizer.token_dim

    def indices(self, split: str) -> Int[np.ndarray, " item"]:
        """Return the item numbers of a split, ascending.

        Raises:
            DataError: if there is no such split.
        """
        if split not in ALL_SPLITS:
            raise DataError("no such split", expected=ALL_SPLITS, got=split)
        return np.flatnonzero(self.table["split"].to_numpy() == split)

    def splits(self, networks: int) -> Shaped[np.ndarray, " network"]:
        """Return the split of each of so many networks of the zoo; empty for those that have no tokens."""
        splits = np.full(networks, "", dtype=object)
        splits[self.table["row"].to_numpy(int)] = self.table["split"].to_numpy(str)
        return splits

    def verify(self) -> None:
        """Check the hash of every file of the cache.

        Raises:
            DataError: naming the first altered file.
        """
        verify_files(self.folder, self.manifest)

    def copy_codec(self, folder: Path) -> None:
        """Write the files needed to tokenize other networks in the same way, with the layouts of the training split only."""
        for name in CODEC:
            shutil.copyfile(self.folder / name, folder / name)
        layouts = read_json(self.folder / LAYOUTS)
        write_json(folder / LAYOUTS, {name: layouts[name] for name in self.trained_layouts()})

    def trained_layouts(self) -> list[str]:
        """Return the identities of the layouts of the training split, sorted."""
        return sorted(set(self.table["layout"].iloc[self.indices("train")].astype(str)))

    def layout(self, item: Item) -> Layout:
        """Return the layout of an item's network."""
        return self._layouts[self._code[item]]

    def raw(self, item: Item) -> Float32[np.ndarray, "token dim"]:
        """Return the raw tokens of one item, a read-only view of the file."""
        return self._tokens[self._offset[item] : self._offset[item] + self._length[item]]

    @property
    def stored(self) -> Float32[np.ndarray, "token dim"]:
        """Concatenated raw tokens of all items, a read-only view of the file."""
        return self._tokens

    def batch(self, items: Items) -> TokenBatch:
        """Return a batch of items, normalized and padded to `max_tokens`."""
        numbers = np.asarray(items, dtype=np.int64)
        shape = (len(numbers), self.max_tokens)
        tokens = np.zeros((*shape, self.token_dim), np.float32)
        mask = np.zeros((*shape, self.token_dim), bool)
        features = np.zeros((*shape, len(FEATURES)), np.float32)
        for places in group_places(self._code[numbers], self._window[numbers]):
            first = int(numbers[places[0]])
            start, length = int(self._start[first]), int(self._length[first])
            frame = _Frame(*(array[start : start + length] for array in self._frame(self.layout(first))))
            raw = self._tokens[self._offset[numbers[places], None] + np.arange(length)]  # (n, length, dim)
            tokens[places, :length] = raw if self._plain else (raw - frame.shift) / frame.scale
            mask[places, :length] = frame.mask
            features[places, :length] = frame.features
        parts = (torch.from_numpy(array) for array in (tokens, mask, features))
        return TokenBatch._make([*parts, self.keys(numbers)])

    def keys(self, items: Items) -> Int64[Tensor, " item"]:
        """Return a key for each item that is equal for items of one layout (and window), see `TokenBatch.layouts`."""
        numbers = np.asarray(items, dtype=np.int64)
        keys = np.zeros(len(numbers), np.int64)
        for places in group_places(self._code[numbers], self._window[numbers]):
            keys[places] = self._key(int(numbers[places[0]]))
        return torch.from_numpy(keys)

    def to_weights(self, items: Items, tokens: Float[Tensor | np.ndarray, "item token dim"]) -> list[np.ndarray]:
        """Return the raw weights (D,) of whole networks from normalized tokens, padded to any length.

        The inverse of `batch`, bit for bit without normalization. One vector per network; networks split into windows
        take the position of their first item.

        Raises:
            DataError: naming a network with missing or repeated windows.
        """
        values = tokens.detach().to("cpu", torch.float32).numpy() if isinstance(tokens, Tensor) else tokens
        numbers, vectors = np.asarray(items, dtype=np.int64), dict[int, np.ndarray]()
        for same in group_places(self._code[numbers]):
            layout, windows = self.layout(int(numbers[same[0]])), self.windows(int(numbers[same[0]]))
            self._check_complete(numbers[same], windows)
            order = same[np.lexsort((self._window[numbers[same]], self._row[numbers[same]]))]
            firsts = order.reshape(-1, windows).min(axis=1)  # where each network is first met
            vectors.update(zip(firsts.tolist(), self.codec.decode(layout, values[_evenly(order)]), strict=True))
        return [vectors[place] for place in sorted(vectors)]

    def items(self, rows: Int[np.ndarray, " network"]) -> Int[np.ndarray, " item"]:
        """Return the item numbers of all windows of networks, given by their rows in the zoo, network by network."""
        firsts = np.searchsorted(self._row, rows)
        counts = self._windows[self._code[firsts]]
        return np.repeat(firsts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())

    def weights(self, rows: Int[np.ndarray, " network"]) -> Float32[np.ndarray, "network weights"]:
        """Return the raw weights of networks of one layout, bit-identical to their tokens.

        If the cache is aligned, hidden units are in the aligned order.
        """
        firsts = np.searchsorted(self._row, rows)
        layout = self.layout(firsts[0])
        places = self._offset[firsts, None] + np.arange(self.tokenizer.count(layout))
        return self.tokenizer.decode(layout, self._tokens[places])

    def of_split(self, split: str, batch_size: int) -> Iterator[tuple[Layout, Float32[np.ndarray, "network weights"]]]:
        """Yield the raw weights of a split, networks of one layout together, at most `batch_size` at once."""
        table = self.table.iloc[self.indices(split)]
        layouts, rows = table["layout"].to_numpy(str), table["row"].to_numpy(int)
        for name in np.unique(layouts):
            same = np.unique(rows[layouts == name])
            for batch in np.array_split(same, -(-len(same) // batch_size)):
                yield self.layouts[str(name)], self.weights(batch)

    def networks(self, items: Items) -> Int[np.ndarray, " network"]:
        """Return the zoo row of each vector that `to_weights` returns for the same items, in the same order."""
        numbers = np.asarray(items, dtype=np.int64)
        kept = self._windows[self._code[numbers]] == 1
        kept[np.unique(self._row[numbers], return_index=True)[1]] = True
        return self._row[numbers[kept]]

    def codes(self, items: Items) -> Int[np.ndarray, " item"]:
        """Return the layout of each item as an integer code."""
        return self._code[np.asarray(items, dtype=np.int64)]

    @property
    def item_weights(self) -> Int[np.ndarray, " item"]:
        """Number of weights of each item."""
        counts = np.zeros(len(self), np.int64)
        for places in group_places(self._code, self._window):
            start, length = int(self._start[places[0]]), int(self._length[places[0]])
            counts[places] = self._frame(self.layout(places[0])).mask[start : start + length].sum()
        return counts

    def windows(self, item: Item) -> int:
        """Return the number of windows of an item's network."""
        return int(self._windows[self._code[item]])

    @property
    def _plain(self) -> bool:
        return self.normalizer.mode == "none"

    def _frame(self, layout: Layout) -> _Frame:
        return self._frames.get(layout.identity, lambda: self._make_frame(layout), size=lambda made: made.mask.size)

    def _key(self, item: int) -> int:
        place = int(self._code[item]), int(self._window[item])
        if place not in self._keys:
            frame, start = self._frame(self.layout(item)), int(self._start[item])
            window = slice(start, start + int(self._length[item]))
            self._keys[place] = layout_key(frame.mask[window], frame.features[window])
        return self._keys[place]

    def _make_frame(self, layout: Layout) -> _Frame:
        mask, features, _, _ = self.tokenizer.template(layout)
        shift, scale = (self.tokenizer.encode(layout, row[None])[0] for row in self.normalizer.statistics(layout))
        return _Frame(mask, features, shift, np.where(mask, scale, np.float32(1)))

    def _check_complete(self, items: np.ndarray, windows: int) -> None:
        if windows == 1:
            return
        rows, present = np.unique(self._row[np.unique(items)], return_counts=True)
        if len(items) == windows * len(rows) and (present == windows).all():
            return
        _, given = np.unique(self._row[items], return_counts=True)
        wrong = int(np.argmax((present != windows) | (given != windows)))
        raise DataError(
            "windows of a network are missing or repeated",
            where=self.table["model_id"].to_numpy()[self._row == rows[wrong]][0],
            expected=f"each of its {windows} windows once",
            got=f"{present[wrong]} of them in {given[wrong]} items",
        )


def _evenly(places: np.ndarray) -> slice | np.ndarray:
    """Return evenly spaced places as a slice, which avoids a copy."""
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    if step > 0 and np.all(np.diff(places) == step):
        return slice(int(places[0]), int(places[-1]) + 1, step)
    return places


def build_cache(zoo: Zoo, config: TokensConfig, folder: Path, *, workers: Workers = HERE) -> CacheSummary:
    """Write the cache of a zoo atomically, with one block of networks in memory at a time.

    Args:
        zoo: the networks.
        config: section `tokens`.
        folder: of the cache.
        workers: that align and tokenize; they do not affect the result. Other processes save finished blocks in
            `.cache/tokens/`, so that an interrupted run can resume.

    Raises:
        DataError: if a split gets no run, or a network (which is named) has weights that are not finite or do not fit
            its layout.
    """
    layouts = _used_layouts(zoo)
    tokenizer = Tokenizer.fit(config.granularity, config.chunk_size, layouts.values())
    splits = split_rows(zoo, config)
    index = make_index(zoo, tokenizer, config, splits)
    trained = splits == "train"
    workers = _with_shards(workers, zoo, config)
    aligned = config.align == "weights"
    alignment = Alignment.fit(zoo, trained, workers=workers) if aligned else Alignment.symmetries(zoo)
    with atomic_folder(folder) as temporary:
        blocks = plan_blocks(zoo, trained, alignment.placed, workers.shards)
        job = WriteJob(zoo.reader, tokenizer, config.normalization, str(zoo.folder))
        shape = int(index["length"].to_numpy().sum()), tokenizer.token_dim
        fit = write_tokens(temporary / "tokens.npy", blocks, job, shape=shape, workers=workers)
        alignment.save(temporary)
        fit.finish().save(temporary / "normalizer.json")
        tokenizer.save(temporary / "tokenizer.json")
        write_json(temporary / "layouts.json", {name: msgspec.to_builtins(layout) for name, layout in layouts.items()})
        index.to_parquet(temporary / "index.parquet", index=False)
        write_cache_manifest(
            temporary, zoo=zoo.identity, config=config, max_tokens=int(index["length"].to_numpy().max())
        )
    if workers.shards is not None:
        shutil.rmtree(workers.shards)
    return summarize(TokenCache(folder))


def _with_shards(workers: Workers, zoo: Zoo, config: TokensConfig) -> Workers:
    """Return the workers with a folder for their shards, named by a hash of everything that determines the content."""
    if not workers.elsewhere:
        return workers
    code = source_code("tokens", "symmetry", "networks", "zoo")
    plain = msgspec.json.encode(recipe(config), order="sorted")
    folder = Path.cwd() / SHARDS / content_hash(zoo.identity, plain, torch.__version__, code)
    folder.mkdir(parents=True, exist_ok=True)
    return workers._replace(shards=folder)


def summarize(cache: TokenCache) -> CacheSummary:
    """Return the counts and sizes of a cache."""
    networks = {name: column.to_numpy() for name, column in cache.table[cache.table["window"] == 0].items()}
    tokens = int(cache.table["length"].to_numpy().sum())
    weights = sum(cache.layouts[name].size for name in networks["layout"])
    return CacheSummary(
        networks={split: int(np.sum(networks["split"] == split)) for split in ALL_SPLITS},
        runs={split: len(set(networks["run_id"][networks["split"] == split])) for split in ALL_SPLITS},
        layouts=len(cache.layouts),
        windowed=int(np.sum(cache.table["window"].to_numpy() == 1)),
        items=len(cache),
        tokens=tokens,
        token_dim=cache.token_dim,
        max_tokens=cache.max_tokens,
        padding_share=1 - weights / (tokens * cache.token_dim),
        megabytes=tokens * cache.token_dim * 4 / 1e6,
    )


def _used_layouts(zoo: Zoo) -> dict[str, Layout]:
    """Return the layouts used by rows of the zoo, by identity."""
    used = sorted(set(zoo.table["layout"].astype(str)))
    unknown = [name for name in used if name not in zoo.layouts]
    if unknown:
        raise DataError("layouts of some networks are missing", where=zoo.folder / "layouts.json", got=unknown)
    empty = [name for name in used if not zoo.layouts[name].size]
    if empty:
        raise DataError("layouts have no weights", where=zoo.folder / "layouts.json", got=empty)
    return {name: zoo.layouts[name] for name in used}
