"""Scale symmetry of ReLU networks: a unit may be made larger if what reads it is made smaller by as much.

relu(c x) = c relu(x) for c > 0, so that the weights into a unit times c and those out of it divided by c leave the function as it
is; sums of branches, pooling and flattening commute with c as well. Of all networks that are equal in this way the balanced one
is taken: weights w into and v out of each unit have the same norm, which is where |c w|^2 + |v / c|^2 is least.

Behind a normalisation over the batch it is the gain and shift of the normalisation that are scaled: the convolution before it has
a scale of its own that the normalisation undoes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.errors import ModelError
from wscore.symmetry.spec import Axis, PermutationSpec, State, by_unit
from wscore.symmetry.verify import relative_change

HOMOGENEOUS = (
    nn.ReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d,
)  # fmt: skip
SWEEPS = 60
TOLERANCE = 1e-4


class Side(NamedTuple):
    """One axis of a tensor on one side of a group: tensor name, axis number and how it runs over the units."""

    tensor: str
    axis: int
    how: Axis


class ScalingSpec(NamedTuple):
    """What may be scaled together.

    Attributes:
        units: count of units of each group.
        incoming: axes that are multiplied.
        outgoing: axes that are divided.
    """

    units: dict[str, int]
    incoming: dict[str, list[Side]]
    outgoing: dict[str, list[Side]]


def derive_scaling(network: nn.Module, spec: PermutationSpec, example: Tensor) -> ScalingSpec | None:
    """Return what may be scaled in a network; None if it is no ReLU network.

    Args:
        network: the network.
        spec: its permutation symmetry.
        example: inputs on which the result is proven.

    Raises:
        ModelError: if scaling changes the function all the same.
    """
    leaves = [layer for layer in network.modules() if not list(layer.children())]
    if not any(isinstance(layer, nn.ReLU) for layer in leaves) or not all(isinstance(x, HOMOGENEOUS) for x in leaves):
        return None
    if any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in leaves):
        return None  # what enters such a layer and what leaves it would have to share a scale
    found = sides(network, spec)
    _verify(network, found, example)
    return found


def sides(network: nn.Module, spec: PermutationSpec) -> ScalingSpec:
    """Return the axes on both sides of every group of units; whether they may be scaled depends on the activations."""
    normalised = _normalised(network, spec)
    incoming: dict[str, list[Side]] = {group: [] for group in spec.units}
    outgoing: dict[str, list[Side]] = {group: [] for group in spec.units}
    for group in spec.units:
        for tensor, axis, how in spec.bindings(group):
            module, _, leaf = tensor.rpartition(".")
            if axis == 1:
                outgoing[group].append(Side(tensor, axis, how))
            elif leaf in ("weight", "bias") and module not in normalised:
                incoming[group].append(Side(tensor, axis, how))
    return ScalingSpec(dict(spec.units), incoming, outgoing)


def scale(
    spec: ScalingSpec, state: Mapping[str, Tensor], factors: Mapping[str, Float[Tensor, "networks unit"]]
) -> State:
    """Return stacked networks with the weights into each unit times its factor and those out of it divided by it.

    Args:
        spec: what may be scaled.
        state: tensors (networks, *shape).
        factors: positive factors (networks, units) by group.
    """
    result = dict(state)
    for group, factor in factors.items():
        for sides, by in ((spec.incoming[group], factor), (spec.outgoing[group], 1 / factor)):
            for tensor, axis, how in sides:
                result[tensor] = _times(result[tensor], axis, how, by)
    return result


def balance(spec: ScalingSpec, state: Mapping[str, Tensor]) -> State:
    """Return stacked networks (networks, *shape) whose units have incoming and outgoing weights of the same norm.

    Groups are balanced turn by turn until nothing changes; a unit without weights on one side stays as it is.
    """
    current = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for _ in range(SWEEPS):
        largest = 0.0
        for group, units in spec.units.items():
            into, out = (_norms(sides, current, units) for sides in (spec.incoming[group], spec.outgoing[group]))
            alive = (into > 0) & (out > 0)
            factor = torch.where(alive, (out / into.clamp_min(1e-300)).sqrt(), 1.0)
            current = scale(spec, current, {group: factor})
            largest = max(largest, float((factor.log().abs()).max()))
        if largest < TOLERANCE:
            break
    return {name: tensor.to(state[name].dtype) for name, tensor in current.items()}


def _normalised(network: nn.Module, spec: PermutationSpec) -> set[str]:
    """Return the modules whose outputs go through a normalisation that shares their group: their scale is undone there."""
    layers = dict(network.named_modules())
    found, waiting = set(), {}
    for tensor in spec.axes:
        module, _, leaf = tensor.rpartition(".")
        if leaf != "weight" or not spec.axes[tensor]:
            continue
        group = spec.axes[tensor][0].group
        if isinstance(layers[module], nn.BatchNorm1d | nn.BatchNorm2d):
            if group is not None and group in waiting:
                found.add(waiting.pop(group))
        elif group is not None:
            waiting[group] = module
    return found


def _norms(sides: list[Side], state: Mapping[str, Tensor], units: int) -> Float[Tensor, "networks unit"]:
    squares = [by_unit(state[tensor], axis, how, units).square().sum(-1) for tensor, axis, how in sides]
    return (
        torch.stack(squares).sum(0).sqrt() if squares else torch.zeros(len(next(iter(state.values()))), units).double()
    )


def _times(tensor: Tensor, axis: int, how: Axis, factor: Tensor) -> Tensor:
    """Return a stacked tensor with entries of unit u along an axis times factor[u]."""
    whole = factor[:, None, :, None].expand(-1, how.repeat, -1, how.block).flatten(1)  # (M, length)
    return tensor * whole.view(len(whole), *[1] * axis, -1, *[1] * (tensor.ndim - axis - 2)).to(tensor.dtype)


def _verify(network: nn.Module, spec: ScalingSpec, example: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = {
        group: torch.rand(1, units, generator=generator, dtype=torch.float64) * 3.5 + 0.5
        for group, units in spec.units.items()
    }
    change = relative_change(network, lambda state: scale(spec, state, factors), example, generator)
    if not change <= 1e-3:
        raise ModelError(
            "an allowed scaling changes the function", where=type(network).__name__, expected=1e-3, got=change
        )
