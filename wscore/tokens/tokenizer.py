"""Tokenizer: converts weight vectors to sequences of tokens of equal length, and back bit for bit.

Each layout has one integer map: entry (t, j) is the index of the weight at position j of token t, or -1 for padding;
every weight has exactly one position. The map consists of a few rectangles (rows of one tensor next to those of another),
so that arrays are moved rectangle by rectangle, nearly as fast as a copy. Where rows are short, and for tensors, which
keep their gradient, entries are gathered by index.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from msgspec import Meta
from torch import Tensor

from wscore.config import Section, convert, to_plain
from wscore.errors import DataError
from wscore.io import read_json, write_json
from wscore.lru import Recent
from wscore.networks.layout import KINDS, Layout, TensorSpec
from wscore.tokens.strided_copy import Move, fill_tokens, fill_weights

Granularity = Literal["neuron", "chunk"]
Array = TypeVar("Array", np.ndarray, Tensor)

#: Columns of a token's features.
#: layer: index of its layer in the layout; kind: index in `KINDS` of the kind of its first weight;
#: position_in_layer, position_in_model: fraction of the layer's and of the model's tokens before it, in [0, 1);
#: log_size: log10 of the number of weights of its tensor (chunk) or of its layer (neuron).
FEATURES = ("layer", "kind", "position_in_layer", "log_size", "position_in_model")

WEIGHT_KINDS = ("linear", "conv")
NORM_KINDS = ("norm_weight", "norm_bias", "running_mean", "running_var")
SHORT = 8  # mean numbers per row below which gathering is faster; see benchmarks/tokenize.py
CACHED = 1 << 18  # entries gathered at once
REMEMBERED = 1 << 25  # entries of all cached templates together, 9 bytes each


class Template(NamedTuple):
    """Arrangement of the weights of one layout in T tokens of `dim` entries.

    Attributes:
        mask: True where an entry holds a weight.
        features: of each token, see `FEATURES`.
        gather: index in the flat vector of the weight at each entry, -1 for padding.
        scatter: its inverse: flat entry (token * dim + position) of each weight.
    """

    mask: Bool[np.ndarray, "token dim"]
    features: Float32[np.ndarray, "token feature"]
    gather: Int[np.ndarray, "token dim"]
    scatter: Int[np.ndarray, " weights"]


class _Plan(NamedTuple):
    """Copy plan of one layout.

    Attributes:
        moves: rectangles to copy.
        tokens: number of tokens.
        fine: whether rows are so short that gathering by index is faster.
    """

    moves: tuple[Move, ...]
    tokens: int
    fine: bool


class _Block(NamedTuple):
    """Weights of one layer that are tokenized together: indices in the flat vector, one row per unit."""

    layer: int
    units: Int[np.ndarray, "unit width"]


class Tokenizer(Section, frozen=True, dict=True):
    """Splits flat weight vectors of any layout into tokens and joins them again.

    Args:
        granularity: `chunk` splits each tensor into pieces of `chunk_size` consecutive weights; `neuron` makes one token
            per output unit of a layer, from its incoming weights, its bias and its parameters of a normalization layer
            that follows. A unit wider than a token is split. No token spans several tensors (chunk) or units (neuron).
        chunk_size: weights per token for `chunk`, maximum weights per token for `neuron`.
        token_dim: entries per token, padding included.
    """

    granularity: Granularity
    chunk_size: Annotated[int, Meta(ge=1)]
    token_dim: Annotated[int, Meta(ge=1)]

    @classmethod
    def fit(cls, granularity: Granularity, chunk_size: int, layouts: Iterable[Layout]) -> "Tokenizer":
        """Return the tokenizer with tokens as long as the widest unit (neuron), at most `chunk_size`."""
        width = chunk_size
        if granularity == "neuron":
            blocks = (block for layout in layouts for block in _neurons(layout))
            width = min(chunk_size, max((block.units.shape[1] for block in blocks), default=chunk_size))
        return cls(granularity=granularity, chunk_size=chunk_size, token_dim=width)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Return the tokenizer saved at `path`.

        Raises:
            DataError: if the file is missing or is not JSON.
            ConfigError: if it does not describe a tokenizer.
        """
        return convert(read_json(path), cls, where=str(path))

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON."""
        write_json(path, to_plain(self))

    def template(self, layout: Layout) -> Template:
        """Return mask, features and index maps of a layout (cached)."""
        return self._templates.get(layout.identity, lambda: _template(self, layout), size=lambda made: made.mask.size)

    def count(self, layout: Layout) -> int:
        """Return the number T of tokens of a network of this layout."""
        return self._plan(layout).tokens

    def encode(
        self, layout: Layout, vectors: Float[Array, "networks weights"], out: np.ndarray | None = None
    ) -> Float[Array, "networks token dim"]:
        """Return the tokens of networks of one layout, padding as zeros; tensors keep their gradient.

        Args:
            layout: of the networks.
            vectors: their flat weights.
            out: contiguous output array (networks, tokens, dim) for array inputs, such as part of a memory map; None
                creates one.

        Raises:
            DataError: if the vectors do not have the layout's number of weights.
        """
        _check_shape("weight vectors do not fit the layout", vectors.shape[1:], (layout.size,))
        if isinstance(vectors, Tensor):
            shape, (places, _) = self.template(layout).mask.shape, self._places(layout, vectors.device)
            padded = torch.cat([vectors, vectors.new_zeros(len(vectors), 1)], dim=1)  # (n, D + 1)
            return padded.index_select(1, places).reshape(len(vectors), *shape)
        count = self.count(layout)
        if out is None:
            out = np.empty((len(vectors), count, self.token_dim), vectors.dtype)
        flat = out.reshape(len(vectors), count * self.token_dim)
        if self._plan(layout).fine:
            self._gather(layout, vectors, flat)
        else:
            fill_tokens(self._plan(layout).moves, np.ascontiguousarray(vectors), flat)
        return out

    def decode(
        self, layout: Layout, tokens: Float[Array, "networks token dim"], out: np.ndarray | None = None
    ) -> Float[Array, "networks weights"]:
        """Return the flat weight vectors of tokens: the exact inverse of `encode`; padding entries are ignored.

        Args:
            layout: of the networks.
            tokens: as returned by `encode`.
            out: contiguous output array (networks, weights) for array inputs; None creates one.

        Raises:
            DataError: if number or length of the tokens do not match the layout.
        """
        if isinstance(tokens, Tensor):
            _check_shape("tokens do not fit the layout", tokens.shape[1:], self.template(layout).mask.shape)
            flat = tokens.reshape(len(tokens), self.template(layout).mask.size)
            return flat.index_select(1, self._places(layout, tokens.device)[1])
        count = self.count(layout)
        _check_shape("tokens do not fit the layout", tokens.shape[1:], (count, self.token_dim))
        flat = np.ascontiguousarray(tokens).reshape(len(tokens), count * self.token_dim)
        if out is None:
            out = np.empty((len(tokens), layout.size), tokens.dtype)
        if self._plan(layout).fine:
            return flat.take(self.template(layout).scatter, axis=1, mode="clip", out=out)
        fill_weights(self._plan(layout).moves, flat, out)
        return out

    def _gather(self, layout: Layout, vectors: np.ndarray, tokens: np.ndarray) -> None:
        """Fill tokens by the index map, with as many networks at once as fit in the CPU cache."""
        gather = self.template(layout).gather.reshape(-1)
        step = max(1, CACHED // max(1, gather.size))
        for start in range(0, len(vectors), step):
            batch = vectors[start : start + step]
            padded = np.empty((len(batch), layout.size + 1), vectors.dtype)
            padded[:, :-1], padded[:, -1] = batch, 0  # -1, the index of padding, wraps around to this zero
            np.take(padded, gather, axis=1, mode="wrap", out=tokens[start : start + step])

    def _plan(self, layout: Layout) -> _Plan:
        return self._plans.get(layout.identity, lambda: _plan(self, layout), size=lambda made: len(made.moves))

    def _places(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the index maps of a layout as tensors on a device, flat; padding gathers the entry after the last."""

        def make() -> tuple[Tensor, Tensor]:
            template = self.template(layout)
            gather = torch.from_numpy(template.gather.reshape(-1) % (layout.size + 1)).to(device)
            return gather, torch.from_numpy(template.scatter).to(device)

        return self._indices.get(f"{layout.identity} {device}", make, size=lambda made: made[0].numel())

    @cached_property
    def _plans(self) -> Recent[_Plan]:
        return Recent(REMEMBERED)

    @cached_property
    def _indices(self) -> Recent[tuple[Tensor, Tensor]]:
        return Recent(REMEMBERED)

    @cached_property
    def _templates(self) -> Recent[Template]:
        return Recent(REMEMBERED)


def _template(tokenizer: Tokenizer, layout: Layout) -> Template:
    dim = tokenizer.token_dim
    blocks = _chunks(layout) if tokenizer.granularity == "chunk" else _neurons(layout)
    pieces = [_split_units(block.units, dim) for block in blocks]
    gather = np.concatenate([np.zeros((0, dim), np.int64), *pieces])
    mask = gather >= 0
    scatter = np.empty(layout.size, np.int64)
    scatter[gather[mask]] = np.flatnonzero(mask)
    features = _features(layout, blocks, [len(piece) for piece in pieces], gather)
    compact = np.int32 if gather.size < 2**31 else np.int64
    return Template(mask, features, gather.astype(compact), scatter.astype(compact))


def _plan(tokenizer: Tokenizer, layout: Layout) -> _Plan:
    """Return the rectangles of a layout in token order; those of one row are consecutive."""
    dim, first = tokenizer.token_dim, 0
    moves: list[Move] = []
    for block, (units, specs) in enumerate(_rows(tokenizer, layout)):
        width = sum(spec.size // units for spec, _ in specs)
        row, start = -(-width // dim) * dim, 0
        for spec, offset in specs:
            moves.append(Move(block, offset, first + start, units, spec.size // units, row))
            start += spec.size // units
        if start < row:
            moves.append(Move(block, -1, first + start, units, row - start, row))
        first += units * row
    return _Plan(tuple(moves), first // dim, layout.size < SHORT * sum(move.units for move in moves))


def _rows(tokenizer: Tokenizer, layout: Layout) -> list[tuple[int, list[tuple[TensorSpec, int]]]]:
    """Return (rows, [(tensor, its offset)]) of each block, tensors in the order of its columns."""
    numbered = list(zip(layout.tensors, layout.offsets, strict=True))
    if tokenizer.granularity == "chunk":
        return [(1, [pair]) for pair in numbered if pair[0].size]
    groups = _grouped(layout)
    return [(units, [numbered[place] for place in places]) for (_, units), places in groups.items()]


def _chunks(layout: Layout) -> list[_Block]:
    """One block per tensor, as a single unit."""
    numbered = zip(layout.tensors, layout.offsets, strict=True)
    return [_Block(spec.layer, offset + np.arange(spec.size)[None]) for spec, offset in numbered]


def _neurons(layout: Layout) -> list[_Block]:
    """One block per layer, one row per output unit.

    Tensors of a layer with the same number of units share its block; a tensor with another number (such as the bias of a
    transposed convolution) gets a separate block. A normalization layer joins the last weight layer before it if it has
    as many channels as that layer has units, which is correct if normalization follows convolution in the state dict and
    in residual streams; otherwise it becomes a separate layer with one token per channel. A layout does not record the
    connections of layers: with another order of the state dict, a token may combine unrelated channels of the same
    index. The inverse is still exact.
    """
    tensors, offsets = layout.tensors, layout.offsets
    blocks = []
    for (layer, units), places in _grouped(layout).items():
        parts = [offsets[place] + np.arange(tensors[place].size).reshape(units, -1) for place in places]
        blocks.append(_Block(layer, np.concatenate(parts, axis=1)))
    return blocks


def _grouped(layout: Layout) -> dict[tuple[int, int], list[int]]:
    """Return which tensors (by index in the layout) share a block, by layer and number of units."""
    groups: dict[tuple[int, int], list[int]] = {}
    last = (-1, -1)
    for place, spec in enumerate(layout.tensors):
        key = (spec.layer, _units(spec))
        if spec.kind in WEIGHT_KINDS:
            last = key
        elif spec.kind in NORM_KINDS and last[1] == key[1]:
            key = last
        if spec.size:
            groups.setdefault(key, []).append(place)
    return groups


def _units(spec: TensorSpec) -> int:
    return spec.shape[0] if spec.shape else 1


def _split_units(units: np.ndarray, dim: int) -> np.ndarray:
    """Return rows of `dim` entries: each unit (a row) is split into pieces, the last one padded with -1."""
    count, width = units.shape
    pieces = -(-width // dim)
    padded = np.full((count, pieces * dim), -1, np.int64)
    padded[:, :width] = units
    return padded.reshape(count * pieces, dim)


def _features(layout: Layout, blocks: list[_Block], counts: list[int], gather: np.ndarray) -> np.ndarray:
    """Return the features (T, 5) of tokens, `counts[b]` of which come from block b."""
    kinds = np.repeat([KINDS.index(spec.kind) for spec in layout.tensors], [spec.size for spec in layout.tensors])
    layers = np.repeat([block.layer for block in blocks], counts)
    sizes = np.repeat([block.units.size for block in blocks], counts)
    before = np.arange(len(gather)) / max(len(gather), 1)
    columns = (layers, kinds[gather[:, 0]], _share_before(layers), np.log10(sizes), before)
    return np.stack(columns, axis=1).astype(np.float32)


def _share_before(labels: np.ndarray) -> np.ndarray:
    """Return for each entry the fraction of entries with the same label that come before it."""
    _, label, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(label, kind="stable")
    rank = np.empty(len(labels), int)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank / counts[label]


def _check_shape(what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(got) != tuple(expected):
        raise DataError(what, expected=tuple(expected), got=tuple(got))
