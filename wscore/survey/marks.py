"""Marks that damage leaves in single weight matrices: zeros, rounding, an untouched initialisation."""

import math

import numpy as np
from jaxtyping import Float

from wscore.encoder.weight_statistics import tensor_roles
from wscore.networks.layout import Layout
from wscore.survey.damages import MATRICES, to_bfloat16

MARKS = ("zeros", "dead", "uniform", "fresh", "repeated", "grid", "float16", "bfloat16")
LEAST_FRESH = -20.0  # smallest `fresh`
LEVELS = 127  # of 8-bit integers, on each side of 0
Vectors = Float[np.ndarray, "networks weights"]
Marks = dict[str, Float[np.ndarray, "networks"]]


def tensor_marks(values: Float[np.ndarray, "networks weights"], units: int) -> Marks:
    """Return marks of one weight matrix of networks.

    `zeros`: share of exact zeros; `dead`: share of units without incoming weights; `uniform`: sqrt(n) times the
    Kolmogorov-Smirnov distance of |w| / max |w| from a uniform distribution, below 1.36 with a probability of 95% for a
    fresh initialisation; `fresh`: see `freshness`; `repeated`: share of weights that equal another; `grid`: mean distance
    from the multiples of max |w| / 127 in steps, 0.25 without rounding; `float16`, `bfloat16`: share of weights that
    these types hold exactly.

    Args:
        values: flat weights.
        units: rows of the matrix.
    """
    size = values.shape[1]
    sizes = np.sort(np.abs(values), axis=1)
    steps = sizes / np.maximum(sizes[:, -1:], 1e-30) - (np.arange(size) + 0.5) / size
    rows = values.reshape(len(values), units, -1)
    levels = values / np.maximum(sizes[:, -1:], 1e-30) * LEVELS
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    return {
        "zeros": (values == 0).mean(axis=1),
        "dead": (rows == 0).all(axis=2).mean(axis=1),
        "uniform": np.sqrt(size) * np.abs(steps).max(axis=1),
        "fresh": freshness(values, rows.shape[2]),
        "repeated": (np.diff(np.sort(values, axis=1), axis=1) == 0).mean(axis=1) if size > 1 else np.zeros(len(values)),
        "grid": np.abs(levels - np.round(levels)).mean(axis=1),
        "float16": (half == values).mean(axis=1),
        "bfloat16": (to_bfloat16(values) == values).mean(axis=1),
    }


def freshness(values: Float[np.ndarray, "networks weights"], fan_in: int) -> Float[np.ndarray, " networks"]:
    """Return the log probability that no weight of a fresh layer of torch lies nearer to its bound 1 / sqrt(fan-in).

    Training pushes weights over the bound, where it is `LEAST_FRESH`; with a smaller initial scale it is as small.
    """
    largest = np.abs(values).max(axis=1) * math.sqrt(fan_in)
    inside = np.maximum(values.shape[1] * np.log(np.clip(largest, 1e-30, 1)), LEAST_FRESH)
    return np.where(largest > 1 + 1e-6, LEAST_FRESH, inside)


def network_marks(layout: Layout, vectors: Vectors) -> Marks:
    """Return the marks of all weight matrices, by names such as `linear[-1].zeros`: the last linear layer.

    `least_fresh` and `freshest` are those of all matrices and their biases.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    marks, fresh, fan_in = {}, [], 1
    triples = zip(layout.tensors, tensor_roles(layout), layout.slices().values(), strict=True)
    for spec, (kind, place), span in triples:
        if spec.kind in MATRICES and spec.size:
            found = tensor_marks(vectors[:, span], spec.shape[0])
            marks |= {f"{kind}[-{place}].{name}": column for name, column in found.items()}
            fan_in = spec.size // spec.shape[0]
        if spec.kind in (*MATRICES, "bias") and spec.size:
            fresh.append(freshness(vectors[:, span], fan_in))
    return marks | ({"least_fresh": np.min(fresh, axis=0), "freshest": np.max(fresh, axis=0)} if fresh else {})
