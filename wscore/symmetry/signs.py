"""Sign symmetry of networks with odd activations: a unit may change its sign if what reads it changes sign too.

tanh(-x) = -tanh(x), so that a hidden unit whose incoming weights and bias and whose outgoing weights are all multiplied by -1
computes what it computed (Chen, Lu & Hecht-Nielsen 1993, "On the geometry of feedforward neural network error surfaces"). Sums
of branches, means and flattening commute with a change of sign; the largest of several values doesn't, so that units which are
pooled by it have no such symmetry. Behind a normalisation over the batch it is its gain and shift that change sign.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.errors import ModelError
from wscore.symmetry.matching import SWEEPS, assign, similarity
from wscore.symmetry.scaling import ScalingSpec, scale, sides
from wscore.symmetry.spec import PermutationSpec, State, identity, permute
from wscore.symmetry.verify import relative_change

ODD = (
    nn.Tanh, nn.Identity, nn.Flatten, nn.Dropout, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Linear, nn.Conv2d, nn.BatchNorm2d,
    nn.BatchNorm1d,
)  # fmt: skip
LARGEST = (nn.MaxPool2d, nn.AdaptiveMaxPool2d)  # of which units that are not pooled are free
TOLERANCE = 1e-4


class Signed(NamedTuple):
    """Orders and signs of the units of networks, by group.

    Attributes:
        orders: (networks, units).
        signs: (networks, units), 1 or -1: unit u is the former unit order[u] times sign[u].
    """

    orders: dict[str, Int[Tensor, "networks unit"]]
    signs: dict[str, Float[Tensor, "networks unit"]]


def derive_signs(network: nn.Module, spec: PermutationSpec, example: Tensor) -> ScalingSpec | None:
    """Return the groups of units that may change sign, and what changes with them; None if there are none.

    Every group that is returned is proven on the example: random signs leave the outputs as they are.

    Args:
        network: the network.
        spec: its permutation symmetry.
        example: inputs on which the result is proven.
    """
    leaves = [layer for layer in network.modules() if not list(layer.children())]
    if not any(isinstance(layer, nn.Tanh) for layer in leaves) or not all(isinstance(x, ODD + LARGEST) for x in leaves):
        return None
    if any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in leaves):
        return None  # what enters such a layer and what leaves it would have to share a sign
    every = sides(network, spec)
    free = [group for group in every.units if _is_free(network, every, group, example)]
    incoming, outgoing = ({group: part[group] for group in free} for part in (every.incoming, every.outgoing))
    return ScalingSpec({group: every.units[group] for group in free}, incoming, outgoing) if free else None


def flip(spec: ScalingSpec, state: Mapping[str, Tensor], signs: Mapping[str, Float[Tensor, "networks unit"]]) -> State:
    """Return stacked networks with the weights into and out of each unit times its sign; flipping twice changes nothing.

    Args:
        spec: what may change sign, from `derive_signs`.
        state: tensors (networks, *shape).
        signs: 1 or -1 (networks, units) by group.

    Raises:
        ModelError: if a group has no such symmetry (ReLU, GELU, the largest of several values), or a sign is neither 1 nor -1.
    """
    foreign = sorted(set(signs) - set(spec.units))
    if foreign:
        raise ModelError(
            "these units may not change sign: what follows them is not odd", expected=sorted(spec.units), got=foreign,
            fix="flip units of `derive_signs` only",
        )  # fmt: skip
    for group, sign in signs.items():
        if not bool((sign.abs() == 1).all()):
            raise ModelError("is no sign", where=group, expected="1 or -1", got=sign[sign.abs() != 1][0].item())
    return scale(spec, state, signs)


def match_signed(
    spec: PermutationSpec, flips: ScalingSpec | None, reference: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Signed:
    """Return the orders and signs that bring stacked networks closest to the reference, as `match_weights` does for orders.

    <reference unit i, s network unit j> = U_ij + s F_ij, with F over what changes sign and U over what does not; the best
    sign is that of F_ij, so that U + |F| is what the assignment maximises. `flip(permute(state))` applies both.

    Args:
        spec: permutation symmetry of the networks.
        flips: what may change sign; None for nothing.
        reference: one state dict, tensors (*shape).
        state: stacked state dicts, tensors (networks, *shape).
    """
    count = len(next(iter(state.values())))
    orders = identity(spec, count)
    signs = {group: torch.ones_like(order, dtype=torch.float64) for group, order in orders.items()}
    current = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
    fixed = {name: reference[name].double()[None] for name in current}
    for _ in range(SWEEPS):
        changed = False
        for group in spec.units:
            step, sign = _step(spec, flips, group, fixed, current)
            if bool((step == torch.arange(step.shape[1])).all()) and bool((sign == 1).all()):
                continue
            changed = True
            current = permute(spec, current, {group: step})
            current = current if flips is None or group not in flips.units else flip(flips, current, {group: sign})
            orders[group], signs[group] = orders[group].gather(1, step), signs[group].gather(1, step) * sign
        if not changed:
            break
    return Signed(orders, signs)


def _step(
    spec: PermutationSpec, flips: ScalingSpec | None, group: str, fixed: State, current: State
) -> tuple[Int[Tensor, "networks unit"], Float[Tensor, "networks unit"]]:
    """Return the best order of one group, all else as it is, and the signs that go with it."""
    whole = similarity(spec, group, fixed, current)  # (M, U, U)
    if flips is None or group not in flips.units:
        step = assign(whole)
        return step, torch.ones(step.shape, dtype=torch.float64)
    moving = {(side.tensor, side.axis) for side in flips.incoming[group] + flips.outgoing[group]}
    odd = similarity(spec, group, fixed, current, only=moving)
    step = assign(whole - odd + odd.abs())
    chosen = odd.gather(2, step[:, :, None])[..., 0]
    return step, torch.where(chosen < 0, -1.0, 1.0).double()


def _is_free(network: nn.Module, spec: ScalingSpec, group: str, example: Tensor) -> bool:
    """Return whether signs of one group leave the function as it is."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.where(torch.arange(spec.units[group]) % 2 == 0, -1.0, 1.0)[None].double()
    change = relative_change(network, lambda state: scale(spec, state, {group: signs}), example, generator)
    return change <= TOLERANCE and bool(spec.incoming[group]) and bool(spec.outgoing[group])
