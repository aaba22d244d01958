"""Networks as many equally long rows, each a part of one network: what a sparse dictionary is learned from.

    view      a row is
    tokens    a token of the cache, as it was cut
    neurons   a hidden unit: all that leads into it, its bias and normalisation, and all that leads out of it; a weight
              between two hidden layers is in the rows of both. Weights of no hidden unit (a last bias) are in no row.
    weights   a whole network

Rows are read from the memory-mapped tokens of a cache, normalised as its batches are, padded with zeros to the longest.
Everything rests on one integer map per layout: entry (u, e) names the weight that stands at place e of row u, or -1.
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
    """How the weights of one layout lie in rows.

    Attributes:
        weights: place in the flat vector of the weight at each entry (units, width), -1 for padding.
        names: what each row is, such as `0.weight` for a unit of that tensor; rows of the same name hold weights of the
            same tensors in the same order.
    """

    weights: Int[np.ndarray, "unit width"]
    names: tuple[str, ...]

    def padded(self, width: int) -> "UnitMap":
        """Return the same rows with padding up to a width."""
        extra = width - self.weights.shape[1]
        return self._replace(weights=np.pad(self.weights, ((0, 0), (0, extra)), constant_values=-1))


class UnitBatch(NamedTuple):
    """Some rows.

    Attributes:
        values: weights on the scale of the normaliser, zero where `mask` is False.
        mask: True where an entry holds a weight.
    """

    values: Float[torch.Tensor, "batch width"]
    mask: Bool[torch.Tensor, "batch width"]


def unit_map(view: View, layout: Layout, tokenizer: Tokenizer, spec: PermutationSpec | None) -> UnitMap:
    """Return the rows that a view makes of a layout.

    Args:
        view: see above.
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
            "the hidden units of a layout are not known", where=f"layout {layout.identity}",
            expected="an architecture that can be built again, with a hidden layer", fix="set sae.input to tokens",
        )  # fmt: skip
    return _neurons(layout, spec)


def tensor_of(layout: Layout, weights: Int[np.ndarray, " width"]) -> list[tuple[str, slice]]:
    """Return the tensors that the entries of one row come from, in order, with the entries of each."""
    owners = np.where(weights >= 0, _owner(layout)[weights], -1)
    edges = np.flatnonzero(np.diff(owners, prepend=-2, append=-2))
    spans = [slice(start, end) for start, end in itertools.pairwise(edges.tolist())]
    return [(layout.tensors[owners[span.start]].name, span) for span in spans if owners[span.start] >= 0]


class Scatter:
    """Puts rows of one layout together again; weights that several rows hold become their mean.

    Args:
        units: the rows.
        layout: of the networks.
        normalizer: brings rows back to raw units.
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
            rest: raw weights for those that no row holds.
        """
        sums = torch.zeros(len(values), self.layout.size, dtype=torch.float64)
        sums.index_add_(1, torch.from_numpy(self.places), torch.from_numpy(values[:, self.mask].astype(np.float64)))
        known = (sums.numpy() / np.maximum(self.counts, 1)).astype(np.float32)
        return np.where(self.counts > 0, self.normalizer.restore(self.layout, known), rest.astype(np.float32))


class UnitRows:
    """The rows of all networks of a cache.

    Attributes:
        cache: of their tokens.
        view: which part of a network a row is.
        maps: rows of each layout, padded to `width`.
        width: entries per row.
        normalizer: by whose scale entries are read.
        networks: zoo row of each network, in the order of the cache.
        network: for each row, the place of its network in `networks`.
        unit: for each row, its number within the network.
    """

    def __init__(self, cache: TokenCache, view: View, normalizer: Normalizer | None = None) -> None:
        """Open a cache.

        Args:
            cache: of the tokens.
            view: see the module.
            normalizer: instead of that of the cache.

        Raises:
            DataError: if the view is `neurons` and the hidden units of a layout are not known.
        """
        self.cache, self.view = cache, view
        self.normalizer = cache.normalizer if normalizer is None else normalizer
        specs = cache.alignment.specs
        made = {
            name: unit_map(view, layout, cache.tokenizer, specs.get(name)) for name, layout in cache.layouts.items()
        }
        self.width = max(one.weights.shape[1] for one in made.values())
        self.maps = {name: one.padded(self.width) for name, one in made.items()}
        heads = np.flatnonzero(cache.table["window"].to_numpy() == 0)
        self.networks = cache.table["row"].to_numpy(np.int64)[heads]
        self._split = cache.table["split"].to_numpy(str)[heads]
        self._layout = cache.table["layout"].to_numpy(str)[heads]
        self._base = cache.table["offset"].to_numpy(np.int64)[heads] * cache.token_dim
        self._tables()

    def __len__(self) -> int:
        return len(self.unit)

    def rows_of(self, split: str) -> Int[np.ndarray, " row"]:
        """Return the numbers of the rows of a split, ascending."""
        self.cache.indices(split)  # refuses an unknown one
        return np.flatnonzero((self._split == split)[self.network])

    def rows_of_networks(self, places: np.ndarray) -> Int[np.ndarray, " row"]:
        """Return the rows of networks, given by their places in `networks`, network by network."""
        return np.concatenate([np.arange(*self._spans[place]) for place in places])

    def places(self, zoo_rows: np.ndarray) -> Int[np.ndarray, " network"]:
        """Return the places in `networks` of rows of the zoo."""
        order = np.argsort(self.networks)
        return order[np.searchsorted(self.networks[order], zoo_rows)]

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return what each row is: a code of its layout and name, see `kinds`."""
        return self._kind[self._table[rows]]

    def batch(self, rows: Int[np.ndarray, " batch"]) -> UnitBatch:
        """Return rows, normalised."""
        table = self._table[rows]
        mask = self._mask[table]  # (n, width)
        raw = self._flat[self._base[self.network[rows], None] + self._places[table]]
        values = np.where(mask, (raw - self._shift[table]) / self._scale[table], np.float32(0))
        return UnitBatch(torch.from_numpy(values), torch.from_numpy(mask))

    def _tables(self) -> None:
        """Stack the maps of all layouts, and number all rows."""
        cache, first, starts, parts, kinds = self.cache, 0, {}, [], []
        self.kinds: list[tuple[str, str]] = []  # (layout identity, name of the row)
        for name, units in self.maps.items():
            starts[name], first = first, first + len(units.weights)
            parts.append(self._part(cache.layouts[name], units.weights))
            known = list(dict.fromkeys(units.names))
            kinds += [len(self.kinds) + known.index(one) for one in units.names]
            self.kinds += [(name, one) for one in known]
        self._places, self._mask, self._shift, self._scale = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._kind = np.array(kinds)
        counts = np.array([len(self.maps[name].weights) for name in self._layout])
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._spans = [(int(start), int(end)) for start, end in itertools.pairwise(self._first.tolist())]
        self.network = np.repeat(np.arange(len(counts)), counts)
        self.unit = np.arange(len(self.network)) - self._first[self.network]
        self._table = np.array([starts[name] for name in self._layout])[self.network] + self.unit
        self._flat = cache.stored.reshape(-1)

    def _part(self, layout: Layout, weights: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return where entries lie in the stored tokens of a network, which hold weights, their shift and scale."""
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
    """Return the number of the tensor that each weight belongs to."""
    return np.repeat(np.arange(len(layout.tensors)), [spec.size for spec in layout.tensors])


def _neurons(layout: Layout, spec: PermutationSpec) -> UnitMap:
    """Return one row per hidden unit: the entries of every tensor that belong to it, tensor by tensor."""
    flat = layout.unflatten(torch.arange(layout.size, dtype=torch.float64))
    rows, names = [], []
    for group, units in spec.units.items():
        bound = sorted(spec.bindings(group), key=lambda one: list(flat).index(one.tensor))
        parts = [by_unit(flat[one.tensor][None], one.axis, one.how, units)[0] for one in bound if one.tensor in flat]
        rows.append(torch.cat(parts, dim=1).long().numpy())  # (units, entries)
        names += [bound[0].tensor] * units
    width = max(part.shape[1] for part in rows)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in rows]
    return UnitMap(np.concatenate(padded), tuple(names))
