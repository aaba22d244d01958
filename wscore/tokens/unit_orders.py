"""How networks of a zoo are put in order once the orders of their runs are known: little enough for another process."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from wscore.networks.layout import Layout
from wscore.symmetry.spec import PermutationSpec, permute

Orders = dict[str, np.ndarray]  # (networks, units) of each group of units


class Reference(NamedTuple):
    """What networks of one layout are matched to.

    Attributes:
        spec: which units may be reordered.
        vector: flat weights of the reference network.
    """

    spec: PermutationSpec
    vector: Float32[np.ndarray, " weights"]


class Placing(NamedTuple):
    """How the runs of one layout are put in order.

    Attributes:
        spec: which units may be reordered.
        places: row of each run in the orders.
        orders: by group, (runs, units).
    """

    spec: PermutationSpec
    places: dict[str, int]
    orders: Orders

    def only(self, runs: np.ndarray) -> "Placing":
        """Return the part about some runs."""
        names = np.unique(runs.astype(str)).tolist()
        return Placing(self.spec, {name: place for place, name in enumerate(names)}, self.of(np.array(names)))

    def of(self, runs: np.ndarray) -> Orders:
        """Return the orders of networks, given their runs."""
        rows = np.array([self.places[str(run)] for run in runs], np.int64)
        return {group: order[rows] for group, order in self.orders.items()}


class Placed(dict[str, Placing]):
    """How networks of a zoo are put in order by their runs, by layout; networks of other layouts stay as they are."""

    def only(self, runs: Mapping[str, np.ndarray]) -> "Placed":
        """Return the part about some runs of each layout, which is little enough to be sent to another process."""
        return Placed({name: self[name].only(some) for name, some in runs.items() if name in self})

    def apply_runs(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks, each in the order found for its run."""
        if layout.identity not in self or not len(vectors):
            return vectors
        placing = self[layout.identity]
        orders = {group: torch.from_numpy(order.astype(np.int64)) for group, order in placing.of(runs).items()}
        return permuted(layout, placing.spec, vectors, orders)


def compact(orders: Mapping[str, Tensor]) -> Orders:
    """Return orders in two bytes per unit where that is enough."""
    kinds = {group: np.int16 if order.shape[1] < 1 << 15 else np.int64 for group, order in orders.items()}
    return {group: order.numpy().astype(kinds[group]) for group, order in orders.items()}


def join_orders(parts: Sequence[Orders]) -> Orders:
    """Return the orders of several sets of networks of one layout, one after the other."""
    return {group: np.concatenate([part[group] for part in parts]) for group in parts[0]}


def permuted(layout: Layout, spec: PermutationSpec, vectors: np.ndarray, orders: Mapping[str, Tensor]) -> np.ndarray:
    """Return networks of one layout in given orders (networks, units) by group."""
    state = permute(spec, layout.unflatten(torch.from_numpy(np.ascontiguousarray(vectors))), orders)
    return torch.cat([state[tensor.name].flatten(1) for tensor in layout.tensors], dim=1).numpy()
