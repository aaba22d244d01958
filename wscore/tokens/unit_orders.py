"""Applies matched unit permutations to networks by run; small enough to send to a worker."""

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
    """Reference network of one layout.

    Attributes:
        spec: permutation symmetry of the layout.
        vector: flat weights of the reference network.
    """

    spec: PermutationSpec
    vector: Float32[np.ndarray, " weights"]


class Placing(NamedTuple):
    """Unit orders of the runs of one layout.

    Attributes:
        spec: permutation symmetry of the layout.
        places: row of each run in the orders.
        orders: by group, (runs, units).
    """

    spec: PermutationSpec
    places: dict[str, int]
    orders: Orders

    def only(self, runs: np.ndarray) -> "Placing":
        """Return the orders of some runs only."""
        names = np.unique(runs.astype(str)).tolist()
        return Placing(self.spec, {name: place for place, name in enumerate(names)}, self.of(np.array(names)))

    def of(self, runs: np.ndarray) -> Orders:
        """Return the orders of networks, given their runs."""
        rows = np.array([self.places[str(run)] for run in runs], np.int64)
        return {group: order[rows] for group, order in self.orders.items()}


class Placed(dict[str, Placing]):
    """Unit orders of the runs of a zoo, by layout; networks of other layouts are left unchanged."""

    def only(self, runs: Mapping[str, np.ndarray]) -> "Placed":
        """Return the orders of some runs of each layout only, small enough to send to a worker."""
        return Placed({name: self[name].only(chosen) for name, chosen in runs.items() if name in self})

    def apply_runs(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks permuted by the orders of their runs."""
        if layout.identity not in self or not len(vectors):
            return vectors
        placing = self[layout.identity]
        orders = {group: torch.from_numpy(order.astype(np.int64)) for group, order in placing.of(runs).items()}
        return permuted(layout, placing.spec, vectors, orders)


def compact(orders: Mapping[str, Tensor]) -> Orders:
    """Return orders with two bytes per unit where possible."""
    kinds = {group: np.int16 if order.shape[1] < 1 << 15 else np.int64 for group, order in orders.items()}
    return {group: order.numpy().astype(kinds[group]) for group, order in orders.items()}


def join_orders(parts: Sequence[Orders]) -> Orders:
    """Return the concatenated orders of several sets of networks of one layout."""
    return {group: np.concatenate([orders[group] for orders in parts]) for group in parts[0]}


def permuted(layout: Layout, spec: PermutationSpec, vectors: np.ndarray, orders: Mapping[str, Tensor]) -> np.ndarray:
    """Return networks of one layout permuted by orders (networks, units) of each group."""
    state = permute(spec, layout.unflatten(torch.from_numpy(np.ascontiguousarray(vectors))), orders)
    return torch.cat([state[tensor.name].flatten(1) for tensor in layout.tensors], dim=1).numpy()
