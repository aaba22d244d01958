"""Functional fidelity of reconstructed networks: accuracy, agreement, output divergence, rank correlation of accuracies.

Rules for broken networks, applied to every method and counted, never dropped:
- A running variance that decodes to a negative or non-finite number becomes `SMALLEST_VARIANCE`; any other non-finite
  weight becomes 0.
- An image with a non-finite logit counts as misclassified, as disagreement, and as a uniform output.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from wscore.evaluation.bootstrap import bounds, mean, rank_correlations, run_weights
from wscore.networks.layout import Layout

SMALLEST_VARIANCE = 1e-5  # the epsilon that PyTorch's batch norm adds
COLUMNS = ("accuracy_original", "accuracy", "agreement", "kl", "non_finite")


class Comparison(NamedTuple):
    """Comparison of each network with its original; all of shape (networks,), float64.

    Attributes:
        accuracy_original: accuracy of the original.
        accuracy: accuracy of the reconstructed network.
        agreement: share of images with the same predicted class.
        kl: mean over images of KL(original || reconstructed) of the output distributions, in nats.
        non_finite: share of images on which the reconstructed network has a non-finite logit.
    """

    accuracy_original: Float[np.ndarray, " networks"]
    accuracy: Float[np.ndarray, " networks"]
    agreement: Float[np.ndarray, " networks"]
    kl: Float[np.ndarray, " networks"]
    non_finite: Float[np.ndarray, " networks"]


class Repaired(NamedTuple):
    """Repaired weights, and how many were replaced.

    Attributes:
        weights: the weights, copied only if something was replaced.
        variances: number of replaced running variances.
        others: number of other non-finite weights set to 0.
    """

    weights: Float[np.ndarray, "networks weights"]
    variances: int
    others: int


def repair(layout: Layout, vectors: Float[np.ndarray, "networks weights"]) -> Repaired:
    """Return decoded weights (n, D) with invalid values replaced by the rules of this module."""
    is_variance = np.repeat(
        [spec.kind == "running_var" for spec in layout.tensors], [spec.size for spec in layout.tensors]
    )
    broken = ~np.isfinite(vectors)
    bad_variance = is_variance & (broken | (vectors < 0))
    others = broken & ~is_variance
    if not bad_variance.any() and not others.any():
        return Repaired(vectors, 0, 0)
    weights = np.where(bad_variance, np.float32(SMALLEST_VARIANCE), np.where(others, np.float32(0), vectors))
    return Repaired(weights, int(bad_variance.sum()), int(others.sum()))


@torch.no_grad()
def compare(
    original: Float[Tensor, "networks images classes"],
    restored: Float[Tensor, "networks images classes"],
    labels: Int[Tensor, " images"],
) -> Comparison:
    """Compare reconstructed networks with their originals, from the logits of both on the same images."""
    first, first_log, first_ok = _answers(original)
    second, second_log, second_ok = _answers(restored)
    divergence = (first_log.exp() * (first_log - second_log)).sum(-1)  # (M, N)
    return Comparison(
        accuracy_original=_mean((first == labels) & first_ok),
        accuracy=_mean((second == labels) & second_ok),
        agreement=_mean((first == second) & first_ok & second_ok),
        kl=_mean(divergence.clamp_min(0)),
        non_finite=_mean(~second_ok),
    )


def rank_correlation(first: Float[np.ndarray, " rows"], second: Float[np.ndarray, " rows"]) -> float:
    """Return Spearman's rank correlation; 0 where a side is constant."""
    if not (np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(spearmanr(first, second)[0])  # pyright: ignore[reportArgumentType]


def summarise(rows: pd.DataFrame) -> dict[str, float]:
    """Return the function metrics of one method from its table of networks (columns `COLUMNS`).

    accuracy_original, accuracy, agreement, kl and non_finite_share are means over networks, kl_median is a median (one
    diverged network can dominate the mean); accuracy_change is the mean of |accuracy - accuracy_original|; rank_correlation
    is Spearman's, of the two accuracies.
    """
    values = {name: rows[name].to_numpy(float) for name in COLUMNS}
    return {
        "accuracy_original": float(values["accuracy_original"].mean()),
        "accuracy": float(values["accuracy"].mean()),
        "accuracy_change": float(np.abs(values["accuracy"] - values["accuracy_original"]).mean()),
        "agreement": float(values["agreement"].mean()),
        "kl": float(values["kl"].mean()),
        "kl_median": float(np.median(values["kl"])),
        "rank_correlation": rank_correlation(values["accuracy_original"], values["accuracy"]),
        "non_finite_share": float(values["non_finite"].mean()),
    }


def intervals(rows: pd.DataFrame, *, samples: int, seed: int) -> dict[str, float]:
    """Return 95% intervals over runs (column `run_id`) of agreement, accuracy_change and rank_correlation."""
    original, accuracy = rows["accuracy_original"].to_numpy(float), rows["accuracy"].to_numpy(float)
    weights = run_weights(rows["run_id"].to_numpy(str), samples=samples, seed=seed)
    if not len(weights):
        return {}
    return bounds({
        "agreement": mean(rows["agreement"].to_numpy(float), weights),
        "accuracy_change": mean(np.abs(accuracy - original), weights),
        "rank_correlation": rank_correlations(original, accuracy, weights)["spearman"],
    })  # fmt: skip


def _answers(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return predicted classes (M, N), log probabilities (M, N, C) in float64, and where all logits are finite (M, N)."""
    finite = logits.isfinite().all(-1)
    safe = torch.where(finite[..., None], logits, 0).double()  # float64: differences of float32 logits cannot overflow
    return safe.argmax(-1), safe.log_softmax(-1), finite


def _mean(values: Tensor) -> np.ndarray:
    return values.double().mean(-1).cpu().numpy()
