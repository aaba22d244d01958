"""The parts into which the weights of a layer fall if its hidden units may stand in any order.

Reordering the units of a layer leaves a network what it computes, so the covariance of the weights of networks that were
never aligned commutes with every reordering, and so does their mean Gauss-Newton matrix. By Schur's lemma both fall
apart into small blocks. The weights of a layer of R units on C units have

    mean        over rows and columns                     one vector
    rows        deviations between the units              R - 1 vectors
    columns     deviations between the units they read    C - 1 vectors
    pairs       what is left                              (R - 1)(C - 1) vectors

of d numbers each, where d counts what is fixed: kernels, pixels, classes; with the rows go the bias and the normalisation of the
unit. What these numbers are is the role of a block; widths only count its vectors. So one small matrix for each role
serves networks of every width.
"""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wscore.autoencoder.coding.rotation import rotate, unrotate
from wscore.autoencoder.coding.unit_axes import UnitAxes, kernel_size, unit_axes
from wscore.io import content_hash
from wscore.networks.layout import Layout

LARGEST = (
    1024  # numbers of a vector whose covariance is held; longer ones are taken tensor by tensor, then number by number
)
FLOOR = 1e-3  # added to running variances before their logarithm
SMALLEST_VARIANCE = 1e-5
SPREADS = ((), (0,), (1,), (0, 1))  # axes along which vectors deviate


class Part(NamedTuple):
    """The share of one tensor in a block.

    Attributes:
        axes: of the tensor.
        spread: axes (rows 0, columns 1) along which vectors deviate; along other hidden units they are means.
    """

    axes: UnitAxes
    spread: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        kept = (count for count, units in zip(self.axes.shape, (*self.axes.units, False), strict=True) if not units)
        return math.prod(kept)

    @property
    def role(self) -> str:
        """What the numbers are, without widths."""
        rows, columns, rest = self.axes.shape
        fixed = ["u" if units else str(count) for count, units in zip((rows, columns), self.axes.units, strict=True)]
        return f"{self.axes.spec.kind}[{','.join(fixed)},{rest}]"

    @property
    def width(self) -> float:
        """Factor that makes weights of different fan-in alike: sqrt(C) where the columns are units."""
        return math.sqrt(self.axes.shape[1]) if self.axes.column_units else 1.0

    @property
    def averaged(self) -> float:
        """Factor of the mean of a vector beside that of one unit: sqrt(R) where rows are averaged."""
        return math.sqrt(self.axes.shape[0]) if self.axes.row_units and 0 not in self.spread else 1.0

    def take(self, rotated: Float[Tensor, "n row column rest"]) -> Float[Tensor, "n copies dim"]:
        """Return its vectors."""
        return self._view(rotated).reshape(len(rotated), -1, self.dim)

    def put(self, rotated: Float[Tensor, "n row column rest"], vectors: Float[Tensor, "n copies dim"]) -> None:
        """Write its vectors back, in place."""
        target = self._view(rotated)
        target.copy_(vectors.reshape(target.shape))

    def _view(self, rotated: Tensor) -> Tensor:
        ranges = [slice(1, None) if axis in self.spread else slice(0, 1 if units else None)
                  for axis, units in enumerate(self.axes.units)]  # fmt: skip
        view = rotated[:, ranges[0], ranges[1]]
        return view.transpose(1, 2) if self.spread == (1,) else view


class Block(NamedTuple):
    """Vectors that are coded by one matrix.

    Attributes:
        parts: tensors of one layer.
        counts: units along which the vectors deviate.
        start: of its coordinates in those of the network, vector after vector.
        site: key of its statistics in networks of the same structure.
    """

    parts: tuple[Part, ...]
    counts: tuple[int, ...]
    start: int = 0
    site: str = ""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return sum(part.dim for part in self.parts)

    @property
    def copies(self) -> int:
        """Count of vectors."""
        return math.prod(count - 1 for count in self.counts)

    @property
    def slice(self) -> slice:
        """Where its coordinates lie among those of the network."""
        return slice(self.start, self.start + self.copies * self.dim)

    @property
    def role(self) -> str:
        """Key of its statistics in networks of any structure."""
        return f"{''.join(map(str, self.parts[0].spread)) or '-'}:" + "+".join(part.role for part in self.parts)

    @property
    def layer(self) -> int:
        """Number of its layer."""
        return self.parts[0].axes.layer

    def per_number(self, value: Callable[[Part], float]) -> Float[Tensor, " dim"]:
        """Return a figure of each part for each of its numbers."""
        return torch.cat([torch.full((part.dim,), value(part)) for part in self.parts])


class Structure:
    """The blocks of a layout.

    Args:
        layout: of the networks.
        whole: tells of a block whether it is coded as one; others are taken tensor by tensor.
        units: whether tensors are taken apart at all; without, each is one vector.
    """

    def __init__(self, layout: Layout, whole: Callable[[Block], bool] = lambda _: True, *, units: bool = True) -> None:
        self.layout, self.size = layout, layout.size
        traced = unit_axes(layout)
        self.axes = traced if units else [axes._replace(row_units=False, column_units=False) for axes in traced]
        self.variances = [axes.slice for axes in self.axes if axes.spec.kind == "running_var"]
        self.blocks: list[Block] = []
        start = 0
        for parts in self._parts():
            block = _block(parts)
            split = [block] if block.dim <= LARGEST and whole(block) else [_block([part]) for part in parts]
            for piece in split:
                self.blocks.append(piece._replace(start=start))
                start += piece.copies * piece.dim
        assert start == self.size, "blocks cover each weight once"
        #: What networks of all widths of one structure have in common.
        self.signature = content_hash(*(f"{block.layer}{block.role}" for block in self.blocks))
        self.blocks = [block._replace(site=f"{self.signature}:{place}") for place, block in enumerate(self.blocks)]

    def _parts(self) -> Iterator[list[Part]]:
        for layer in sorted({axes.layer for axes in self.axes}):
            mine = [axes for axes in self.axes if axes.layer == layer]
            for spread in SPREADS:
                parts = [Part(axes, spread) for axes in mine if all(axes.units[axis] for axis in spread)]
                parts = [part for part in parts if all(part.axes.shape[axis] > 1 for axis in spread)]
                counts = {tuple(part.axes.shape[axis] for axis in spread) for part in parts}
                yield from (
                    [part for part in parts if tuple(part.axes.shape[a] for a in spread) == c] for c in sorted(counts)
                )

    def smooth(self, vectors: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return weights with running variances as logarithms."""
        return self._at_variances(vectors, lambda part: (part.clamp_min(0) + FLOOR).log())

    def unsmooth(self, vectors: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return weights of `smooth` ones; running variances are positive."""
        return self._at_variances(
            vectors, lambda part: (part.clamp(-30, 30).exp() - FLOOR).clamp_min(SMALLEST_VARIANCE)
        )

    def smooth_rows(
        self, vectors: Float[Tensor, "n weights"], rows: Float[Tensor, "n m weights"]
    ) -> Float[Tensor, "n m weights"]:
        """Return gradients by smooth weights of gradients by the weights themselves."""
        factor = torch.ones_like(vectors)
        for place in self.variances:
            factor[:, place] = vectors[:, place].clamp_min(0) + FLOOR
        return rows * factor[:, None]

    def _at_variances(self, vectors: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.variances:
            return vectors
        return torch.where(self._is_variance, change(vectors), vectors)

    @cached_property
    def _is_variance(self) -> Bool[Tensor, " weights"]:
        chosen = torch.zeros(self.size, dtype=torch.bool)
        for place in self.variances:
            chosen[place] = True
        return chosen

    def split(self, vectors: Float[Tensor, "n weights"]) -> list[Float[Tensor, "n _ _"]]:
        """Return the vectors of each block, of smooth weights or of gradients by them: an orthonormal map."""
        rotated: dict[int, Tensor] = {}
        blocks, layer = [], None
        for block in self.blocks:
            rotated, layer = (rotated, layer) if block.layer == layer else ({}, block.layer)
            for part in block.parts:
                if part.axes.offset not in rotated:
                    rotated[part.axes.offset] = _rotated(part.axes, vectors)
            taken = [part.take(rotated[part.axes.offset]) for part in block.parts]
            blocks.append(taken[0] if len(taken) == 1 else torch.cat(taken, -1))
        return blocks

    def join(self, blocks: list[Float[Tensor, "n _ _"]]) -> Float[Tensor, "n weights"]:
        """Return the vectors of which these are the blocks: the inverse of `split`, and its transpose."""
        count = len(blocks[0]) if blocks else 0
        flat = torch.zeros(count, self.size)
        pieces: dict[int, list[tuple[Part, Tensor]]] = {}
        for block, vectors in zip(self.blocks, blocks, strict=True):
            ends = [part.dim for part in block.parts]
            for part, values in zip(block.parts, vectors.split(ends, -1), strict=True):
                pieces.setdefault(part.axes.offset, []).append((part, values))
        tensors = [_unrotated(parts, count) for _, parts in sorted(pieces.items())]
        return torch.cat(tensors, 1) if tensors else flat


def kernel_role(part: Part) -> str | None:
    """Return the key of the kernels of a convolution whose own role was never seen, None for anything else."""
    size = kernel_size(part.axes.spec)
    return f"kernel[{'x'.join(map(str, part.axes.spec.shape[2:]))}]" if size > 1 else None


def _block(parts: list[Part]) -> Block:
    first = parts[0]
    return Block(tuple(parts), tuple(first.axes.shape[axis] for axis in first.spread))


def _rotated(axes: UnitAxes, vectors: Tensor) -> Tensor:
    tensor = vectors[:, axes.slice].reshape(len(vectors), *axes.shape)  # (n, R, C, rest)
    for axis, units in enumerate(axes.units):
        tensor = rotate(tensor, axis + 1) if units else tensor
    return tensor


def _unrotated(pieces: list[tuple[Part, Tensor]], count: int) -> Tensor:
    axes = pieces[0][0].axes
    tensor = pieces[0][1].new_zeros(count, *axes.shape)
    for part, values in pieces:
        part.put(tensor, values)
    for axis, units in enumerate(axes.units):
        tensor = unrotate(tensor, axis + 1) if units else tensor
    return tensor.reshape(count, -1)
