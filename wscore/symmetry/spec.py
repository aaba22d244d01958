"""Permutation symmetry of a network: which tensor axes can be permuted together without changing the function.

The hidden units of a layer can be permuted if the axes that produce them and the axes that consume them are permuted
alike (Hecht-Nielsen 1990; Ainsworth et al. 2022, "Git Re-Basin"). A group is a set of units; every tensor axis that runs
over a group is bound to it.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.config import Section
from wscore.errors import ModelError

Count = Annotated[int, msgspec.Meta(ge=0)]
State = dict[str, Tensor]


class Axis(Section):
    """How one axis of a tensor runs over a group: length = repeat * units * block, with units in the middle.

    Args:
        group: name of the group, or null for an axis that must not be permuted.
        repeat: outer repetitions (positions after flattening channels-last features; query, key and value rows).
        block: consecutive entries of one unit (height x width after flattening feature maps; size of a head).
    """

    group: str | None
    repeat: Count
    block: Count


class Binding(NamedTuple):
    """One axis bound to a group: tensor name, axis number and how it runs over the units."""

    tensor: str
    axis: int
    how: Axis


class PermutationSpec(Section):
    """The groups of a network and the binding of every axis of every tensor.

    Args:
        units: number of units of each group.
        axes: for each tensor of the state dict, one entry per axis.
    """

    units: dict[str, Count]
    axes: dict[str, tuple[Axis, ...]]

    def bindings(self, group: str) -> Iterator[Binding]:
        """Yield every axis bound to a group."""
        for name, axes in self.axes.items():
            for number, how in enumerate(axes):
                if how.group == group:
                    yield Binding(name, number, how)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Reject tensors that the axes do not describe.

        Args:
            shapes: of the tensors by name.

        Raises:
            ModelError: naming the first axis that does not fit.
        """
        for group, units in self.units.items():
            for name, axis, how in self.bindings(group):
                length = shapes.get(name, ())[axis : axis + 1]
                if length != (how.repeat * units * how.block,):
                    expected, got = f"{how.repeat} x {units} x {how.block}", length[0] if length else "no such axis"
                    raise ModelError(
                        "axis does not fit its group", where=f"{name} axis {axis}", expected=expected, got=got
                    )

    def to_json(self) -> str:
        """Return the spec as JSON text."""
        return msgspec.json.encode(self).decode()


def identity_orders(spec: PermutationSpec, count: int) -> dict[str, Int[Tensor, "networks unit"]]:
    """Return the identity order of every group, for `count` networks."""
    return {group: torch.arange(units).expand(count, units).clone() for group, units in spec.units.items()}


def random_orders(
    spec: PermutationSpec, count: int, generator: torch.Generator
) -> dict[str, Int[Tensor, "networks unit"]]:
    """Return for every group one random order per network."""
    return {
        group: torch.argsort(torch.rand(count, units, generator=generator), dim=1)
        for group, units in spec.units.items()
    }


def permute(spec: PermutationSpec, state: Mapping[str, Tensor], orders: Mapping[str, Tensor]) -> State:
    """Return stacked state dicts whose unit u of each group is the former unit order[u].

    Args:
        spec: symmetry of the network.
        state: tensors (networks, *shape); those not in the spec are left unchanged.
        orders: for some or all groups, orders (networks, units).

    Raises:
        ModelError: if a bound axis does not have repeat * units * block entries.
    """
    result = dict(state)
    for group, order in orders.items():
        for name, axis, how in spec.bindings(group):
            result[name] = _reorder(result[name], axis + 1, how, order, where=name)
    return result


def by_unit(
    tensor: Float[Tensor, "networks ..."], axis: int, how: Axis, units: int
) -> Float[Tensor, "networks unit rest"]:
    """Return a stacked tensor as one row per unit of the group bound to `axis` (counted without the stack axis)."""
    parts = tensor.unflatten(axis + 1, (how.repeat, units, how.block))
    return parts.movedim(axis + 2, 1).flatten(2)  # (M, U, rest)


def _reorder(tensor: Tensor, axis: int, how: Axis, order: Tensor, *, where: str) -> Tensor:
    units = order.shape[1]
    if tensor.shape[axis] != how.repeat * units * how.block:
        expected = f"{how.repeat} x {units} x {how.block}"
        raise ModelError(
            "axis does not fit its group", where=f"{where} axis {axis - 1}", expected=expected, got=tensor.shape[axis]
        )
    parts = tensor.unflatten(axis, (how.repeat, units, how.block))
    index = order.to(tensor.device).view(len(order), *([1] * axis), units, *([1] * (parts.ndim - axis - 2)))
    return torch.take_along_dim(
        parts, index.expand(*parts.shape[: axis + 1], units, *parts.shape[axis + 2 :]), axis + 1
    ).flatten(axis, axis + 2)
