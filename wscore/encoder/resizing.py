"""Takes a network of a known layout to another layout: as many layers of other widths, or fewer and more layers.

    asked[u, c] = known[u mod m, c mod n] / copies of c

for m units and n inputs of the known tensor: copies of a unit share what comes from it, so that a wider network has the
same outputs (Chen et al. 2016, arXiv 1511.05641). A narrower one loses units.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.encoder.decoder_queries import axes_of, units_below, units_of
from wscore.networks.layout import Layout, TensorSpec

LACKING = 10.0  # cost of a tensor without a counterpart
LOST = 2.0  # cost of losing units, as a multiple of that of copying as many
ONES = ("norm_weight", "running_var")  # tensors of ones in a network without a counterpart


class Resizing(NamedTuple):
    """How weights of a layout follow from those of a known one: `known[places] * factor + constant`.

    Attributes:
        places: in the known network.
        factor: 0 where there is no counterpart.
        constant: weights without a counterpart.
    """

    places: Int[Tensor, " weights"]
    factor: Float[Tensor, " weights"]
    constant: Float[Tensor, " weights"]


def closest(asked: Layout, known: Sequence[Layout]) -> int:
    """Return the number of the known layout that is most like a layout."""
    return int(np.argmin([_cost(asked, layout) for layout in known]))


def resizing(asked: Layout, known: Layout | None) -> Resizing:
    """Return how weights of a layout follow from those of a known one; from none, if there is none."""
    below = units_below(asked)
    below_known, offsets = {}, {}
    if known is not None:
        below_known = units_below(known)
        offsets = {spec.name: offset for spec, offset in zip(known.tensors, known.offsets, strict=True)}
    parts = []
    for spec, match in _pairs(asked, known):
        if match is None:
            zeros = torch.zeros(spec.size)
            parts.append((zeros.long(), zeros, zeros + float(spec.kind in ONES)))
            continue
        index, factor = _tensor(spec, below[spec.name], match, below_known[match.name])
        parts.append((offsets[match.name] + index, factor, torch.zeros(spec.size)))
    return Resizing(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _pairs(asked: Layout, known: Layout | None) -> list[tuple[TensorSpec, TensorSpec | None]]:
    """Return each tensor with that of the known layout which is as far from the output, among tensors of its kind and axes."""
    members: dict[tuple[str, int], list[TensorSpec]] = {}
    for spec in known.tensors[::-1] if known is not None else ():
        members.setdefault((spec.kind, len(spec.shape)), []).append(spec)
    pairs, met = [], dict[tuple[str, int], int]()
    for spec in asked.tensors[::-1]:
        role = (spec.kind, len(spec.shape))
        place = met[role] = met.get(role, -1) + 1
        alike = members.get(role, [])
        pairs.append((spec, alike[min(place, len(alike) - 1)] if alike else None))
    return pairs[::-1]


def _cost(asked: Layout, known: Layout) -> float:
    cost = LACKING * abs(len(asked.tensors) - len(known.tensors))
    for spec, match in _pairs(asked, known):
        if match is None:
            cost += LACKING
            continue
        ratios = [math.log(max(a, 1) / max(b, 1)) for a, b in zip(spec.shape, match.shape, strict=True)]
        cost += sum(ratio if ratio >= 0 else -LOST * ratio for ratio in ratios)
    return cost


def _tensor(spec: TensorSpec, below: int, known: TensorSpec, known_below: int) -> tuple[Tensor, Tensor]:
    """Return places in the known tensor, and factors."""
    units = torch.arange(units_of(spec)) % max(units_of(known), 1)
    if len(spec.shape) < 2:
        return units, torch.ones(len(units))
    here, there = axes_of(spec, below), axes_of(known, known_below)
    inputs = torch.arange(here[0]) % there[0]
    rows, columns = (torch.arange(a) * b // a for a, b in zip(here[1:], there[1:], strict=True))
    share = 1.0 / inputs.bincount(minlength=there[0])[inputs] * (there[1] * there[2]) / (here[1] * here[2])
    index = (inputs[:, None, None] * there[1] + rows[:, None]) * there[2] + columns
    index = units[:, None] * math.prod(there) + index.flatten()
    return index.flatten(), share[:, None].expand(-1, here[1] * here[2]).flatten().repeat(len(units))
