"""Queries of the decoder: what is asked for, without a name of a tensor.

Rows are the units of each layer, described by the kind of layer, its place from both ends, widths and the number of the unit.
Columns are the inputs of a unit: the unit below, and the place in a map, an image or a kernel.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.networks.layout import Layout, TensorSpec

KINDS = ("linear", "conv", "norm_weight", "other")  # of layers
CODES = 24  # frequencies that tell numbers apart
SMOOTH = 8  # frequencies in which neighbouring places are alike
GOLDEN = (math.sqrt(5) - 1) / 2
ROW = 3 + len(KINDS) + 6 * CODES  # numbers of a row
COLUMN = 2 + len(KINDS) + 4 * CODES + 4 * SMOOTH + 4 * SMOOTH**2  # numbers of a column


class TensorQuery(NamedTuple):
    """A tensor of the network.

    Attributes:
        spec: shape and kind.
        rows: its units among all rows.
        columns: one per weight of a unit; None for tensors of one number per unit.
    """

    spec: TensorSpec
    rows: slice
    columns: Float[Tensor, "column number"] | None


class LayoutQueries(NamedTuple):
    """Queries of all tensors of a layout.

    Attributes:
        rows: of the units of all layers.
        tensors: in the order of the layout.
    """

    rows: Float[Tensor, "row number"]
    tensors: tuple[TensorQuery, ...]

    def to(self, device: torch.device) -> "LayoutQueries":
        """Return the queries on a device."""
        moved = (
            query if query.columns is None else query._replace(columns=query.columns.to(device))
            for query in self.tensors
        )
        return LayoutQueries(self.rows.to(device), tuple(moved))


def layout_queries(layout: Layout) -> LayoutQueries:
    """Return the queries of a layout; scalars are read as layers of one unit."""
    layers, below = _layers(layout), units_below(layout)
    rows: list[Tensor] = []
    tensors: list[TensorQuery] = []
    start = 0
    for place, specs in enumerate(layers.values()):
        ends = (place, len(layers) - 1 - place)
        for units in dict.fromkeys(units_of(spec) for spec in specs):
            alike = [spec for spec in specs if units_of(spec) == units]
            rows.append(_rows(alike, ends))
            for spec in alike:
                columns = _columns(spec, below[spec.name], ends[1]) if len(spec.shape) > 1 else None
                tensors.append(TensorQuery(spec, slice(start, start + units), columns))
            start += units
    order = {spec.name: number for number, spec in enumerate(layout.tensors)}
    return LayoutQueries(torch.cat(rows), tuple(sorted(tensors, key=lambda query: order[query.spec.name])))


def units_below(layout: Layout) -> dict[str, int]:
    """Return the units of the layer below each tensor, by the name of the tensor; 1 below the first layer."""
    below, units = 1, {}
    for specs in _layers(layout).values():
        units |= {spec.name: below for spec in specs}
        matrices = [spec for spec in specs if len(spec.shape) > 1]
        below = units_of(matrices[0]) if matrices else below
    return units


def units_of(spec: TensorSpec) -> int:
    """Return the units of the layer of a tensor; 1 for a scalar."""
    return spec.shape[0] if spec.shape else 1


def axes_of(spec: TensorSpec, below: int) -> tuple[int, int, int]:
    """Return units below, height and width whose product is the number of weights of a unit."""
    inputs, kernel = spec.shape[1], math.prod(spec.shape[2:])
    units, places = (below, inputs // below) if kernel == 1 and inputs % below == 0 else (inputs, kernel)
    side = math.isqrt(places)
    return (units, side, side) if side**2 == places else (units, places, 1)


def _layers(layout: Layout) -> dict[int, list[TensorSpec]]:
    layers: dict[int, list[TensorSpec]] = {}
    for spec in layout.tensors:
        layers.setdefault(spec.layer, []).append(spec)
    return layers


def _kind(specs: list[TensorSpec]) -> Tensor:
    """Return the kind of the first tensor, one-hot."""
    kind = specs[0].kind if specs[0].kind in KINDS else "other"
    return torch.tensor([float(kind == name) for name in KINDS])


def _rows(specs: list[TensorSpec], ends: tuple[int, int]) -> Float[Tensor, "unit number"]:
    units = units_of(specs[0])
    fan_in = max(math.prod(spec.shape[1:]) for spec in specs)
    sizes = torch.tensor([math.log(units) - 3, (math.log(fan_in) - 4) / 2, sum(ends) / 10])
    layer = torch.cat([sizes, _kind(specs), *(_codes(torch.tensor([end]))[0] for end in ends)])
    return torch.cat([layer.expand(units, -1), _codes(torch.arange(units))], 1)


def _columns(spec: TensorSpec, below: int, end: int) -> Float[Tensor, "column number"]:
    units, high, wide = axes_of(spec, below)
    unit, row, column = torch.meshgrid(*(torch.arange(size) for size in (units, high, wide)), indexing="ij")
    places = [_smooth((axis.flatten() + 0.5) / size) for axis, size in ((row, high), (column, wide))]
    both = (places[0][:, :, None] * places[1][:, None]).flatten(1)
    sizes = torch.tensor([math.log(units) - 2, math.log(high)])
    layer = torch.cat([sizes, _kind([spec]), _codes(torch.tensor([end]))[0]])
    return torch.cat([layer.expand(unit.numel(), -1), _codes(unit.flatten()), *places, both], 1)


def _codes(numbers: Tensor) -> Float[Tensor, "number code"]:
    """Return nearly orthogonal vectors for different numbers."""
    frequencies = 2 * math.pi * (GOLDEN * torch.arange(1, CODES + 1)).frac()
    angles = numbers[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def _smooth(places: Tensor) -> Float[Tensor, "place number"]:
    """Return vectors of places from 0 to 1 of which neighbouring ones are alike."""
    angles = places[:, None] * (math.pi * 2 ** torch.linspace(-1, 3, SMOOTH))
    return torch.cat([angles.sin(), angles.cos()], 1)
