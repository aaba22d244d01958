"""Weight matching: permutes the units of networks to bring their weights closest to a reference.

Ainsworth et al. 2022, "Git Re-Basin", algorithm 1: maximize the sum over tensors of <reference, P(network)>, one group
of units at a time; each step is a linear assignment problem; sweep over the groups until nothing changes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.symmetry.spec import PermutationSpec, by_unit, identity_orders, permute

SWEEPS = 25
STATISTICS = ("running_mean", "running_var")


def match_weights(
    spec: PermutationSpec, reference: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Int[Tensor, "networks unit"]]:
    """Return for every group the order (networks, units) that brings stacked networks closest to the reference.

    `permute(spec, state, orders)` applies it. Running statistics of normalization layers are ignored.

    Args:
        spec: symmetry of the networks.
        reference: one state dict, tensors (*shape).
        state: stacked state dicts, tensors (networks, *shape).
    """
    count = len(next(iter(state.values())))
    orders = identity_orders(spec, count)
    current = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
    fixed = {name: reference[name].double()[None] for name in current}
    for _ in range(SWEEPS):
        changed = False
        for group in spec.units:
            step = assign(similarity(spec, group, fixed, current))
            if bool((step == torch.arange(step.shape[1])).all()):
                continue
            changed = True
            current = permute(spec, current, {group: step})
            orders[group] = orders[group].gather(1, step)
        if not changed:
            break
    return orders


def similarity(
    spec: PermutationSpec, group: str, reference: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Float[Tensor, "networks unit unit2"]:
    """Return <reference unit i, network unit j> summed over the axes bound to the group.

    Args:
        spec: symmetry of the networks.
        group: of units to compare.
        reference: stack of one state dict, tensors (1, *shape).
        state: stacked state dicts, tensors (networks, *shape).
    """
    units = spec.units[group]
    total = torch.zeros(len(next(iter(state.values()))), units, units, dtype=torch.float64)
    for name, axis, how in spec.bindings(group):
        if name not in state or name.endswith(STATISTICS):
            continue
        ours = by_unit(state[name], axis, how, units)  # (M, U, rest)
        theirs = by_unit(reference[name], axis, how, units)  # (1, U, rest)
        total += theirs @ ours.transpose(1, 2)  # (M, U, U)
    return total


def assign(similarity: Float[Tensor, "networks unit unit2"]) -> Int[Tensor, "networks unit"]:
    """Return the best order of each network; ties keep the current order.

    >>> assign(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
    tensor([[1, 0]])
    """
    from scipy.optimize import linear_sum_assignment

    units = similarity.shape[1]
    stay = torch.eye(units, dtype=similarity.dtype) * (similarity.abs().amax((1, 2), keepdim=True) * 1e-12)
    costs = (similarity + stay).numpy()
    return torch.from_numpy(np.stack([linear_sum_assignment(cost, maximize=True)[1] for cost in costs]))
