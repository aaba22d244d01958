"""Permutation-symmetric weight covariance: the expectation over random orders of the hidden units.

Permuting the units of a hidden layer leaves the function of a network unchanged, so the weight covariance of unaligned
networks commutes with every permutation. By Schur's lemma it is then block diagonal with small blocks, each of which can be
estimated from few networks: with R^h = trivial + standard (sum zero) for each layer of h units,

    trivial        means over all units, of each kind of weight                     one block
    standard g     deviations between the units of layer g                          one block per layer, h - 1 times
    standard g, f  deviations between pairs of units of two layers                  one block per tensor, (h - 1)(f - 1) times

A sample covariance of a few hundred networks would have to recover these blocks from noise. The axes that index units are
inferred from the layout by `unit_axes`; errors there bias the estimate, which is why it is mixed with the plain one.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from wscore.networks.layout import Layout, TensorSpec
from wscore.pca import OVERSAMPLE, Pca, Stream, scatter, stream_mean, subspace

Vectors = Float[np.ndarray, "n weights"]
Key = tuple[str, int]
TRIVIAL: Key = ("trivial", -1)
WEIGHTS = ("linear", "conv")


class Axes(NamedTuple):
    """Axes of a tensor that index hidden units.

    Attributes:
        offset: its start in the flat vector.
        shape: rows, columns and entries per row and column.
        row_units: layer whose units the rows are, -1 if they are not hidden units.
        column_units: layer whose units the columns are, -1 if they are not hidden units.
    """

    offset: int
    shape: tuple[int, int, int]
    row_units: int
    column_units: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


class TensorPart(NamedTuple):
    """Part of a component that lies in one tensor.

    Attributes:
        axes: axes of the tensor.
        spread: axes (of rows 0, columns 1) along which deviations are kept, in that order.
        averaged: axes along which only the mean is kept.
    """

    axes: Axes
    spread: tuple[int, ...]
    averaged: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Coordinates: one for each weight of the remaining axes."""
        return self.axes.size // math.prod(self.axes.shape[axis] for axis in (*self.spread, *self.averaged))


class Component(NamedTuple):
    """All parts that transform in the same way under permutations.

    Attributes:
        parts: in the order of the tensors.
        units: numbers of units along which deviations are kept: (), (h,) or (h, f).
    """

    parts: list[TensorPart]
    units: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Coordinates of each unit (or pair of units)."""
        return sum(part.dim for part in self.parts)

    @property
    def copies(self) -> int:
        """Multiplicity of this component's block in the covariance."""
        return math.prod(count - 1 for count in self.units)

    def project(self, vectors: Vectors) -> Float64[np.ndarray, "n *units dim"]:
        """Return the coordinates of vectors (n, D) in this component; their squares sum to those of the projection."""
        parts = []
        for part in self.parts:
            axes = part.axes
            tensor = vectors[:, axes.offset : axes.offset + axes.size].reshape(len(vectors), *axes.shape)
            for axis in part.averaged:
                tensor = tensor.sum(axis=axis + 1, keepdims=True) / math.sqrt(axes.shape[axis])
            tensor = np.moveaxis(tensor, [axis + 1 for axis in part.spread], range(1, len(part.spread) + 1))
            parts.append(tensor.reshape(len(vectors), *self.units, part.dim))
        coordinates = np.concatenate(parts, axis=-1, dtype=np.float64)  # (n, *units, d)
        for axis in range(1, len(self.units) + 1):
            coordinates -= coordinates.mean(axis=axis, keepdims=True)
        return coordinates

    def add_lifted(self, coordinates: Float64[np.ndarray, "n *units dim"], vectors: Vectors) -> None:
        """Add the vectors (n, D) with these coordinates, in place: the transpose of `project`."""
        ends = np.cumsum([part.dim for part in self.parts])[:-1]
        for part, values in zip(self.parts, np.split(coordinates, ends, axis=-1), strict=True):
            axes = part.axes
            kept = [1 if axis in part.averaged else axes.shape[axis] for axis in range(3)]
            rest = [kept[axis] for axis in range(3) if axis not in part.spread]
            tensor = values.reshape(len(vectors), *self.units, *rest)
            tensor = np.moveaxis(tensor, range(1, len(part.spread) + 1), [axis + 1 for axis in part.spread])
            scale = math.prod(math.sqrt(axes.shape[axis]) for axis in part.averaged)
            spread = np.broadcast_to(tensor / scale, (len(vectors), *axes.shape))
            vectors[:, axes.offset : axes.offset + axes.size] += spread.reshape(len(vectors), -1)


class Exchangeable:
    """Means and covariances of networks of one layout, averaged over all orders of their hidden units.

    Args:
        layout: of the networks.
    """

    def __init__(self, layout: Layout) -> None:
        self.components = components_of(unit_axes(layout))

    @property
    def dim(self) -> int:
        """Dimension of the largest component; its block takes 8 dim^2 bytes."""
        return max(component.dim for component in self.components.values())

    def average(self, vector: Float[np.ndarray, " weights"]) -> Float[np.ndarray, " weights"]:
        """Return the mean of a vector (D,) over all orders."""
        total = np.zeros((1, len(vector)))
        trivial = self.components[TRIVIAL]
        trivial.add_lifted(trivial.project(vector[None]), total)
        return total[0].astype(vector.dtype)

    def covariance(
        self, blocks: Iterator[Vectors], mean: Float[np.ndarray, " weights"]
    ) -> Callable[[Vectors], Vectors]:
        """Return the function V -> C V, where C is the average over all orders of the covariance about `mean`."""
        count = 0
        squares = {key: np.zeros((component.dim, component.dim)) for key, component in self.components.items()}
        for block in blocks:
            count += len(block)
            for key, component in self.components.items():
                rows = component.project(block - mean).reshape(-1, component.dim)
                squares[key] += rows.T @ rows
        scaled = {key: square / (count * self.components[key].copies) for key, square in squares.items()}
        return lambda vectors: self._times(scaled, vectors)

    def _times(self, blocks: dict[Key, np.ndarray], vectors: Vectors) -> Vectors:
        product = np.zeros(vectors.T.shape)
        for key, component in self.components.items():
            component.add_lifted(component.project(vectors.T) @ blocks[key], product)
        return product.T.astype(vectors.dtype)


def unit_axes(layout: Layout) -> list[Axes]:
    """Infer which axes of each tensor index hidden units.

    Rows of a weight are the units of its layer, except for the last weight (classes). Its columns are the units of the nearest
    earlier layer with the same number of units or, for a linear layer after flattening, a divisor of it; those of the first
    weight (inputs) are no units. Biases and normalisation belong to the nearest earlier weight with the same number of rows.
    """
    last = max((place for place, spec in enumerate(layout.tensors) if spec.kind in WEIGHTS), default=-1)
    found: list[Axes] = []
    layers: list[tuple[int, int]] = []  # (layer, or -1 for the last; rows) of the weights so far
    for place, (spec, offset) in enumerate(zip(layout.tensors, layout.offsets, strict=True)):
        rows = spec.shape[0] if spec.shape else 1
        columns, column_units = _columns(spec, layers)
        if spec.kind in WEIGHTS:
            layers.append((spec.layer if place != last else -1, rows))
        row_units = next((layer for layer, count in reversed(layers) if count == rows), -1)
        if spec.size:
            found.append(Axes(offset, (rows, columns, spec.size // (rows * columns)), row_units, column_units))
    return found


def components_of(tensors: list[Axes]) -> dict[Key, Component]:
    """Return the components of a layout that have at least one dimension."""
    components: dict[Key, Component] = {TRIVIAL: Component([], ())}
    for number, axes in enumerate(tensors):
        units = {axis: layer for axis, layer in enumerate((axes.row_units, axes.column_units)) if layer >= 0}
        components[TRIVIAL].parts.append(TensorPart(axes, (), tuple(units)))
        for axis, layer in units.items():
            others = tuple(other for other in units if other != axis)
            found = components.setdefault(("units", layer), Component([], (axes.shape[axis],)))
            found.parts.append(TensorPart(axes, (axis,), others))
        if len(units) == 2:
            components["pairs", number] = Component([TensorPart(axes, (0, 1), ())], axes.shape[:2])
    return {key: component for key, component in components.items() if component.copies}


def _columns(spec: TensorSpec, layers: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the number of units indexed by the second axis of a tensor, and their layer; (1, -1) if none."""
    if spec.kind not in WEIGHTS or len(spec.shape) < 2:
        return 1, -1
    inputs = spec.shape[1]
    exact = [(rows, layer) for layer, rows in layers if rows == inputs]
    flattened = [(rows, layer) for layer, rows in layers if spec.kind == "linear" and rows and inputs % rows == 0]
    return (exact or flattened or [(1, -1)])[-1]


def symmetric_pca(blocks: Stream, rank: int, *, seed: int, units: Exchangeable, symmetry: float) -> Pca:
    """Return the leading eigenvectors of (1 - s) C + s C', by the subspace iteration of `wscore.pca`.

    C is the covariance of the networks and C' its average over all orders of their hidden units, both about the mean, mixed in
    the same way. This helps if there are few networks compared to their number of weights.

    Args:
        blocks: returns the networks in batches (n, D), the same at each call.
        rank: maximum number of components.
        seed: for the random initialisation.
        units: hidden units of the networks.
        symmetry: mixing weight s in [0, 1].
    """
    count, mean = stream_mean(blocks)
    mean = ((1 - symmetry) * mean + symmetry * units.average(mean)).astype(np.float32)
    averaged = units.covariance(iter(blocks()), mean)

    def product(vectors: np.ndarray) -> np.ndarray:
        return (1 - symmetry) * scatter(blocks, mean, vectors) / count + symmetry * averaged(vectors)

    rank = min(rank, len(mean))
    vectors = subspace(product, len(mean), min(rank + OVERSAMPLE, len(mean)), seed)
    small = (vectors.T @ product(vectors)).astype(np.float64)
    variances, rotation = np.linalg.eigh((small + small.T) / 2)
    order = np.argsort(-variances, kind="stable")[:rank]
    basis = (vectors @ rotation[:, order]).T.astype(np.float32)
    return Pca(mean, basis, np.maximum(variances[order], 0))
