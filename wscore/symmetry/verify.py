"""Numerical check of a permutation spec: allowed permutations preserve the function, uncoupled ones don't."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wscore.errors import ModelError
from wscore.symmetry.spec import PermutationSpec, permute, random_orders


class SymmetryCheck(NamedTuple):
    """Result of the check of a spec.

    Attributes:
        coupled: largest relative change of the outputs under a random allowed permutation.
        uncoupled: smallest relative change when a single axis of a group is permuted without the others.
    """

    coupled: float
    uncoupled: float


def verify_spec(
    network: nn.Module, spec: PermutationSpec, example: Tensor, *, seed: int = 0, tolerance: float = 1e-4
) -> SymmetryCheck:
    """Return how outputs on `example` change under allowed and under uncoupled permutations.

    Biases and normalization parameters and buffers are randomized first: constant ones would hide a missing axis.

    Raises:
        ModelError: if an allowed permutation changes the outputs by more than `tolerance` (relative to their norm).
    """
    generator = torch.Generator().manual_seed(seed)
    state = {name: _randomised(tensor, generator)[None] for name, tensor in network.state_dict().items()}
    before = _run(network, state, example)
    orders = random_orders(spec, 1, generator)
    coupled = _change(before, _run(network, permute(spec, state, orders), example))
    if not coupled <= tolerance:
        raise ModelError(
            "an allowed permutation changes the function", where=type(network).__name__, expected=tolerance, got=coupled
        )
    uncoupled = [
        _change(before, _run(network, permute(single, state, {group: _shifted(spec.units[group])}), example))
        for group in spec.units
        if spec.units[group] > 1
        for single in _apart(spec, group)
    ]
    return SymmetryCheck(coupled, min(uncoupled, default=float("inf")))


def _apart(spec: PermutationSpec, group: str) -> list[PermutationSpec]:
    """Return specs that each bind a single axis of the group."""
    free = list(spec.bindings(group))
    singles = []
    for tensor, axis, how in free:
        unbound = [type(how)(group=None, repeat=1, block=1)] * len(spec.axes[tensor])
        unbound[axis] = how
        singles.append(PermutationSpec(units={group: spec.units[group]}, axes={tensor: tuple(unbound)}))
    return singles if len(free) > 1 else []


def _shifted(units: int) -> Tensor:
    return torch.arange(units).roll(1)[None]


def _randomised(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    noise = torch.rand(tensor.shape, generator=generator)
    return tensor + 0.5 * noise if tensor.ndim == 1 else tensor


def _run(network: nn.Module, state: dict[str, Tensor], example: Tensor) -> Tensor:
    training = network.training
    network.eval()
    with torch.no_grad():
        result = functional_call(network, {name: tensor[0] for name, tensor in state.items()}, (example,))
    network.train(training)
    return result


def _change(before: Tensor, after: Tensor) -> float:
    return float((after - before).norm() / before.norm().clamp_min(1e-12))
