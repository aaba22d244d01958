"""How networks of a zoo are put in order once the orders of their runs are known: little enough for another process."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from wscore.networks.architectures import build, parse
from wscore.networks.layout import Layout
from wscore.symmetry.scaling import ScalingSpec, balance, derive_scaling
from wscore.symmetry.signs import derive_signs, flip, match_signed
from wscore.symmetry.spec import PermutationSpec, permute
from wscore.symmetry.trace import derive_spec
from wscore.zoo.store import Zoo

State = dict[str, Tensor]
Derive = Callable[[nn.Module, PermutationSpec, Tensor], ScalingSpec | None]


class Reference(NamedTuple):
    """What networks of one layout are matched to.

    Attributes:
        spec: which units may be reordered.
        vector: flat weights of the reference network.
    """

    spec: PermutationSpec
    vector: Float32[np.ndarray, " weights"]


class Matched(NamedTuple):
    """What was found for networks of one layout, in as few bytes as hold it.

    Attributes:
        orders: by group, (networks, units).
        signs: by group, (networks, units), 1 or -1; empty unless signs are matched too.
    """

    orders: dict[str, np.ndarray]
    signs: dict[str, np.ndarray]

    @classmethod
    def of(cls, orders: Mapping[str, Tensor], signs: Mapping[str, Tensor] = MappingProxyType({})) -> "Matched":
        """Return orders in two bytes per unit where that is enough, and signs in one."""
        kinds = {group: np.int16 if order.shape[1] < 1 << 15 else np.int64 for group, order in orders.items()}
        return cls(
            {group: order.numpy().astype(kinds[group]) for group, order in orders.items()},
            {group: sign.numpy().astype(np.int8) for group, sign in signs.items()},
        )

    @classmethod
    def join(cls, parts: Sequence["Matched"]) -> "Matched":
        """Return what was found for several sets of networks of one layout, one after the other."""
        orders, signs = (
            {group: np.concatenate([part[field][group] for part in parts]) for group in parts[0][field]}
            for field in (0, 1)
        )
        return cls(orders, signs)

    def rows(self, rows: np.ndarray) -> "Matched":
        """Return what was found for some of the networks."""
        return Matched(*({group: part[rows] for group, part in found.items()} for found in self))


class Placing(NamedTuple):
    """How the runs of one layout are put in order.

    Attributes:
        spec: which units may be reordered.
        places: row of each run in what was found.
        found: orders and signs, a row for each run.
    """

    spec: PermutationSpec
    places: dict[str, int]
    found: Matched

    def only(self, runs: np.ndarray) -> "Placing":
        """Return the part about some runs."""
        names = np.unique(runs.astype(str)).tolist()
        rows = np.array([self.places[name] for name in names], np.int64)
        return Placing(self.spec, {name: place for place, name in enumerate(names)}, self.found.rows(rows))

    def of(self, runs: np.ndarray) -> Matched:
        """Return orders and signs of networks, told by their runs."""
        return self.found.rows(np.array([self.places[str(run)] for run in runs], np.int64))


class PerArchitecture(ABC):
    """What networks of one layout share that differ in their architecture: of a zoo, told by run.

    Args:
        zoo: the networks; their architectures are told by run.
        derive: what is looked for in a network, from (network, permutation symmetry, example inputs).
    """

    def __init__(self, zoo: Zoo, derive: Derive) -> None:
        table = zoo.table.drop_duplicates(subset="run_id")
        names = table["run_id"].astype(str), table["architecture"].astype(str)
        self.architectures = dict(zip(*names, strict=True))
        self.derive, self.specs = derive, dict[str, ScalingSpec | None]({"": None})

    def groups(self, runs: np.ndarray) -> Iterator[tuple[np.ndarray, ScalingSpec | None]]:
        """Yield for each architecture the places of its networks, told by their runs, and what was found in it."""
        names = np.array([self.architectures[str(run)] for run in runs])
        for name in np.unique(names).tolist():
            if name not in self.specs:
                network, example = build(name), example_of(name)
                self.specs[name] = self.derive(network, derive_spec(network, example), example)
            yield np.flatnonzero(names == name), self.specs[name]

    def only(self, runs: np.ndarray) -> "PerArchitecture":
        """Return the part about some runs, which is little enough to be sent to another process."""
        part = copy(self)
        part.architectures = {name: self.architectures[name] for name in np.unique(runs.astype(str)).tolist()}
        return part

    def apply(
        self,
        layout: Layout,
        vectors: Float[np.ndarray, "networks weights"],
        runs: np.ndarray,
        signs: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks of one layout, those moved in whose architecture something was found."""
        result = np.array(vectors, np.float32)
        for places, spec in self.groups(runs):
            if spec is not None:
                state = layout.unflatten(torch.from_numpy(result[places]))
                own = {group: torch.from_numpy(sign[places].astype(np.float64)) for group, sign in signs.items()}
                result[places] = _flat(layout, self.moved(spec, state, own))
        return result

    @abstractmethod
    def moved(self, spec: Any, state: State, signs: State) -> State:
        """Return stacked networks (networks, *shape) of one architecture with the symmetry that was found used up."""


class Scaling(PerArchitecture):
    """Balances the ReLU networks of a zoo; the others, and those of unknown architecture, stay as they are.

    Args:
        zoo: the networks.
    """

    def __init__(self, zoo: Zoo) -> None:
        super().__init__(zoo, derive_scaling)

    def moved(self, spec: Any, state: State, signs: State) -> State:  # noqa: ARG002
        """Return networks with balanced units."""
        return balance(spec, state)


class Signs(PerArchitecture):
    """Matches the signs of hidden units along with their order, where activations are odd (`wscore.symmetry.signs`).

    Args:
        zoo: the networks.
    """

    def __init__(self, zoo: Zoo) -> None:
        super().__init__(zoo, derive_signs)

    def match(
        self, layout: Layout, reference: Reference, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> Matched:
        """Return the orders and signs of networks of one layout."""
        units = reference.spec.units
        orders = {group: torch.zeros(len(runs), count).long() for group, count in units.items()}
        signs = {group: torch.ones(len(runs), count) for group, count in units.items()}
        goal = layout.unflatten(torch.from_numpy(reference.vector))
        for places, flips in self.groups(runs):
            found = match_signed(reference.spec, flips, goal, layout.unflatten(torch.from_numpy(vectors[places])))
            rows = torch.from_numpy(places)
            for group in units:
                orders[group][rows] = found.orders[group]
                signs[group][rows] = found.signs[group].float()
        return Matched.of(orders, signs)

    def moved(self, spec: Any, state: State, signs: State) -> State:
        """Return networks, already in their order, with the signs that were found for their runs."""
        return flip(spec, state, {group: signs[group] for group in spec.units})


class Placed(NamedTuple):
    """What puts networks of a zoo in order, told by their runs: what was found for these, without the references.

    Attributes:
        placings: by layout; others stay as they are.
        symmetry: further symmetries that are used up.
    """

    placings: dict[str, Placing]
    symmetry: PerArchitecture | None

    def only(self, runs: Mapping[str, np.ndarray]) -> "Placed":
        """Return the part about some runs of each layout, which is little enough to be sent to another process."""
        known = {name: some for name, some in runs.items() if name in self.placings}
        every = np.concatenate([*known.values(), np.array([], object)])
        symmetry = None if self.symmetry is None else self.symmetry.only(every)
        return Placed({name: self.placings[name].only(some) for name, some in known.items()}, symmetry)

    def apply_runs(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks, each in the order (and with the signs) found for its run."""
        if layout.identity not in self.placings or not len(vectors):
            return vectors
        placing = self.placings[layout.identity]
        if isinstance(self.symmetry, Scaling):
            vectors = self.symmetry.apply(layout, vectors, runs)
        orders, signs = placing.of(runs)
        found = {group: torch.from_numpy(order.astype(np.int64)) for group, order in orders.items()}
        ordered = permuted(layout, placing.spec, vectors, found)
        return self.symmetry.apply(layout, ordered, runs, signs) if isinstance(self.symmetry, Signs) else ordered


def _flat(layout: Layout, state: Mapping[str, Tensor]) -> np.ndarray:
    """Return stacked state dicts as vectors (networks, weights)."""
    return torch.cat([state[tensor.name].flatten(1) for tensor in layout.tensors], dim=1).numpy()


def permuted(layout: Layout, spec: PermutationSpec, vectors: np.ndarray, orders: Mapping[str, Tensor]) -> np.ndarray:
    """Return networks of one layout in given orders (networks, units) by group."""
    return _flat(layout, permute(spec, layout.unflatten(torch.from_numpy(np.ascontiguousarray(vectors))), orders))


def example_of(architecture: str) -> Tensor:
    """Return inputs on which a symmetry is proven."""
    return torch.rand(4, *parse(architecture).input, generator=torch.Generator().manual_seed(0))
