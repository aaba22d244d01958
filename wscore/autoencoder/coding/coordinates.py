"""Weights of one layout as numbers that are coded with one step, and back."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wscore.autoencoder.coding.blocks import Block, Structure
from wscore.autoencoder.coding.roles import OCTAVE, UNKNOWN, Role, find_role
from wscore.errors import DataError

QUARTER = 2  # eighths of an octave in a unit of scales
MOST = 64  # largest scale
FRACTION, MOST_SHIFT = 10, 32  # bits of gains behind the point, and the largest shift by them
NONE = -(1 << 20)  # share of a block in a layer to which it does not belong
ALIKE = (
    0.3  # slope of a network's energies by direction on those of the zoo: about 1 in the zoo, 0 in random directions
)


class _Piece(NamedTuple):
    """A block and how it is coded: y = (x - mean) A 2^(shift / 8) for its vectors x in units of its widths."""

    block: Block
    role: Role
    width: Float[Tensor, " dim"]
    mean: Float[Tensor, " dim"]
    shift: int
    inverted: Float[Tensor, "run run"]

    @property
    def known(self) -> bool:
        """Whether its vectors deviate between units, and by a covariance that is known."""
        return bool(self.block.counts) and self.block.dim > 1 and _is_known(self.block, self.role)

    def slope(self, y: Float[Tensor, "n numbers"]) -> tuple[Float[Tensor, " n"], float]:
        """Return numerator and denominator of the slope of energies by direction on those of its role.

        Both are logarithms beside the energies of vectors of independent numbers.
        """
        white = self.role.matrix.square().sum(0).clamp_min(1e-30).log2()
        expected = self.role.log_stds * (2 / OCTAVE) - white
        expected = expected - expected.mean()
        energies = y.unflatten(1, (self.block.copies, -1)).square().mean(1).clamp_min(1e-30).log2() - white
        return self.block.copies * (energies @ expected), self.block.copies * float(expected.square().sum())

    def forward(self, vectors: Float[Tensor, "n copies dim"]) -> Float[Tensor, "n numbers"]:
        x = vectors * self.width - self.mean
        runs = len(self.role.matrix)
        y = x if runs == 1 else x.reshape(len(x), -1, runs) @ self.role.matrix.to(x)
        return y.flatten(1) * 2.0 ** (self.shift / OCTAVE)

    def inverse(self, y: Float[Tensor, "n numbers"]) -> Float[Tensor, "n copies dim"]:
        runs = len(self.role.matrix)
        x = y * 2.0 ** (-self.shift / OCTAVE)
        if runs > 1:
            x = x.reshape(len(x), -1, runs) @ self.inverted.to(x)
        return (x.reshape(len(y), self.block.copies, self.block.dim) + self.mean) / self.width

    def pullback(self, rows: Float[Tensor, "n copies dim"]) -> Float[Tensor, "n numbers"]:
        x, runs = rows / self.width, len(self.role.matrix)
        if runs > 1:
            x = x.reshape(len(x), -1, runs) @ self.inverted.mT.to(x)
        return x.flatten(1) * 2.0 ** (-self.shift / OCTAVE)


class _Dense(NamedTuple):
    """Smooth weights as products of coordinates with matrices.

    Attributes:
        places: coordinates of each layer.
        matrices: of each layer.
        order: of the weights in those of all layers, one after the other; None where it is the same.
        offset: weights of coordinates of 0.
    """

    places: list[slice]
    matrices: list[Float[Tensor, "layer layer"]]
    order: Int[Tensor, " weights"] | None
    offset: Float[Tensor, " weights"]


class Coordinates:
    """Coordinates y of networks of one layout, block after block, orthonormal but for the matrices of the roles.

    An error of 1 costs the same in every coordinate once the coordinates are multiplied by 2^(shift / 8). Where networks of this
    structure were seen, shifts follow from the scales of all blocks, see `gains`. Where they were not, an error counts relative
    to the root mean square of its layer, which only the network tells.

    Attributes:
        size: count of coordinates, and of weights.
        groups: block of each coordinate.
        log_stds: log2 of its standard deviation, in eighths.

    Args:
        structure: blocks of the layout.
        roles: what is known of them.
        known: whether networks of this structure were seen.
        relative: what the square of a relative error in a layer of n weights counts, times sqrt(n).
        gains: shifts by scales, for each block a constant and a factor for each block, times 2^`FRACTION`; None: no shifts.
    """

    def __init__(
        self, structure: Structure, roles: Mapping[str, Role], *, known: bool = False, relative: float = 1.0,
        gains: Int[Tensor, "block features"] | None = None,
    ) -> None:  # fmt: skip
        self.structure, self.known, self.size = structure, known, structure.size
        matched = [find_role(block, roles) or UNKNOWN for block in structure.blocks]
        costs = _costs(structure.blocks, matched, known, relative)
        self.pieces = [_piece(*of_block) for of_block in zip(structure.blocks, matched, costs, strict=True)]
        sizes = torch.tensor([block.copies * block.dim for block in structure.blocks], dtype=torch.int64)
        self.groups = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(sizes)
        parts = [
            (piece.role.log_stds + piece.shift).short().repeat(size // len(piece.role.log_stds))
            for piece, size in zip(self.pieces, sizes.tolist(), strict=True)
        ]
        self.log_stds = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int16)
        if gains is not None and len(gains) != len(structure.blocks):
            raise DataError("gains of another structure", expected=f"{len(structure.blocks)} blocks", got=len(gains))
        self._shares, self._gains = _shares(structure.blocks), gains
        self._levels = torch.tensor([piece.role.level for piece in self.pieces], dtype=torch.int64)

    def forward(self, vectors: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return coordinates of weights; differentiable."""
        blocks = self.structure.split(self.structure.smooth(vectors))
        parts = [piece.forward(x) for piece, x in zip(self.pieces, blocks, strict=True)]
        return torch.cat(parts, 1) if parts else vectors

    def inverse(self, y: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return weights of coordinates; differentiable."""
        parts = [piece.inverse(y[:, piece.block.slice]) for piece in self.pieces]
        return self.structure.unsmooth(self.structure.join(parts)) if parts else y

    def quick_inverse(self, y: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return `inverse` but for the last bits, by a product with a matrix of each layer: fast where weights are few."""
        dense = self._dense
        layers = [y[:, place] @ matrix for place, matrix in zip(dense.places, dense.matrices, strict=True)]
        weights = torch.cat(layers, 1) if layers else y
        return self.structure.unsmooth((weights if dense.order is None else weights[:, dense.order]) + dense.offset)

    @cached_property
    def _dense(self) -> "_Dense":
        smooth = lambda y: self.structure.join([piece.inverse(y[:, piece.block.slice]) for piece in self.pieces])  # noqa: E731
        offset = smooth(torch.zeros(1, self.size))
        matrix, places, matrices, columns = smooth(torch.eye(self.size)) - offset, [], [], []
        every = torch.arange(self.size)
        for layer in sorted({axes.layer for axes in self.structure.axes}):
            blocks = [piece.block for piece in self.pieces if piece.block.layer == layer]
            places.append(slice(blocks[0].start, blocks[-1].slice.stop))
            columns.append(torch.cat([every[axes.slice] for axes in self.structure.axes if axes.layer == layer]))
            matrices.append(matrix[places[-1]][:, columns[-1]].contiguous())
        order = torch.cat(columns).argsort() if columns else every
        return _Dense(places, matrices, None if order.equal(every) else order, offset[0])

    def pullback(self, rows: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return gradients by coordinates of gradients by smooth weights (`Structure.smooth`)."""
        parts = [piece.pullback(x) for piece, x in zip(self.pieces, self.structure.split(rows), strict=True)]
        return torch.cat(parts, 1) if parts else rows

    def scales(self, y: Float[Tensor, "n weights"]) -> Int[Tensor, "n block"]:
        """Return log2 of the root mean square of each block beside what its role says, in quarters of an octave."""
        ratio = (y * (self.log_stds / -OCTAVE).exp2()).square()
        means = [ratio[:, piece.block.slice].mean(1) for piece in self.pieces]
        squares = torch.stack(means, 1) if means else y.new_zeros(len(y), 0)
        return (squares.clamp_min(1e-30).log2() / 2 * OCTAVE / QUARTER).round().clamp(-MOST, MOST).long()

    def like_zoo(self, vectors: Float[Tensor, "n weights"]) -> Bool[Tensor, " n"]:
        """Return whether first and last layer are known, and known layers vary along the directions of the zoo.

        They don't in networks of other inputs, or of the same in another order.
        """
        layers = [piece.block.layer for piece in self.pieces]
        pieces = [piece for piece in self.pieces if piece.known]
        if not pieces or not {min(layers), max(layers)} <= {piece.block.layer for piece in pieces}:
            return torch.zeros(len(vectors), dtype=torch.bool)
        y = self.forward(vectors)
        slopes, totals = zip(*(piece.slope(y[:, piece.block.slice]) for piece in pieces), strict=True)
        return torch.stack(slopes).sum(0) > ALIKE * sum(totals)

    def shifts(self, scales: Int[Tensor, "n block"], *, difference: bool = False) -> Int[Tensor, "n block"]:
        """Return by how many eighths of an octave the coordinates of each block are shifted.

        Scales of differences between networks say nothing of what errors cost.
        """
        if self.known and (self._gains is None or difference):
            return torch.zeros_like(scales)
        if self._gains is not None:
            sums = scales @ self._gains[:, 1:].mT + self._gains[:, 0]
            return (sums + (1 << FRACTION >> 1) >> FRACTION).clamp(-MOST_SHIFT, MOST_SHIFT)
        energies = (self._levels + QUARTER * scales)[:, None] + self._shares  # (n, block, block)
        return -energies.amax(2) if scales.shape[1] else torch.zeros_like(scales)


def _costs(blocks: Sequence[Block], roles: Sequence[Role], known: bool, relative: float) -> list[float]:
    """Return what a squared error in y counts in each block.

    In a structure that was seen it counts what roles say. Else squared errors relative to the root mean square of a layer of n
    weights count relative / sqrt(n): in all its blocks or, where the roles of all are known, in the largest, and in the others
    as much more or less as roles say.
    """
    said = [1 / math.prod(block.counts) for block in blocks]
    if known:
        return said
    costs = []
    for place, (block, role) in enumerate(zip(blocks, roles, strict=True)):
        mine = [n for n, other in enumerate(blocks) if other.parts[0].axes is block.parts[0].axes]
        share = 1 / role.weight
        if all(_is_known(blocks[n], roles[n]) for n in mine):
            largest = max(mine, key=lambda n: blocks[n].copies * blocks[n].dim)
            share = said[place] / said[largest] / roles[largest].weight
        costs.append(relative / math.sqrt(block.parts[0].axes.spec.size) * share)
    return costs


def _is_known(block: Block, role: Role) -> bool:
    return role is not UNKNOWN and len(role.matrix) == block.dim


def _piece(block: Block, role: Role, cost: float) -> _Piece:
    if block.dim % len(role.matrix):
        raise DataError(
            "the codec's statistics don't fit a layer", where=block.role, expected=block.dim, got=len(role.matrix)
        )
    width = block.per_number(lambda part: part.width)
    mean = torch.zeros(block.dim)
    if not block.counts and len(role.mean) == block.dim:
        mean = role.mean * block.per_number(lambda part: part.averaged)
    return _Piece(
        block, role, width, mean, round(0.5 * OCTAVE * math.log2(cost)), torch.linalg.inv(role.matrix.double()).float()
    )


def _shares(blocks: list[Block]) -> Int[Tensor, "block block"]:
    """Return what each block adds to the root mean square of a layer, in eighths of an octave: of every block's own layer.

    A layer is all blocks with weights of the first tensor of a block; others have no share in it.
    """
    sizes = [block.copies * block.dim for block in blocks]
    shares = torch.full((len(blocks), len(blocks)), NONE)
    for row, block in enumerate(blocks):
        mine = [n for n, other in enumerate(blocks) if any(part.axes is block.parts[0].axes for part in other.parts)]
        total = sum(sizes[n] for n in mine)
        for n in mine:
            shares[row, n] = round(0.5 * OCTAVE * math.log2(sizes[n] / total))
    return shares
