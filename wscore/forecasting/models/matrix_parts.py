"""Splits changes of a weight matrix into parts along its strongest input directions, and the rest.

The input directions V of the changes d_1..d_m of a matrix (outputs, inputs) are the eigenvectors of sum_i d_i^T d_i,
strongest first. With edges (3, 20) and projections Q_b on directions 1 to 3, 4 to 20 and all others, the three parts d
Q_b of a change d are orthogonal and sum to d. A vector, such as a bias, is one part, and so is a matrix without edges.

    sum_b beta_b d Q_b = beta_last d + L V^T

so a combination of parts is a combination of whole changes plus a product of thin matrices. Permuting neurons permutes
the entries of the directions and leaves all inner products unchanged.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.networks.layout import Layout, TensorSpec

EXACT = 512  # largest number of inputs for which directions are computed exactly
SPARE, ROUNDS = 8, 2  # oversampled directions and passes over the matrix of the approximation
COLUMNS_AT_ONCE = 262_144  # weights per chunk
NOTHING = 1e-10  # share of the squared changes below which a part or direction is numerical noise

Blocks = list[slice]
Edges = tuple[int, ...]  # boundaries between parts, as numbers of directions; the last part is the rest
Reader = Callable[[slice], Tensor]  # maps a slice of weights to their changes (vectors, weights), in float64


class Seen(NamedTuple):
    """Changes of a tensor in the basis of its directions; vectors have no directions.

    Attributes:
        directions: V, orthonormal columns, at most as many as the last edge.
        along: d V.
        grams: Gram matrix of the changes in each part.
    """

    directions: Float[Tensor, "input direction"]
    along: Float[Tensor, "vector output direction"]
    grams: Float[Tensor, "part vector vector"]


def is_matrix(spec: TensorSpec) -> bool:
    """Return whether a tensor is a matrix, and so has parts."""
    return len(spec.shape) > 1


def present_parts(layout: Layout, count: int) -> Float[Tensor, "tensor part"]:
    """Return a mask of the parts that each tensor has: all `count`, or the last one only."""
    there = torch.zeros(len(layout.tensors), count)
    there[:, -1] = 1
    there[[is_matrix(spec) for spec in layout.tensors]] = 1
    return there


def row_blocks(spec: TensorSpec, columns: slice, at_once: int) -> Iterator[slice]:
    """Yield slices of whole rows of a tensor, of about `at_once` weights, in the flat vector."""
    row = spec.size // spec.shape[0] if is_matrix(spec) else 1
    step = max(at_once // row, 1) * row
    for start in range(columns.start, columns.stop, step):
        yield slice(start, min(start + step, columns.stop))


def seen_tensors(
    read: Reader, layout: Layout, present: int, edges: Edges, at_once: int = COLUMNS_AT_ONCE
) -> list[Seen]:
    """Return the changes of every tensor in the directions of the first `present` changes.

    Args:
        read: returns the changes of a slice of weights.
        layout: of the vectors.
        present: number of changes that define the directions.
        edges: boundaries between parts.
        at_once: weights per chunk.
    """
    return [
        (_matrix if edges and is_matrix(spec) else _vector)(
            read, spec, list(row_blocks(spec, columns, at_once)), present, edges
        )
        for spec, columns in zip(layout.tensors, layout.slices().values(), strict=True)
    ]


def near_directions(
    read: Reader, spec: TensorSpec, blocks: Blocks, present: int, count: int
) -> Float[Tensor, "input direction"]:
    """Return approximately the `count` strongest directions of the first changes of a wide matrix, by subspace iteration."""
    inputs = spec.size // spec.shape[0]
    width = min(count + SPARE, inputs)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(inputs, width, generator=generator, dtype=torch.float64).to(read(slice(0, 1)).device)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(_applied(read, spec, blocks, present, basis)).Q
    return basis @ _strongest(basis.T @ _applied(read, spec, blocks, present, basis), count)


def correction(
    seen: Seen, coefficients: Float[Tensor, "part increment horizon"], edges: Edges
) -> Float[Tensor, "horizon output direction"]:
    """Return L of a combination of parts; its coefficients of whole changes are those of the last part."""
    count, shares = coefficients.shape[1], coefficients.to(seen.along)
    bins = torch.bucketize(torch.arange(seen.along.shape[2]), torch.tensor(edges), right=True).to(shares.device)
    return torch.einsum("mrb,bmk->krb", seen.along[:count], shares[bins] - shares[-1])


def _matrix(read: Reader, spec: TensorSpec, blocks: Blocks, present: int, edges: Edges) -> Seen:
    inputs = spec.size // spec.shape[0]
    if inputs <= EXACT:
        directions = _exact_directions(read, spec, blocks, present, edges[-1])
    else:
        directions = near_directions(read, spec, blocks, present, edges[-1])
    along, whole = [], []
    for block in blocks:
        changes = _matrices(read(block), spec)  # (vectors, rows, C)
        along.append(changes @ directions)
        whole.append(_products(changes))
    seen = torch.cat(along, dim=1)
    return Seen(directions, seen, _part_products(seen, torch.stack(whole).sum(0), edges))


def _vector(read: Reader, spec: TensorSpec, blocks: Blocks, present: int, edges: Edges) -> Seen:  # noqa: ARG001
    whole = torch.stack([_products(read(block)) for block in blocks]).sum(0)
    nothing = whole.new_zeros(len(whole), 0, 0)
    return Seen(nothing[0], nothing, _part_products(nothing, whole, edges))


def _exact_directions(read: Reader, spec: TensorSpec, blocks: Blocks, present: int, count: int) -> Tensor:
    """Return the `count` strongest directions of the first changes, from inner products of inputs or, if fewer, of rows."""
    if present * spec.shape[0] >= spec.size // spec.shape[0]:
        return _strongest(_applied(read, spec, blocks, present, None), count)
    rows = torch.cat([_matrices(read(block)[:present], spec).flatten(0, 1) for block in blocks])
    directions = rows.T @ _strongest(rows @ rows.T, count)
    return directions / directions.norm(dim=0)


def _strongest(covariance: Tensor, most: int) -> Tensor:
    """Return the eigenvectors of the largest eigenvalues, strongest first, without those of zero eigenvalues."""
    spectrum = torch.linalg.eigh(covariance)
    count = int((spectrum.eigenvalues > NOTHING * spectrum.eigenvalues[-1]).sum())
    return spectrum.eigenvectors.flip(1)[:, : min(count, most)]


def _applied(read: Reader, spec: TensorSpec, blocks: Blocks, present: int, basis: Tensor | None) -> Tensor:
    """Return sum_i d_i^T d_i over the first changes, or its product with a basis."""
    products = []
    for block in blocks:
        matrices = _matrices(read(block)[:present], spec).flatten(0, 1)
        products = [sum(products, matrices.T @ (matrices if basis is None else matrices @ basis))]
    return products[0]


def _part_products(along: Tensor, whole: Tensor, edges: Edges) -> Tensor:
    cells = [_products(along[..., start:stop]) for start, stop in zip((0, *edges)[:-1], edges, strict=True)]
    grams = torch.stack([*cells, whole - sum(cells)])
    there = (grams.diagonal(dim1=-2, dim2=-1) > NOTHING * whole.diagonal()).to(grams)  # (P, V)
    return grams * there[:, :, None] * there[:, None]


def _matrices(changes: Tensor, spec: TensorSpec) -> Tensor:
    return changes.unflatten(-1, (-1, spec.size // spec.shape[0]))


def _products(changes: Tensor) -> Tensor:
    flat = changes.flatten(1)
    return flat @ flat.T
