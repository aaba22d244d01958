"""Cuts networks into rows of equal length, the input of the sparse dictionary.

    view      a row is
    tokens    a token of the cache
    neurons   a hidden unit: incoming weights, bias and normalisation, outgoing weights; a weight
              between two hidden layers is in the rows of both. Weights of no hidden unit (the last bias) are in no row.
    weights   a whole network

Rows are read from the memory-mapped tokens of a cache, normalised like its batches and zero-padded to the longest.
Each layout has an integer map: entry (u, e) is the index of the weight at position e of row u, or -1.
"""

import itertools
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from wscore.errors import DataError
from wscore.networks.layout import Layout
from wscore.symmetry.spec import PermutationSpec, by_unit
from wscore.tokens.cache import TokenCache
from wscore.tokens.normalizer import Normalizer
from wscore.tokens.tokenizer import Tokenizer

View = Literal["tokens", "neurons", "weights"]
Vectors = Float[np.ndarray, "networks weights"]


class UnitMap(NamedTuple):
    """Map from the weights of one layout to rows.

    Attributes:
        weights: index in the flat weight vector of each entry (units, width), -1 for padding.
        names: name of each row, such as `0.weight` for a unit of that tensor; rows of the same name hold weights of the
            same tensors in the same order.
    """

    weights: Int[np.ndarray, "unit width"]
    names: tuple[str, ...]

    def padded(self, width: int) -> "UnitMap":
        """Return the same rows with padding up to a width."""
        extra = width - self.weights.shape[1]
        return self._replace(weights=np.pad(self.weights, ((0, 0), (0, extra)), constant_values=-1))


class UnitBatch(NamedTuple):
    """A batch of rows.

    Attributes:
        values: weights on the scale of the normaliser, zero where `mask` is False.
        mask: True where an entry holds a weight.
    """

    values: Float[torch.Tensor, "batch width"]
    mask: Bool[torch.Tensor, "batch width"]


def unit_map(view: View, layout: Layout, tokenizer: Tokenizer, spec: PermutationSpec | None) -> UnitMap:
    """Return the rows of a layout under a view.

    Args:
        view: see the module docstring.
        layout: of the networks.
        tokenizer: cuts tokens (view `tokens`).
        spec: hidden units of the layout (view `neurons`).

    Raises:
        DataError: if the view is `neurons` and there is no spec, or no hidden unit.
    """
    if view == "weights":
        return UnitMap(np.arange(layout.size)[None], ("network",))
    if view == "tokens":
        gather = tokenizer.template(layout).gather
        return UnitMap(gather, tuple(_token_name(tokenizer, layout, int(first)) for first in gather[:, 0]))
    if spec is None or not spec.units:
        raise DataError(
            "the hidden units of a layout are unknown", where=f"layout {layout.identity}",
            expected="an architecture that can be rebuilt, with a hidden layer", fix="set sae.input to tokens",
        )  # fmt: skip
    return _neurons(layout, spec)


def tensor_of(layout: Layout, weights: Int[np.ndarray, " width"]) -> list[tuple[str, slice]]:
    """Return the tensors of the entries of one row, in order, with the slice of each."""
    owners = np.where(weights >= 0, _owner(layout)[weights], -1)
    edges = np.flatnonzero(np.diff(owners, prepend=-2, append=-2))
    spans = [slice(start, end) for start, end in itertools.pairwise(edges.tolist())]
    return [(layout.tensors[owners[span.start]].name, span) for span in spans if owners[span.start] >= 0]


class Scatter:
    """Assembles weights from rows of one layout; weights held by several rows are averaged.

    Args:
        units: the rows.
        layout: of the networks.
        normalizer: maps rows to raw units.
    """

    def __init__(self, units: UnitMap, layout: Layout, normalizer: Normalizer) -> None:
        self.mask = units.weights >= 0
        self.places = units.weights[self.mask].astype(np.int64)
        self.counts = np.bincount(self.places, minlength=layout.size)
        self.layout, self.normalizer = layout, normalizer

    def __call__(
        self, values: Float[np.ndarray, "networks unit width"], rest: Float[np.ndarray, " weights"]
    ) -> Vectors:
        """Return raw weights of networks from normalised rows.

        Args:
            values: rows of each network.
            rest: raw weights; used for those that no row holds.
        """
        sums = torch.zeros(len(values), self.layout.size, dtype=torch.float64)
        sums.index_add_(1, torch.from_numpy(self.places), torch.from_numpy(values[:, self.mask].astype(np.float64)))
        known = (sums.numpy() / np.maximum(self.counts, 1)).astype(np.float32)
        return np.where(self.counts > 0, self.normalizer.restore(self.layout, known), rest.astype(np.float32))


class UnitRows:
    """The rows of all networks of a cache.

    Attributes:
        cache: of their tokens.
        view: definition of a row.
        maps: rows of each layout, padded to `width`.
        width: entries per row.
        normalizer: scales the entries.
        networks: zoo row of each network, in the order of the cache.
        network: for each row, the index of its network in `networks`.
        unit: for each row, its index within the network.
    """

    def __init__(self, cache: TokenCache, view: View, normalizer: Normalizer | None = None) -> None:
        """Open a cache.

        Args:
            cache: of the tokens.
            view: see the module docstring.
            normalizer: replaces that of the cache.

        Raises:
            DataError: if the view is `neurons` and the hidden units of a layout are unknown.
        """
        self.cache, self.view = cache, view
        self.normalizer = cache.normalizer if normalizer is None else normalizer
        specs = cache.alignment.specs
        made = {
            name: unit_map(view, layout, cache.tokenizer, specs.get(name)) for name, layout in cache.layouts.items()
        }
        self.width = max(units.weights.shape[1] for units in made.values())
        self.maps = {name: units.padded(self.width) for name, units in made.items()}
        heads = np.flatnonzero(cache.table["window"].to_numpy() == 0)
        self.networks = cache.table["row"].to_numpy(np.int64)[heads]
        self._split = cache.table["split"].to_numpy(str)[heads]
        self._layout = cache.table["layout"].to_numpy(str)[heads]
        self._base = cache.table["offset"].to_numpy(np.int64)[heads] * cache.token_dim
        self._tables()

    def __len__(self) -> int:
        return len(self.unit)

    def rows_of(self, split: str) -> Int[np.ndarray, " row"]:
        """Return the row indices of a split, ascending."""
        self.cache.indices(split)  # raises if unknown
        return np.flatnonzero((self._split == split)[self.network])

    def rows_of_networks(self, places: np.ndarray) -> Int[np.ndarray, " row"]:
        """Return the rows of networks, given by index in `networks`, network by network."""
        return np.concatenate([np.arange(*self._spans[place]) for place in places])

    def places(self, zoo_rows: np.ndarray) -> Int[np.ndarray, " network"]:
        """Return the indices in `networks` of rows of the zoo."""
        order = np.argsort(self.networks)
        return order[np.searchsorted(self.networks[order], zoo_rows)]

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the kind of each row: a code of its layout and name, see `kinds`."""
        return self._kind[self._table[rows]]

    def batch(self, rows: Int[np.ndarray, " batch"]) -> UnitBatch:
        """Return rows, normalised."""
        table = self._table[rows]
        mask = self._mask[table]  # (n, width)
        raw = self._flat[self._base[self.network[rows], None] + self._places[table]]
        values = np.where(mask, (raw - self._shift[table]) / self._scale[table], np.float32(0))
        return UnitBatch(torch.from_numpy(values), torch.from_numpy(mask))

    def _tables(self) -> None:
        """Stack the maps of all layouts, and index all rows."""
        cache, first, starts, parts, kinds = self.cache, 0, {}, [], []
        self.kinds: list[tuple[str, str]] = []  # (layout identity, name of the row)
        for name, units in self.maps.items():
            starts[name], first = first, first + len(units.weights)
            parts.append(self._part(cache.layouts[name], units.weights))
            known = list(dict.fromkeys(units.names))
            kinds += [len(self.kinds) + known.index(unit) for unit in units.names]
            self.kinds += [(name, unit) for unit in known]
        self._places, self._mask, self._shift, self._scale = (np.concatenate(x) for x in zip(*parts, strict=True))
        self._kind = np.array(kinds)
        counts = np.array([len(self.maps[name].weights) for name in self._layout])
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._spans = [(int(start), int(end)) for start, end in itertools.pairwise(self._first.tolist())]
        self.network = np.repeat(np.arange(len(counts)), counts)
        self.unit = np.arange(len(self.network)) - self._first[self.network]
        self._table = np.array([starts[name] for name in self._layout])[self.network] + self.unit
        self._flat = cache.stored.reshape(-1)

    def _part(self, layout: Layout, weights: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the positions of entries in the stored tokens, which of them hold weights, and their shift and scale."""
        mask = weights >= 0
        places = np.where(mask, self.cache.tokenizer.template(layout).scatter[weights], 0)
        shift, scale = self.normalizer.statistics(layout)
        return (
            places,
            mask,
            np.where(mask, shift[weights], np.float32(0)),
            np.where(mask, scale[weights], np.float32(1)),
        )


def _token_name(tokenizer: Tokenizer, layout: Layout, first: int) -> str:
    """Return the tensor in which a token starts, and how far within a unit (neuron) or within the tensor (chunk)."""
    owner = int(_owner(layout)[first])
    spec = layout.tensors[owner]
    start = first - layout.offsets[owner]
    if tokenizer.granularity == "neuron" and spec.shape:
        start %= spec.size // spec.shape[0]
    return f"{spec.name}+{start}" if start else spec.name


def _owner(layout: Layout) -> Int[np.ndarray, " weights"]:
    """Return the tensor index of each weight."""
    return np.repeat(np.arange(len(layout.tensors)), [spec.size for spec in layout.tensors])


def _neurons(layout: Layout, spec: PermutationSpec) -> UnitMap:
    """Return one row per hidden unit: its entries in every tensor, tensor by tensor."""
    flat = layout.unflatten(torch.arange(layout.size, dtype=torch.float64))
    rows, names = [], []
    for group, units in spec.units.items():
        bound = sorted(spec.bindings(group), key=lambda b: list(flat).index(b.tensor))
        parts = [by_unit(flat[b.tensor][None], b.axis, b.how, units)[0] for b in bound if b.tensor in flat]
        rows.append(torch.cat(parts, dim=1).long().numpy())  # (units, entries)
        names += [bound[0].tensor] * units
    width = max(entries.shape[1] for entries in rows)
    padded = [np.pad(entries, ((0, 0), (0, width - entries.shape[1])), constant_values=-1) for entries in rows]
    return UnitMap(np.concatenate(padded), tuple(names))
