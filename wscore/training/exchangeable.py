"""Principal components of networks whose hidden units could stand in any order.

Reordering the units of a hidden layer leaves a trained network what it is, so an ordering is as probable as any other and the
covariance of the weights commutes with every reordering. By Schur's lemma it then falls apart into small blocks that can be
estimated from few networks: with V = R^h = trivial + standard (sum zero) for each layer of h units,

    trivial         the sum over all units of each kind of weight: one block, multiplicity 1
    standard g      deviations between the units of layer g: one block per layer, multiplicity h - 1
    standard g, f   deviations between pairs of units of two layers: one block per tensor, multiplicity (h - 1)(f - 1)

A plain PCA of a thousand networks has to find these blocks in noise; this is what it would find with every network shown in all
of its orders. Which axes are exchangeable is read off the layout by `unit_axes`, which may err; so a basis is to be compared
with a plain one on other networks before it is used.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from wscore.training.bases import Basis, Blocks
from wscore.zoo.layout import Layout, TensorSpec

Key = tuple[str, int, int]
TRIVIAL: Key = ("trivial", -1, -1)
WEIGHTS = ("linear", "conv")
LARGEST_BLOCK = 4096  # coordinates of a component; its covariance takes 8 bytes for each pair of them


class Axes(NamedTuple):
    """How a tensor is laid out over exchangeable units.

    Attributes:
        offset: start in the flat vector.
        rows: size of its first axis.
        columns: size of its second axis in units of another layer, 1 where it has none.
        rest: numbers for each row and column.
        out_units: layer whose units the rows are, -1 if they are not exchangeable.
        in_units: layer whose units the columns are, -1 if they are not exchangeable.
    """

    offset: int
    rows: int
    columns: int
    rest: int
    out_units: int
    in_units: int


class Part(NamedTuple):
    """The share of one tensor in a component: which of its axes are summed up and which deviate."""

    axes: Axes
    out_deviates: bool
    in_deviates: bool

    @property
    def dim(self) -> int:
        """Coordinates: one per weight that the exchangeable axes leave over."""
        axes = self.axes
        return axes.rest * (axes.rows if axes.out_units < 0 else 1) * (axes.columns if axes.in_units < 0 else 1)


class Component(NamedTuple):
    """All parts that transform alike.

    Attributes:
        parts: in the order of the tensors.
        units: sizes of the deviating axes: (), (h,) or (h, f).
    """

    parts: list[Part]
    units: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Coordinates for each unit (or pair of units)."""
        return sum(part.dim for part in self.parts)

    @property
    def multiplicity(self) -> int:
        """Dimensions that share each variance."""
        return math.prod(size - 1 for size in self.units)


def exchangeable_pca(layout: Layout, blocks: Blocks, rank: int) -> Basis | None:
    """Return the principal components of networks of a layout under all orders of their hidden units.

    Args:
        layout: of the networks.
        blocks: returns an iterator over float32 arrays (n, D) in the order of the layout; read once.
        rank: most components.

    Returns:
        The basis, or None if a block would be too large to be estimated.
    """
    components = components_of(unit_axes(layout))
    if max(component.dim for component in components.values()) > LARGEST_BLOCK:
        return None
    mean, covariances = _moments(components, blocks)
    spectra = {key: np.linalg.eigh(covariance) for key, covariance in covariances.items()}
    chosen = _largest(components, spectra, min(rank, layout.size))
    flat = np.zeros(layout.size, np.float32)
    _lift(components[TRIVIAL], mean, (), flat)
    columns = np.zeros((len(chosen), layout.size), np.float32)
    for column, (key, vector, copy, _) in zip(columns, chosen, strict=True):
        _lift(components[key], vector, _directions(components[key].units, copy), column)
    variances = np.array([variance for *_, variance in chosen], np.float32)
    return Basis(flat, np.ascontiguousarray(columns.T), variances)


def unit_axes(layout: Layout) -> list[Axes]:
    """Return which axes of each tensor run over hidden units.

    Rows of a weight are units of its layer, save those of the last one (the classes). Its columns are the units of the nearest
    layer before it with as many units, or for a linear layer behind a flattening as many that divide them; those of the first
    one (the inputs) are not. Biases and normalisation belong to the units of the nearest weight before them with as many.
    """
    weights = [spec for spec in layout.tensors if spec.kind in WEIGHTS]
    found: list[Axes] = []
    units: list[tuple[int, int]] = []  # (layer, size) of the weights so far
    for spec, offset in zip(layout.tensors, layout.offsets, strict=True):
        rows = spec.shape[0] if spec.shape else 1
        each = spec.size // rows if rows else 0
        columns, in_units = _columns(spec, units) if spec.kind in WEIGHTS else (1, -1)
        if spec.kind in WEIGHTS:
            units.append((spec.layer if spec is not weights[-1] else -1, rows))
        own = (
            units[-1] if spec.kind in WEIGHTS else next((unit for unit in reversed(units) if unit[1] == rows), (-1, 0))
        )
        found.append(Axes(offset, rows, columns, each // columns, own[0], in_units))
    return [axes for axes in found if axes.rows * axes.columns * axes.rest]


def components_of(tensors: list[Axes]) -> dict[Key, Component]:
    """Return the components of a layout; those without dimensions are left out."""
    components: dict[Key, Component] = {TRIVIAL: Component([], ())}
    for number, axes in enumerate(tensors):
        out, into = axes.out_units >= 0, axes.in_units >= 0
        components[TRIVIAL].parts.append(Part(axes, out_deviates=False, in_deviates=False))
        if out:
            _component(components, ("unit", axes.out_units, -1), (axes.rows,)).append(Part(axes, True, False))
        if into:
            _component(components, ("unit", axes.in_units, -1), (axes.columns,)).append(Part(axes, False, True))
        if out and into:
            _component(components, ("pair", number, -1), (axes.rows, axes.columns)).append(Part(axes, True, True))
    return {key: component for key, component in components.items() if component.multiplicity}


def _component(components: dict[Key, Component], key: Key, units: tuple[int, ...]) -> list[Part]:
    return components.setdefault(key, Component([], units)).parts


def _columns(spec: TensorSpec, units: list[tuple[int, int]]) -> tuple[int, int]:
    """Return how many units the second axis of a weight runs over, and of which layer."""
    if len(spec.shape) < 2:
        return 1, -1
    inputs = spec.shape[1]
    fits = [
        unit for unit in units if inputs == unit[1] or (spec.kind == "linear" and unit[1] and inputs % unit[1] == 0)
    ]
    exact = [unit for unit in fits if inputs == unit[1]]
    layer, size = (exact or fits or [(-1, 1)])[-1]
    return (size, layer) if layer >= 0 else (1, -1)


def _moments(components: dict[Key, Component], blocks: Blocks) -> tuple[np.ndarray, dict[Key, np.ndarray]]:
    """Return the mean of the trivial coordinates (d,) and the covariance (d, d) of each component."""
    count, total = 0, np.zeros(components[TRIVIAL].dim)
    squares = {key: np.zeros((component.dim, component.dim)) for key, component in components.items()}
    for block in blocks():
        count += len(block)
        for key, component in components.items():
            rows = _coordinates(component, block.astype(np.float64)).reshape(-1, component.dim)  # (n units, d)
            squares[key] += rows.T @ rows
            if key == TRIVIAL:
                total += rows.sum(0)
    mean = total / max(count, 1)
    covariances = {key: squares[key] / (max(count, 1) * components[key].multiplicity) for key in components}
    covariances[TRIVIAL] -= np.outer(mean, mean)
    return mean, covariances


def _coordinates(
    component: Component, vectors: Float64[np.ndarray, "n weights"]
) -> Float64[np.ndarray, "n *units dim"]:
    """Return what each unit (or pair) has of each kind of weight, deviations from the mean over the units."""
    parts = [_part(part, vectors) for part in component.parts]
    coordinates = np.concatenate(parts, axis=-1)  # (n, *units, d)
    for axis in range(1, coordinates.ndim - 1):
        coordinates = coordinates - coordinates.mean(axis=axis, keepdims=True)
    return coordinates


def _part(part: Part, vectors: np.ndarray) -> np.ndarray:
    """Return the weights of a tensor (n, *deviating units, d), summed over the other exchangeable axes (norm kept)."""
    axes = part.axes
    size = axes.rows * axes.columns * axes.rest
    tensor = vectors[:, axes.offset : axes.offset + size].reshape(-1, axes.rows, axes.columns, axes.rest)
    if axes.in_units >= 0 and not part.in_deviates:
        tensor = tensor.sum(axis=2, keepdims=True) / math.sqrt(axes.columns)
    if axes.out_units >= 0 and not part.out_deviates:
        tensor = tensor.sum(axis=1, keepdims=True) / math.sqrt(axes.rows)
    if part.in_deviates:  # a row that does not deviate is a kind of weight of its own
        tensor = tensor if part.out_deviates else tensor.swapaxes(1, 2)
    units = tensor.shape[1 : 1 + part.out_deviates + part.in_deviates]
    return tensor.reshape(len(vectors), *units, -1)


def _largest(
    components: dict[Key, Component], spectra: dict[Key, tuple[np.ndarray, np.ndarray]], rank: int
) -> list[tuple[Key, np.ndarray, int, float]]:
    """Return (component, vector, number of the copy, variance) of the directions of largest variance."""
    spaces = [
        (max(float(value), 0.0), key, place)
        for key, (values, _) in spectra.items()
        for place, value in enumerate(values)
    ]
    spaces.sort(key=lambda space: -space[0])
    chosen: list[tuple[Key, np.ndarray, int, float]] = []
    for variance, key, place in spaces:
        copies = min(components[key].multiplicity, rank - len(chosen))
        chosen += [(key, spectra[key][1][:, place], copy, variance) for copy in range(copies)]
    return chosen


def _directions(units: tuple[int, ...], copy: int) -> tuple[np.ndarray, ...]:
    """Return, for each deviating axis, one of h - 1 orthonormal directions that sum to zero."""
    directions = []
    for size in reversed(units):
        copy, place = divmod(copy, size - 1)
        directions.append(_cosine(size, place + 1))
    return tuple(reversed(directions))


def _cosine(size: int, frequency: int) -> np.ndarray:
    """Return row `frequency` of the orthonormal cosine transform of `size` points."""
    return math.sqrt(2 / size) * np.cos(np.pi * frequency * (np.arange(size) + 0.5) / size)


def _lift(
    component: Component, vector: np.ndarray, directions: tuple[np.ndarray, ...], flat: Float32[np.ndarray, " weights"]
) -> None:
    """Write the weights that a vector of coordinates stands for into a flat vector, along one direction of the units."""
    for part, coordinates in _split(component, vector):
        axes, along = part.axes, list(directions)
        rows = along.pop(0) if part.out_deviates else np.full(axes.rows, 1 / math.sqrt(axes.rows))
        columns = along.pop(0) if part.in_deviates else np.full(axes.columns, 1 / math.sqrt(axes.columns))
        kept = coordinates.reshape(
            axes.rows if axes.out_units < 0 else 1, axes.columns if axes.in_units < 0 else 1, axes.rest
        )
        rows = rows if axes.out_units >= 0 else np.ones(axes.rows)
        columns = columns if axes.in_units >= 0 else np.ones(axes.columns)
        tensor = kept * rows[:, None, None] * columns[None, :, None]
        flat[axes.offset : axes.offset + tensor.size] = tensor.reshape(-1)


def _split(component: Component, vector: np.ndarray) -> Iterator[tuple[Part, np.ndarray]]:
    ends = np.cumsum([part.dim for part in component.parts])
    yield from zip(component.parts, np.split(vector, ends[:-1]), strict=True)
