"""Reconstruction errors of weights: streaming, overall and per kind of layer."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wscore.networks.layout import KINDS, Layout

Vectors = Float[np.ndarray, "networks weights"]
Reference = Callable[[Layout], Float[np.ndarray, " weights"]]
METRICS = ("mse", "mae", "rmse", "cosine", "relative_error", "r2")


class Sums(NamedTuple):
    """Running totals over selected weights of many networks.

    Attributes:
        weights: number of weights.
        squared: sum of (w - w^)^2.
        absolute: sum of |w - w^|.
        variation: sum of (w - m)^2, with the reference m of R2.
        networks: number of networks.
        cosine: sum over networks of the cosine of w and w^.
        non_zero: number of networks with |w| > 0.
        relative: sum over those of |w - w^| / |w|.
    """

    weights: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0
    variation: float = 0.0
    networks: float = 0.0
    cosine: float = 0.0
    non_zero: float = 0.0
    relative: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def measure(original: Vectors, restored: Vectors, reference: Float[np.ndarray, " weights"]) -> Sums:
    """Return the totals of networks w (n, D), their reconstructions w^ (n, D) and a reference m (D,)."""
    w, v = original.astype(np.float64), restored.astype(np.float64)
    error = np.linalg.norm(w - v, axis=1)
    size, other = np.linalg.norm(w, axis=1), np.linalg.norm(v, axis=1)
    return Sums(
        weights=float(w.size),
        squared=float(np.sum(error**2)),
        absolute=float(np.sum(np.abs(w - v))),
        variation=float(np.sum((w - reference) ** 2)),
        networks=float(len(w)),
        cosine=float(np.sum(_cosine(np.sum(w * v, axis=1), size, other))),
        non_zero=float(np.sum(size > 0)),
        relative=float(np.sum(error[size > 0] / size[size > 0])),
    )


def metrics(sums: Sums) -> dict[str, float]:
    """Return the errors of some totals by name.

    mse = sum (w - w^)^2 / count, mae = sum |w - w^| / count, rmse = sqrt(mse), r2 = 1 - sum (w - w^)^2 / sum (w - m)^2:
    all pooled over the weights of all networks, so that large networks count more. cosine = w.w^ / (|w| |w^|) and
    relative_error = |w - w^| / |w| are means over networks; a network of zeros has cosine 1 with zeros, 0 with anything
    else, and no relative error.
    """
    mse = _ratio(sums.squared, sums.weights)
    return {
        "mse": mse,
        "mae": _ratio(sums.absolute, sums.weights),
        "rmse": float(np.sqrt(mse)),
        "cosine": _ratio(sums.cosine, sums.networks),
        "relative_error": _ratio(sums.relative, sums.non_zero),
        "r2": 1.0 if sums.squared == sums.variation == 0 else 1 - _ratio(sums.squared, sums.variation),
    }


class StructureErrors:
    """Errors of networks of any layout, accumulated batch by batch; only totals are stored.

    Args:
        reference: returns the R2 reference m (D,) of a layout: the mean network of the training split.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.total = Sums()
        self.kinds: dict[str, Sums] = {}

    def add(self, layout: Layout, original: Vectors, restored: Vectors) -> None:
        """Add networks (n, D) of one layout and their reconstructions (n, D)."""
        reference = self.reference(layout)
        self.total += measure(original, restored, reference)
        for kind, columns in kind_columns(layout).items():
            part = measure(original[:, columns], restored[:, columns], reference[columns])
            self.kinds[kind] = self.kinds.get(kind, Sums()) + part

    def overall(self) -> dict[str, float]:
        """Return the errors over all weights."""
        return metrics(self.total)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Return the errors of each kind of tensor that occurs, in the order of `KINDS`."""
        return {kind: metrics(self.kinds[kind]) for kind in KINDS if kind in self.kinds}


def kind_columns(layout: Layout) -> dict[str, np.ndarray]:
    """Return the positions in the flat vector (D,) of each kind of tensor of a layout."""
    kinds = np.repeat([spec.kind for spec in layout.tensors], [spec.size for spec in layout.tensors])
    return {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(spec.kind for spec in layout.tensors)}


def _cosine(product: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    scale = first * second
    both_zero = (first == 0) & (second == 0)
    return np.where(scale > 0, product / np.where(scale > 0, scale, 1), both_zero.astype(float))


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
