"""Bootstrap over training runs: checkpoints of one run are not independent, so whole runs are resampled.

A resampling weights each network by how often its run was drawn. Metrics take weights W (B, N) and return one value
per resampling (B,), NaN where the metric is undefined. Pairs are compared in blocks, so that memory stays bounded.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Weights = Float[np.ndarray, "sample rows"]
Values = Float[np.ndarray, " sample"]
BLOCK = 512  # networks compared with all others at once
TAIL = 0.025  # probability on either side of a 95% interval


def run_weights(runs: Shaped[np.ndarray, " rows"], *, samples: int, seed: int) -> Weights:
    """Return how often each row is drawn when all runs are resampled with replacement, `samples` times.

    Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13. Fewer than two runs give no resamplings.

    >>> run_weights(np.array(["a", "a", "b"]), samples=2, seed=0)  # rows of a run are drawn together
    array([[0., 0., 2.],
           [1., 1., 1.]])
    """
    names, codes = np.unique(runs, return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = [random.integers(len(names), size=len(names)) for _ in range(samples if len(names) > 1 else 0)]
    counts = [np.bincount(draw, minlength=len(names))[codes] for draw in drawn]
    return np.array(counts, dtype=float).reshape(-1, len(codes))


def bounds(values: Mapping[str, Values]) -> dict[str, float]:
    """Return the bounds of the 95% percentile interval of each metric as `<name>_low` and `<name>_high`."""
    intervals = {}
    for name, each in values.items():
        defined = each[np.isfinite(each)]
        if len(defined):
            low, high = np.quantile(defined, [TAIL, 1 - TAIL])
            intervals |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return intervals


def mean(values: Float[np.ndarray, " rows"] | Bool[np.ndarray, " rows"], weights: Weights) -> Values:
    """Return the weighted mean."""
    return ratio(weights @ values.astype(float), weights.sum(axis=1))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, NaN where `below` is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def rank_correlations(
    truth: Float[np.ndarray, " rows"], prediction: Float[np.ndarray, " rows"], weights: Weights
) -> dict[str, Values]:
    """Return tau-b and Spearman's rho; 0 where a side is constant. Sums of counts, so exact in float32 and float64."""
    true_rank, true_pairs = _ranks(truth, weights)
    predicted_rank, predicted_pairs = _ranks(prediction, weights)
    agree = np.zeros(len(weights))
    for start in range(0, len(truth), BLOCK):
        block = slice(start, start + BLOCK)
        true, predicted = (np.sign(values[block, None] - values[None, :]) for values in (truth, prediction))  # (n, N)
        signs = (true * predicted).astype(np.float32)
        agree += np.einsum("bn,bn->b", weights[:, block].astype(np.float32) @ signs, weights)
    tau = agree / np.sqrt(np.maximum(true_pairs * predicted_pairs, 1e-30))
    covariance, true_size, predicted_size = (
        (weights * first * second).sum(axis=1)
        for first, second in ((true_rank, predicted_rank), (true_rank, true_rank), (predicted_rank, predicted_rank))
    )
    return {"kendall_tau": tau, "spearman": covariance / np.sqrt(np.maximum(true_size * predicted_size, 1e-30))}


def _ranks(values: Float[np.ndarray, " rows"], weights: Weights) -> tuple[Float[np.ndarray, "samples rows"], Values]:
    """Return by resample the weight below less that above each row, and the weight of all ordered pairs that differ."""
    order, ends, groups = ties(values)
    below, upto = cumulative(weights[:, order], ends)
    total = upto[:, -1]
    return (below + upto - total[:, None])[:, groups], total**2 - ((upto - below) ** 2).sum(axis=1)


def cumulative(weights: Weights, ends: Int[np.ndarray, " groups"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums (B, G) of the weights before each group of columns, and up to its last column."""
    upto = np.cumsum(weights, axis=1)[:, ends]
    return np.concatenate([np.zeros((len(upto), 1)), upto[:, :-1]], axis=1), upto


def same_order(first: Float[np.ndarray, " rows"], second: Float[np.ndarray, " rows"]) -> bool:
    """Return whether two columns rank the rows, ties included, in the same way."""
    return np.array_equal(ties(first)[2], ties(second)[2])


def ties(values: Float[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ascending order of the rows, the last place of each group of equal values in it, and each row's group."""
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.argsort(groups, kind="stable"), np.cumsum(counts) - 1, groups
