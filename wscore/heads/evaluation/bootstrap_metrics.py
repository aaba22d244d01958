"""Vectorised bootstrap of property metrics: evaluates them under many weightings of the same networks at once.

Every function takes the weights W (B, N) of `wscore.evaluation.bootstrap` and returns one value per resampling (B,), NaN
where the metric is undefined; with unit weights it equals the metric of `wscore.heads.evaluation.metrics`.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from wscore.evaluation.bootstrap import Values, Weights, cumulative, mean, rank_correlations, ratio, ties


def binary(
    truth: Bool[np.ndarray, " rows"], probability: Float[np.ndarray, " rows"], weights: Weights
) -> dict[str, Values]:
    """Return accuracy, precision, recall, f1, roc_auc and average_precision of a label."""
    positive = probability >= 0.5
    hits, true, predicted = (weights @ mask.astype(float) for mask in (positive & truth, truth, positive))
    other = weights.sum(axis=1) - true
    both = (true > 0) & (other > 0)
    area, precisions = _curves(truth, probability, weights)
    scores = {
        "precision": hits / np.maximum(predicted, 1.0),
        "recall": ratio(hits, true),
        "f1": ratio(2 * hits, true + predicted),
        "roc_auc": ratio(area, true * other),
        "average_precision": ratio(precisions, true),
    }
    return {"accuracy": mean(positive == truth, weights)} | {k: np.where(both, v, np.nan) for k, v in scores.items()}


def regression(
    truth: Float[np.ndarray, " rows"],
    prediction: Float[np.ndarray, " rows"],
    weights: Weights,
    correlations: Mapping[str, Values] | None = None,
) -> dict[str, Values]:
    """Return mse, mae, rmse, relative_error, r2, kendall_tau (tau-b) and spearman of a continuous target.

    The last two are taken from `correlations` if these are known: they depend on the order of the values alone.
    """
    error = prediction - truth
    mse, centre = mean(error**2, weights), mean(truth, weights)
    variance = np.maximum(mean(truth**2, weights) - centre**2, 0.0)
    varies = variance > 1e-12 * (1 + centre**2)
    nonzero = truth != 0
    relative = np.abs(error / np.where(nonzero, truth, 1.0))
    scores = {
        "mse": mse,
        "mae": mean(np.abs(error), weights),
        "rmse": np.sqrt(mse),
        "relative_error": ratio(weights @ np.where(nonzero, relative, 0.0), weights @ nonzero.astype(float)),
    }
    ranks = {"r2": 1 - ratio(mse, variance), **(correlations or rank_correlations(truth, prediction, weights))}
    return scores | {name: np.where(varies, values, np.nan) for name, values in ranks.items()}


def classes(
    truth: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " rows"], weights: Weights
) -> dict[str, Values]:
    """Return accuracy, macro_f1 (over the classes that occur) and majority (share of the commonest class)."""
    count = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    true, guessed = (weights @ np.eye(count)[labels] for labels in (truth, predicted))  # (B, K)
    hits = weights @ (np.eye(count)[truth] * (truth == predicted)[:, None])
    f1 = np.where(true > 0, ratio(2 * hits, true + guessed), np.nan)
    return {
        "accuracy": mean(truth == predicted, weights),
        "macro_f1": _over(f1),
        "majority": ratio(true.max(axis=1), weights.sum(axis=1)),
    }


def _over(values: Float[np.ndarray, "sample part"]) -> Values:
    """Return the mean of the defined (non-NaN) parts."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(float))


def average(values: list[Values]) -> Values:
    """Return the mean over several metrics, per resampling, ignoring undefined ones."""
    return _over(np.stack(values, axis=1))


def _curves(truth: np.ndarray, probability: np.ndarray, weights: Weights) -> tuple[Values, Values]:
    """Return two sums by resampling.

    The first is over pairs (positive, negative): 1 if the positive scores higher, 1/2 if tied. The second is over
    thresholds: (positives gained) x precision.
    """
    order, ends, _ = ties(-probability)
    drawn = weights[:, order]
    before, upto = cumulative(drawn, ends)
    positives_before, positives = cumulative(drawn * truth[order], ends)
    gained = positives - positives_before
    negatives = upto[:, -1:] - positives[:, -1:]
    below = negatives - ((before - positives_before) + (upto - positives)) / 2  # of a group half counts
    return (gained * below).sum(axis=1), (gained * positives / np.maximum(upto, 1e-9)).sum(axis=1)
