"""How well the layers of a network fit each other, unit by unit, from weights alone.

A gradient step changes the incoming weights w_i and the outgoing weights v_i of a hidden unit together: dw_i is a sum of
inputs, weighted by v_i . (errors of the outputs). Units that read alike thus act alike: the products (w_i . w_j) (v_i . v_j)
of two units of a trained network tend to be positive. If the sign of w_i is flipped, all products of unit i turn; if one of
the two layers comes from another network, the two factors have nothing to do with each other. The same holds for the bias
and the running mean of a unit in the place of v_i.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wscore.encoder.weight_statistics import tensor_roles
from wscore.networks.layout import Layout
from wscore.survey.unit_groups import LEAST_UNITS, unit_groups
from wscore.symmetry.spec import Axis

Vectors = Float[np.ndarray, "networks weights"]
Sides = Float[np.ndarray, "networks units _"]
Fit = dict[str, Float[np.ndarray, " networks"]]
WIDEST = 256  # units of a group that are compared
TINY = 1e-12
OF_UNITS = {"bias": "bias", "norm_bias": "shift", "running_mean": "mean"}  # kinds of tensors with a number per unit


class Layer(NamedTuple):
    """A layer whose units can be reordered.

    Attributes:
        role: such as `linear[-2]`.
        incoming: weights of each unit.
        others: what belongs to the same units, by name: outgoing weights, bias, running mean.
    """

    role: str
    incoming: Sides
    others: dict[str, Sides]


def layer_fit(layout: Layout, vectors: Vectors) -> Fit:
    """Return how well layers fit, by names such as `linear[-2].outgoing_fit`; nothing for networks of unknown graph."""
    numbers: Fit = {}
    for layer in _layers(layout, vectors):
        for name, other in layer.others.items():
            found = agreement(layer.incoming, other)
            numbers |= {f"{layer.role}.{name}_{measure}": column for measure, column in found.items()}
    return numbers


def agreement(first: Sides, second: Sides) -> Fit:
    """Return how well two sets of numbers per unit agree.

    With S_ij = (first_i . first_j) (second_i . second_j), i != j: `fit`: sum of S over its norm, about 0 for layers that
    were not trained together; `least`: the smallest such sum of one row; `turned`: share of units whose flip, one after the
    other, increases the sum; `gain`: what that adds to `fit`; `norms`: correlation of the logarithms of the norms.
    """
    products = _products(first) * _products(second)  # (N, U, U)
    norm = np.sqrt(np.square(products).sum(axis=(1, 2))) + TINY
    rows = products.sum(axis=2)
    signs = _best_signs(products)
    best = np.einsum("nij,ni,nj->n", products, signs, signs)
    return {
        "fit": rows.sum(axis=1) / norm,
        "least": (rows / (np.sqrt(np.square(products).sum(axis=2)) + TINY)).min(axis=1),
        "turned": (signs < 0).mean(axis=1),
        "gain": (best - rows.sum(axis=1)) / norm,
        "norms": _correlation(_log_norms(first), _log_norms(second)),
    }


def _best_signs(products: Float[np.ndarray, "networks units units"]) -> Float[np.ndarray, "networks units"]:
    """Return signs that increase the sum of products, found by flipping the worst unit until none gains."""
    count, units, _ = products.shape
    signs, everyone = np.ones((count, units)), np.arange(count)
    for _ in range(units):
        rows = signs * np.einsum("nij,nj->ni", products, signs)
        worst = rows.argmin(axis=1)
        flipped = rows[everyone, worst] < 0
        if not flipped.any():
            break
        signs[everyone[flipped], worst[flipped]] *= -1
    return np.where(signs.sum(axis=1, keepdims=True) < 0, -signs, signs)


def _layers(layout: Layout, vectors: Vectors) -> Iterator[Layer]:
    spec = unit_groups(layout)
    roles = {
        tensor.name: f"{kind}[-{place}]"
        for tensor, (kind, place) in zip(layout.tensors, tensor_roles(layout), strict=True)
    }
    for name, (produced, *_) in spec.axes.items():
        units = spec.units.get(produced.group or "", 0)
        if LEAST_UNITS <= units <= WIDEST:
            readers = [binding for binding in spec.bindings(produced.group or "") if binding.axis == 1]
            sides = [_outgoing(layout, vectors, reader.tensor, reader.how, units) for reader in readers]
            others = {"outgoing": np.concatenate(sides, axis=2)} if sides else {}
            yield Layer(roles[name], _rows(layout, vectors, name), others | _of_units(layout, vectors, name, units))


def _rows(layout: Layout, vectors: Vectors, name: str) -> Sides:
    spec = next(spec for spec in layout.tensors if spec.name == name)
    return vectors[:, layout.slices()[name]].reshape(len(vectors), spec.shape[0], -1).astype(np.float64)


def _outgoing(layout: Layout, vectors: Vectors, name: str, how: Axis, units: int) -> Sides:
    """Return the weights by which a layer reads each unit, scaled to a norm of 1 over all units."""
    matrix = _rows(layout, vectors, name)
    spec = next(spec for spec in layout.tensors if spec.name == name)
    matrix = matrix.reshape(len(vectors), spec.shape[0], how.repeat, units, -1)
    sides = np.moveaxis(matrix, 3, 1).reshape(len(vectors), units, -1)
    return sides / (np.linalg.norm(sides, axis=(1, 2), keepdims=True) + TINY)


def _of_units(layout: Layout, vectors: Vectors, name: str, units: int) -> dict[str, Sides]:
    """Return bias and running mean that follow a weight matrix in its layer and the next, before another matrix."""
    found: dict[str, Sides] = {}
    names = [spec.name for spec in layout.tensors]
    for spec in layout.tensors[names.index(name) + 1 :]:
        if spec.kind not in (*OF_UNITS, "norm_weight", "running_var") or spec.shape != (units,):
            break
        if spec.kind in OF_UNITS:
            found[OF_UNITS[spec.kind]] = vectors[:, layout.slices()[spec.name], None].astype(np.float64)
    return found


def _products(sides: Sides) -> Float[np.ndarray, "networks units units"]:
    """Return the inner products of different units."""
    products = sides @ sides.swapaxes(1, 2)
    everyone = np.arange(sides.shape[1])
    products[:, everyone, everyone] = 0
    return products


def _log_norms(sides: Sides) -> Float[np.ndarray, "networks units"]:
    return np.log(np.linalg.norm(sides, axis=2) + TINY)


def _correlation(
    first: Float[np.ndarray, "networks units"], second: Float[np.ndarray, "networks units"]
) -> Float[np.ndarray, " networks"]:
    first, second = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    scale = np.sqrt(np.square(first).sum(axis=1) * np.square(second).sum(axis=1))
    return (first * second).sum(axis=1) / (scale + TINY)
