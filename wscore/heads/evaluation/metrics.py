"""Metrics of property predictions. Every function returns finite floats only; undefined metrics are omitted.

Undefined are: metrics that need both labels, ranks or a variance when all true values are equal (ROC-AUC, average
precision, precision, recall, F1; R2, Kendall, Spearman), and a relative error when all true values are 0. Such
targets are detected by `is_one_valued`. Two conventions: the precision (and F1) of a label that is never predicted is 0,
and so is the rank correlation of a constant prediction.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from wscore.heads.targets import Binary, Continuous, Discrete, Encoded, Target, Targets

Outputs = dict[str, Float[np.ndarray, "rows _"]]
MAIN = {Binary: "f1", Continuous: "r2", Discrete: "accuracy"}  # the one metric of a target in compact tables
SHAPE_LEAKED = 0.99  # balanced accuracy of the shape-only control at or above which a label counts as leaked


def is_one_valued(values: Shaped[np.ndarray, " rows"]) -> bool:
    """Return whether all values are equal, or there are none."""
    return not len(values) or bool((values == values[0]).all())


def binary_scores(truth: Bool[np.ndarray, " rows"], probability: Float[np.ndarray, " rows"]) -> dict[str, float]:
    """Return accuracy, and precision, recall, f1, roc_auc, average_precision if both labels occur.

    A label is predicted at probability >= 1/2. precision = tp / (tp + fp), recall = tp / (tp + fn),
    f1 = 2 tp / (2 tp + fp + fn); the area under the ROC curve and the average precision (sum over thresholds of
    precision times gain of recall) use the probabilities.
    """
    predicted = probability >= 0.5
    scores = {"n": float(len(truth))}
    if len(truth):
        scores["accuracy"] = float(np.mean(predicted == truth))
    if is_one_valued(truth):
        return scores
    hits = float(np.sum(predicted & truth))
    scores["precision"] = hits / max(float(np.sum(predicted)), 1.0)
    scores["recall"] = hits / float(np.sum(truth))
    scores["f1"] = 2 * hits / float(np.sum(predicted) + np.sum(truth))
    scores["roc_auc"] = float(roc_auc_score(truth, probability))
    scores["average_precision"] = float(average_precision_score(truth, probability))
    return scores


def regression_scores(truth: Float[np.ndarray, " rows"], prediction: Float[np.ndarray, " rows"]) -> dict[str, float]:
    """Return mse, mae, rmse, r2, relative_error, kendall_tau (tau-b) and spearman.

    r2 = 1 - sum (t - p)^2 / sum (t - mean t)^2; relative_error = mean |t - p| / |t| over the rows with t != 0.
    """
    if not len(truth):
        return {"n": 0.0}
    error = prediction - truth
    scores = {"n": float(len(truth)), "mse": float(np.mean(error**2)), "mae": float(np.mean(np.abs(error)))}
    scores["rmse"] = scores["mse"] ** 0.5
    nonzero = truth != 0
    if nonzero.any():
        scores["relative_error"] = float(np.mean(np.abs(error[nonzero] / truth[nonzero])))
    if not is_one_valued(truth):
        scores["r2"] = r2(truth, prediction)
        scores["kendall_tau"] = kendall_tau(truth, prediction)
        flat = is_one_valued(prediction)
        scores["spearman"] = 0.0 if flat else _statistic(spearmanr(truth, prediction))
    return scores


def class_scores(truth: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " rows"]) -> dict[str, float]:
    """Return accuracy, macro_f1 (over the classes that occur) and majority (share of the commonest class)."""
    if not len(truth):
        return {"n": 0.0}
    counts = np.bincount(truth)
    classes = np.flatnonzero(counts)
    f1 = [2 * np.sum((predicted == c) & (truth == c)) / (np.sum(predicted == c) + counts[c]) for c in classes]
    return {
        "n": float(len(truth)),
        "accuracy": float(np.mean(predicted == truth)),
        "macro_f1": float(np.mean(f1)),
        "majority": float(counts.max() / len(truth)),
    }


def target_scores(
    target: Target, outputs: Float[np.ndarray, "rows width"], encoded: Float[np.ndarray, " rows"]
) -> dict[str, float]:
    """Return the metrics of one target on rows where it is known; continuous targets in their scaled space.

    Args:
        target: as fitted on the training rows.
        outputs: probability of true, scaled value, or probability of each class.
        encoded: the true values as returned by `encode`.
    """
    if isinstance(target, Binary):
        return binary_scores(encoded >= 0.5, outputs[:, 0])
    if isinstance(target, Discrete):
        return class_scores(encoded.astype(int), predicted_classes(target, outputs))
    return regression_scores(encoded.astype(float), outputs[:, 0].astype(float))


def r2(truth: Float[np.ndarray, " rows"], prediction: Float[np.ndarray, " rows"]) -> float:
    """Return 1 - sum (t - p)^2 / sum (t - mean t)^2, NaN if all true values are the same."""
    if is_one_valued(truth):
        return float("nan")
    return float(1 - np.sum((truth - prediction) ** 2) / np.sum((truth - np.mean(truth)) ** 2))


def kendall_tau(truth: Float[np.ndarray, " rows"], prediction: Float[np.ndarray, " rows"]) -> float:
    """Return Kendall's tau-b, 0 for a constant prediction, NaN if all true values are the same."""
    if is_one_valued(truth):
        return float("nan")
    return 0.0 if is_one_valued(prediction) else _statistic(kendalltau(truth, prediction))


def macro_f1(
    truth: Bool[np.ndarray, "rows target"],
    predicted: Bool[np.ndarray, "rows target"],
    known: Bool[np.ndarray, "rows target"],
) -> float:
    """Return the mean F1 of the labels that occur or are predicted among their known rows; NaN if there are none."""
    hits = np.sum(predicted & truth & known, axis=0)
    total = np.sum(predicted & known, axis=0) + np.sum(truth & known, axis=0)
    return float(np.mean(2 * hits[total > 0] / total[total > 0])) if (total > 0).any() else float("nan")


def hamming_loss(wrong: Bool[np.ndarray, "rows target"], known: Bool[np.ndarray, "rows target"]) -> float:
    """Return the fraction of wrong predictions among all known labels."""
    return float(np.sum(wrong & known) / max(np.sum(known), 1))


def subset_accuracy(wrong: Bool[np.ndarray, "rows target"], known: Bool[np.ndarray, "rows target"]) -> float:
    """Return the fraction of networks without a wrong label, among those with at least one known label."""
    labelled = known.any(axis=1)
    return float(np.sum(~(wrong & known).any(axis=1) & labelled) / max(np.sum(labelled), 1))


def skill(target: Target, outputs: Float[np.ndarray, "rows width"], encoded: Float[np.ndarray, " rows"]) -> float:
    """Return the gain over the best constant prediction: 1 is perfect, 0 no better; NaN for a one-valued truth.

    R2 in the scaled space for a continuous target; (accuracy - majority) / (1 - majority) for the others, where
    majority is the share of the commonest true class.
    """
    if is_one_valued(encoded):
        return float("nan")
    if isinstance(target, Continuous):
        return r2(encoded, outputs[:, 0])
    majority = np.bincount(encoded.astype(int)).max() / len(encoded)
    return float((hit_share(target, outputs, encoded) - majority) / (1 - majority))


def cut_skill(target: Target, outputs: Float[np.ndarray, "rows width"], encoded: Float[np.ndarray, " rows"]) -> float:
    """Return `skill`, clipped below at -1."""
    return float(np.maximum(skill(target, outputs, encoded), -1.0))


def hit_share(target: Target, outputs: Float[np.ndarray, "rows width"], encoded: Float[np.ndarray, " rows"]) -> float:
    """Return the accuracy on a `Binary` or `Discrete` target."""
    return float(np.mean(predicted_classes(target, outputs) == encoded))


def predicted_classes(target: Target, outputs: Float[np.ndarray, "rows width"]) -> Int[np.ndarray, " rows"]:
    """Return the predicted class of each row: 0 or 1 for a label, the most probable class of a vocabulary."""
    return (outputs[:, 0] >= 0.5).astype(int) if isinstance(target, Binary) else outputs.argmax(axis=1)


def aggregate(targets: Targets, outputs: Outputs, encoded: Encoded) -> float:
    """Return the mean over the targets of `cut_skill` on their known rows; one-valued targets are excluded; NaN if all are."""
    skills = [cut_skill(target, *known_rows(target, number, outputs, encoded)) for number, target in enumerate(targets)]
    defined = [value for value in skills if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def known_rows(
    target: Target, number: int, outputs: Outputs, encoded: Encoded
) -> tuple[Float[np.ndarray, "known width"], Float[np.ndarray, " known"]]:
    """Return outputs and true values of target `number` on the rows where it is known."""
    rows = encoded.known[:, number]
    return outputs[target.name][rows], encoded.values[rows, number].astype(float)


def is_shape_leaked(
    target: Target, outputs: Float[np.ndarray, "rows width"], encoded: Float[np.ndarray, " rows"]
) -> bool:
    """Return whether outputs of the shape-only control predict a label almost perfectly (balanced accuracy >= 0.99).

    Balanced accuracy is the mean recall over the true classes. A continuous or
    one-valued target is never leaked.
    """
    if isinstance(target, Continuous) or is_one_valued(encoded):
        return False
    predicted = predicted_classes(target, outputs)
    recalls = [np.mean(predicted[encoded == value] == value) for value in np.unique(encoded)]
    return bool(np.mean(recalls) >= SHAPE_LEAKED)


def _statistic(result: Any) -> float:
    return float(result.statistic)
