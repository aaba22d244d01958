"""Which axes of each tensor run over hidden units, read off names and shapes alone.

Nothing depends on its being right: the rotations that follow from it can be undone whatever they are, and where it errs the code
is only longer. So any state dict has unit axes, without a network that could be traced.
"""

import math
from typing import NamedTuple

from wscore.networks.layout import Layout, TensorSpec

WEIGHTS = ("linear", "conv")


class UnitAxes(NamedTuple):
    """A tensor as (rows, columns, rest).

    Attributes:
        spec: the tensor.
        offset: its start in the flat vector.
        shape: rows, columns and numbers for each row and column.
        row_units: whether the rows are hidden units.
        column_units: whether the columns are hidden units.
        layer: number of the weight that it belongs to, -1 if there is none before it.
    """

    spec: TensorSpec
    offset: int
    shape: tuple[int, int, int]
    row_units: bool
    column_units: bool
    layer: int

    @property
    def units(self) -> tuple[bool, bool]:
        """Whether rows and columns are hidden units."""
        return self.row_units, self.column_units

    @property
    def slice(self) -> slice:
        """Where it lies in the flat vector."""
        return slice(self.offset, self.offset + self.spec.size)


def unit_axes(layout: Layout) -> list[UnitAxes]:
    """Return the axes of each tensor that is not empty, in order.

    Rows of a weight are the units of its layer, save those of the last weight (the classes). Its columns are the units of the
    nearest earlier layer with as many units or, for a linear layer behind a flattening, as many as divide them; those of the
    first weight (the inputs) are none. Biases and normalisation belong to the nearest earlier weight with as many rows.
    """
    weights = [place for place, spec in enumerate(layout.tensors) if spec.kind in WEIGHTS and len(spec.shape) > 1]
    last = max(weights, default=-1)
    found: list[UnitAxes] = []
    rows: list[int] = []  # of the weights so far
    for place, (spec, offset) in enumerate(zip(layout.tensors, layout.offsets, strict=True)):
        own = spec.shape[0] if spec.shape else 1
        columns = _columns(spec, rows) if place in weights else 0
        if place in weights:
            rows.append(own)
        layer = max((number for number, count in enumerate(rows) if count == own), default=-1)
        if spec.size:
            shape = (own, max(columns, 1), spec.size // (own * max(columns, 1)))
            hidden = layer >= 0 and weights[layer] != last
            found.append(UnitAxes(spec, offset, shape, hidden and own > 1, columns > 1, layer))
    return found


def _columns(spec: TensorSpec, rows: list[int]) -> int:
    """Return how many hidden units the second axis of a weight runs over, 0 if it does not."""
    inputs = spec.shape[1]
    if inputs in rows:
        return inputs
    flattened = [count for count in rows if spec.kind == "linear" and count and inputs % count == 0]
    return flattened[-1] if flattened else 0


def kernel_size(spec: TensorSpec) -> int:
    """Return the numbers of one kernel of a convolution, 1 for anything else."""
    return math.prod(spec.shape[2:]) if spec.kind == "conv" else 1
