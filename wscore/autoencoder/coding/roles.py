"""Statistics of blocks by their role: how networks vary there, and what they notice of it.

Vectors x of a block are taken in units that hardly depend on widths (`Part.width`, `Part.averaged`). Of a role are known

    C   covariance of x over units and networks
    M   Gauss-Newton matrix of the networks' outputs by x, in the mean over networks, times the units that vectors deviate along

and coded are y = x A with A = L Q, where M + damping = L L^T and L^T C L = Q diag(variance) Q^T: errors in y cost the same in all
directions, and its numbers are not correlated. Few networks tell little of C: it is drawn to the mean squares of the tensors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.blocks import Block, Part, Structure, kernel_role
from wscore.autoencoder.coding.config import WIDEST
from wscore.errors import DataError

DAMPING = 1e-3  # of M, in mean diagonals
PRIOR = 0.3  # vectors of the mean square of their tensor that C begins with, for each number of a vector
OCTAVE = 8  # parts in which standard deviations are kept
FAINTEST = 2.0**-15  # smallest standard deviation beside the largest of a role


class Role(NamedTuple):
    """How blocks of one role are coded.

    Attributes:
        matrix: A, applied to runs of k numbers of a vector.
        log_stds: log2 of the standard deviations of y, in eighths.
        mean: of x, where vectors are means over all units; else zeros.
        weight: mean diagonal of M.
        level: log2 of the root mean square of x, in eighths.
    """

    matrix: Float[Tensor, "run run"]
    log_stds: Int[Tensor, " run"]
    mean: Float[Tensor, " dim"]
    weight: float
    level: int

    def check(self, where: str) -> None:
        """Return if a role that was read from a file can be used.

        Raises:
            DataError: if tensors don't belong together, are not finite, or the matrix can't be inverted.
        """
        shapes, count = [tuple(tensor.shape) for tensor in self[:3]], self.mean.numel()
        kinds = [self.matrix.dtype, self.mean.dtype, self.log_stds.dtype]
        fits = count > 0 and shapes == [(count, count), (count,), (count,)]
        if not fits or kinds[:2] != [torch.float32] * 2 or kinds[2] not in (torch.int16, torch.int64):
            expected = "a square float32 matrix, and for each row a whole number and a float32 mean"
            raise DataError("tensors don't belong together", where=where, expected=expected, got=shapes)
        inverted, fails = torch.linalg.inv_ex(self.matrix.double())
        finite = all(bool(tensor.isfinite().all()) for tensor in (self.matrix, self.mean, inverted))
        if int(fails) or not finite or int(self.log_stds.long().abs().max()) > WIDEST:
            expected = f"a matrix with an inverse, finite means, deviations within 2^{WIDEST // OCTAVE:g}"
            raise DataError("holds no statistics of weights", where=where, expected=expected)


#: Of blocks about which nothing is known.
UNKNOWN = Role(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1), 1.0, 0)


class _Sums:
    """Sums over the vectors of one role.

    Args:
        sizes: numbers of each tensor in a vector.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, dim = list(sizes), sum(sizes)
        self.square, self.metric = torch.zeros(dim, dim).double(), torch.zeros(dim, dim).double()
        self.networks, self.count = 0, 0
        self.totals: dict[tuple[float, ...], tuple[Tensor, int]] = {}  # by the factors of the means

    def add(self, vectors: Tensor, averaged: Tensor | None) -> None:
        rows = vectors.reshape(-1, len(self.square)).double()
        self.square += rows.mT @ rows
        self.count += len(rows)
        if averaged is not None:
            total, count = self.totals.get(key := tuple(averaged.tolist()), (torch.zeros(len(self.square)).double(), 0))
            self.totals[key] = total + rows.sum(0), count + len(rows)

    def role(self) -> Role:
        mean, covariance = self._moments()
        size = len(covariance)
        weight = PRIOR * size
        covariance = (self.count * covariance + weight * self._mean_squares().diag()) / (self.count + weight)
        metric = self.metric / max(self.networks, 1) if self.networks else torch.eye(size).double()
        weight = float(metric.diagonal().mean()) or 1.0
        lower = torch.linalg.cholesky(metric + DAMPING * weight * torch.eye(size))
        variances, rotation = torch.linalg.eigh(lower.mT @ covariance @ lower)
        stds = variances.clamp_min(0).sqrt()
        stds = stds.clamp_min(max(float(stds.max()) * FAINTEST, 1e-12))
        level = 0.5 * OCTAVE * math.log2(max(float(covariance.diagonal().mean()), 1e-24))
        return Role(
            (lower @ rotation).float(), (OCTAVE * stds.log2()).round().long(), mean.float(), weight, round(level)
        )

    def _mean_squares(self) -> Tensor:
        """Return the mean square of x in the tensor of each number."""
        squares = (self.square.diagonal() / max(self.count, 1)).split(self.sizes)
        return torch.cat([part.mean().expand(len(part)) for part in squares])

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean of x in units of its factors, and the covariance about it."""
        mean, square = torch.zeros(len(self.square)).double(), self.square.clone()
        count = sum(count for _, count in self.totals.values())
        if count:
            mean = sum((total / torch.tensor(key) for key, (total, _) in self.totals.items()), mean) / count
        for key, (total, number) in self.totals.items():
            scaled = mean * torch.tensor(key).double()
            square += number * scaled[:, None] * scaled - scaled[:, None] * total - total[:, None] * scaled
        return mean, square / max(self.count, 1)


class RoleSums:
    """Sums from which roles are told, over networks of any layouts; a pass needs no more memory than they take."""

    def __init__(self) -> None:
        self.sums: dict[str, _Sums] = {}
        self.structures: dict[str, Structure] = {}

    def add(self, structure: Structure, vectors: Float[Tensor, "n weights"]) -> None:
        """Add networks of one layout."""
        self.structures.setdefault(structure.layout.identity, structure)
        for block, values in zip(structure.blocks, structure.split(structure.smooth(vectors).double()), strict=True):
            x = values * block.per_number(lambda part: part.width)
            averaged = block.per_number(lambda part: part.averaged).double() if not block.counts else None
            for key, part in _keys(block):
                self._of(key, block, part).add(_select(block, part, x), _of_part(block, part, averaged, key))

    def add_rows(self, structure: Structure, rows: Float[Tensor, "networks samples weights"]) -> None:
        """Add rows whose mean outer product over the samples is the Gauss-Newton matrix of a network by smooth weights."""
        samples = rows.shape[1]
        for block, rows_of in zip(structure.blocks, structure.split(rows.flatten(0, 1).double()), strict=True):
            x = rows_of / block.per_number(lambda part: part.width)
            share = math.prod(block.counts) / block.copies / samples
            for key, part in _keys(block):
                sums, taken = self._of(key, block, part), _select(block, part, x)
                taken = taken.reshape(-1, len(sums.square))
                runs = (block.dim if part is None else part.dim) // len(sums.square)
                sums.metric += taken.mT @ taken * (share / runs)
                sums.networks += len(rows)

    def roles(self) -> dict[str, Role]:
        """Return what is known of each role."""
        return {key: sums.role() for key, sums in sorted(self.sums.items()) if sums.count}

    def relative(self, roles: Mapping[str, Role]) -> float:
        """Return what the square of a relative error in a layer of n weights counts, times sqrt(n), in the geometric mean."""
        logs, sizes = 0.0, 0
        for structure in self.structures.values():
            for block in structure.blocks:
                role, size = roles[block.site], block.copies * block.dim
                cost = role.weight * 2.0 ** (2 * role.level / OCTAVE) / math.prod(block.counts)
                logs += size * math.log(max(cost * math.sqrt(block.parts[0].axes.spec.size), 1e-30))
                sizes += size
        return math.exp(logs / max(sizes, 1))

    def _of(self, key: str, block: Block, part: Part | None) -> _Sums:
        sizes = [own.dim for own in (block.parts if part is None else [part])]
        if key.startswith("kernel"):
            sizes = [math.prod(map(int, key[7:-1].split("x")))]
        return self.sums.setdefault(key, _Sums(sizes))


def find_role(block: Block, roles: Mapping[str, Role]) -> Role | None:
    """Return what is known of a block: in networks of the same structure, in others, or of its kernels if it is one tensor."""
    found = roles.get(block.site, roles.get(block.role))
    if found is None and len(block.parts) == 1 and (key := kernel_role(block.parts[0])) is not None:
        return roles.get(key)
    return found


def _keys(block: Block) -> list[tuple[str, Part | None]]:
    """Return the roles to which the vectors of a block add, and the part of each; None for the whole block."""
    keys: list[tuple[str, Part | None]] = [(block.site, None), (block.role, None)]
    if len(block.parts) > 1:
        keys += [(Block((part,), block.counts).role, part) for part in block.parts]
    kernels = [(kernel_role(part), part) for part in block.parts]
    return keys + [(key, part) for key, part in kernels if key is not None]


def _select(block: Block, part: Part | None, x: Tensor) -> Tensor:
    return x if part is None else x.split([own.dim for own in block.parts], -1)[block.parts.index(part)]


def _of_part(block: Block, part: Part | None, averaged: Tensor | None, key: str) -> Tensor | None:
    if averaged is None or key.startswith("kernel"):
        return None
    return _select(block, part, averaged)
