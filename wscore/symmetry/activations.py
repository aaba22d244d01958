"""Activation matching: every network is put into the order in which its units answer images most as the reference's do.

Ainsworth et al. 2022, "Git Re-Basin", section 3.1, after Li et al. 2015 ("Convergent learning"): maximise over orders the sum of
the correlations between units of the reference and of the network over images (and positions). Unlike the weights, the answers of
one layer don't depend on the order of another, so that one assignment for each group is the optimum.
"""

from collections.abc import Mapping

import torch
import torch.fx
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wscore.errors import ModelError
from wscore.symmetry.matching import assign
from wscore.symmetry.spec import PermutationSpec
from wscore.symmetry.trace import Units, derive_taps

AT_ONCE = 32  # networks run together
Answers = dict[str, Float[Tensor, "_ _ _"]]  # (networks, samples, units) of each group


class Activations:
    """Answers of the hidden units of networks of one architecture: of every group the values that enter a layer.

    Args:
        network: any network of the architecture.
        spec: its symmetry.
        images: inputs (N, ...), all networks are given the same.

    Raises:
        ModelError: if the network has another symmetry than `spec`, or a group whose values can't be told apart.
    """

    def __init__(self, network: nn.Module, spec: PermutationSpec, images: Tensor) -> None:
        found, self.graph, self.taps = derive_taps(network, images[:2])
        missing = sorted(set(spec.units) - {group for group, _ in self.taps})
        if found != spec or missing:
            raise ModelError(
                "has other hidden units than the reference", where=type(network).__name__, got=missing or found.units,
                fix="set tokens.align to weights",
            )  # fmt: skip
        self.units, self.images = spec.units, images

    def of(self, state: Mapping[str, Tensor]) -> Answers:
        """Return the answers of stacked networks by group, standardised for each unit; a unit that is constant answers 0.

        Args:
            state: stacked state dicts, tensors (networks, *shape).
        """
        floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        fixed = {name: tensor[0] for name, tensor in state.items() if name not in floating}
        run = vmap(lambda one: functional_call(self.graph, {**one, **fixed}, (self.images,)))
        count, parts = len(next(iter(floating.values()))), []
        with torch.no_grad():
            for start in range(0, count, AT_ONCE):
                values = run({name: tensor[start : start + AT_ONCE] for name, tensor in floating.items()})
                parts.append(self._gather(values))
        return {group: torch.cat([part[group] for part in parts]) for group in self.units}

    def _gather(self, values: tuple[Tensor, ...]) -> Answers:
        found: dict[str, list[Tensor]] = {}
        for (group, units), value in zip(self.taps, values, strict=True):
            found.setdefault(group, []).append(_by_sample(value, units, self.units[group]))
        return {group: _standardised(torch.cat(parts, dim=1)) for group, parts in found.items()}


def match_activations(reference: Answers, answers: Answers) -> dict[str, Int[Tensor, "networks unit"]]:
    """Return for every group the order that brings the answers of networks closest to those of one reference.

    Args:
        reference: answers of one network (1, S, U).
        answers: answers of the others (networks, S, U).
    """
    return {group: assign(reference[group].transpose(1, 2) @ answers[group]) for group in reference}


def _by_sample(value: Tensor, units: Units, count: int) -> Float[Tensor, "networks sample unit"]:
    """Return values (networks, N, ...) with the units last and everything else as samples."""
    parts = value.unflatten(units.axis + 1, (units.repeat, count, units.block))
    return parts.movedim(units.axis + 2, -1).flatten(1, -2).double()


def _standardised(answers: Tensor) -> Tensor:
    centred = answers.nan_to_num() - answers.nan_to_num().mean(1, keepdim=True)  # (M, S, U)
    size = centred.norm(dim=1, keepdim=True)
    return torch.where(size > 0, centred / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
