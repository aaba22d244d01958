"""Metrics of property predictions under many weightings of the same networks at once: bootstrap without loops.

A resampling of training runs gives each network a weight: how often its run was drawn. Every function takes weights W
(B, N) and returns one value per resampling (B,), NaN where the metric is not defined there; with weights of one it is
the metric of `wscore.heads.evaluation.metrics`. Pairs are compared in blocks, so that memory stays bounded.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Weights = Float[np.ndarray, "sample rows"]
Values = Float[np.ndarray, " sample"]
BLOCK = 512  # networks that are compared with all others at once
TAIL = 0.025  # left out on either side of a 95% interval


def run_weights(runs: Shaped[np.ndarray, " rows"], *, samples: int, seed: int) -> Weights:
    """Return how often each row is drawn when as many runs as there are are drawn with replacement, `samples` times.

    Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13. No resampling of less than two runs.
    """
    names, codes = np.unique(runs, return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = [random.integers(len(names), size=len(names)) for _ in range(samples if len(names) > 1 else 0)]
    counts = [np.bincount(some, minlength=len(names))[codes] for some in drawn]
    return np.array(counts, dtype=float).reshape(-1, len(codes))


def bounds(values: Mapping[str, Values]) -> dict[str, float]:
    """Return the ends of the 95% percentile interval of each metric as `<name>_low` and `<name>_high`."""
    found = {}
    for name, each in values.items():
        defined = each[np.isfinite(each)]
        if len(defined):
            low, high = np.quantile(defined, [TAIL, 1 - TAIL])
            found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def mean(values: Float[np.ndarray, " rows"] | Bool[np.ndarray, " rows"], weights: Weights) -> Values:
    """Return the weighted mean."""
    return _ratio(weights @ values.astype(float), weights.sum(axis=1))


def binary(
    truth: Bool[np.ndarray, " rows"], probability: Float[np.ndarray, " rows"], weights: Weights
) -> dict[str, Values]:
    """Return accuracy, precision, recall, f1, roc_auc and average_precision of a label."""
    said = probability >= 0.5
    hits, true, told = (weights @ part.astype(float) for part in (said & truth, truth, said))
    other = weights.sum(axis=1) - true
    both = (true > 0) & (other > 0)
    found = {
        "precision": hits / np.maximum(told, 1.0),
        "recall": _ratio(hits, true),
        "f1": _ratio(2 * hits, true + told),
        "roc_auc": _ratio(_area(truth, probability, weights), true * other),
        "average_precision": _ratio(_precision_sum(truth, probability, weights), true),
    }
    return {"accuracy": mean(said == truth, weights)} | {k: np.where(both, v, np.nan) for k, v in found.items()}


def regression(
    truth: Float[np.ndarray, " rows"], prediction: Float[np.ndarray, " rows"], weights: Weights
) -> dict[str, Values]:
    """Return mse, mae, rmse, relative_error, r2, kendall_tau (tau-b) and spearman of a number."""
    error = prediction - truth
    mse, centre = mean(error**2, weights), mean(truth, weights)
    variance = np.maximum(mean(truth**2, weights) - centre**2, 0.0)
    varies = variance > 1e-12 * (1 + centre**2)
    some = truth != 0
    relative = np.abs(error / np.where(some, truth, 1.0))
    found = {
        "mse": mse,
        "mae": mean(np.abs(error), weights),
        "rmse": np.sqrt(mse),
        "relative_error": _ratio(weights @ np.where(some, relative, 0.0), weights @ some.astype(float)),
    }
    ranks = {"r2": 1 - _ratio(mse, variance), **_rank_correlations(truth, prediction, weights)}
    return found | {name: np.where(varies, values, np.nan) for name, values in ranks.items()}


def classes(
    truth: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " rows"], weights: Weights
) -> dict[str, Values]:
    """Return accuracy, macro_f1 (over the classes that occur) and majority (share of the commonest class)."""
    count = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    true, told = (weights @ np.eye(count)[part] for part in (truth, predicted))  # (B, K)
    hits = weights @ (np.eye(count)[truth] * (truth == predicted)[:, None])
    f1 = np.where(true > 0, _ratio(2 * hits, true + told), np.nan)
    return {
        "accuracy": mean(truth == predicted, weights),
        "macro_f1": _over(f1),
        "majority": _ratio(true.max(axis=1), weights.sum(axis=1)),
    }


def _over(values: Float[np.ndarray, "sample part"]) -> Values:
    """Return the mean of the parts that are defined."""
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(float))


def average(values: list[Values]) -> Values:
    """Return the mean over several metrics, resampling by resampling, of those that are defined."""
    return _over(np.stack(values, axis=1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def _steps(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of falling probability and the first place of each set of equal ones."""
    order = np.argsort(-probability, kind="stable")
    return order, np.flatnonzero(np.append(True, np.diff(probability[order]) != 0))


def _area(truth: np.ndarray, probability: np.ndarray, weights: Weights) -> Values:
    """Return the sum over pairs (true, false) of 1 if the true one is likelier, 1/2 if equally likely."""
    order, starts = _steps(probability)
    yes, no = (np.add.reduceat(weights[:, order] * part[order], starts, axis=1) for part in (truth, ~truth))
    below = no.sum(axis=1, keepdims=True) - np.cumsum(no, axis=1)
    return (yes * (below + no / 2)).sum(axis=1)


def _precision_sum(truth: np.ndarray, probability: np.ndarray, weights: Weights) -> Values:
    """Return the sum over thresholds of (true ones gained) x precision."""
    order, starts = _steps(probability)
    yes, all_ = (
        np.add.reduceat(weights[:, order] * part, starts, axis=1) for part in (truth[order], np.ones(len(order)))
    )
    precision = np.cumsum(yes, axis=1) / np.maximum(np.cumsum(all_, axis=1), 1e-9)
    return (yes * precision).sum(axis=1)


def _rank_correlations(truth: np.ndarray, prediction: np.ndarray, weights: Weights) -> dict[str, Values]:
    """Return tau-b and Spearman's rho from signs of pairwise differences; 0 for a constant prediction."""
    agree, true_pairs, told_pairs = (np.zeros(len(weights)) for _ in range(3))
    true_rank, told_rank = np.zeros(weights.shape), np.zeros(weights.shape)
    for start in range(0, len(truth), BLOCK):
        part = slice(start, start + BLOCK)
        true, told = (np.sign(values[part, None] - values[None, :]) for values in (truth, prediction))  # (n, N)
        own = weights[:, part]
        agree += np.einsum("bn,bn->b", own @ (true * told), weights)
        true_pairs += np.einsum("bn,bn->b", own @ np.abs(true), weights)
        told_pairs += np.einsum("bn,bn->b", own @ np.abs(told), weights)
        true_rank[:, part], told_rank[:, part] = weights @ true.T, weights @ told.T
    tau = agree / np.sqrt(np.maximum(true_pairs * told_pairs, 1e-30))
    covariance, true_size, told_size = (
        (weights * left * right).sum(axis=1)
        for left, right in ((true_rank, told_rank), (true_rank, true_rank), (told_rank, told_rank))
    )
    return {"kendall_tau": tau, "spearman": covariance / np.sqrt(np.maximum(true_size * told_size, 1e-30))}
