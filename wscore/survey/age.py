"""Which of two related networks descends from the other, from their weights alone.

During training the largest weights grow and the tails of their distribution get heavier (as the kurtosis of Horwitz et al.
2024, "On the origin of llamas", arXiv 2405.18432): the age of a network is the mean over its matrices of
log max |w| + 3 log(rms |w| / mean |w|) + log(q70 / q30), with the quantiles of |w|. The last term grows where pruned weights
were trained on: they stay near 0. Pruning and rounding leave zeros and repeated values, which no ancestor has.
"""

import numpy as np
from jaxtyping import Float

from wscore.networks.layout import Layout

MATRICES = ("linear", "conv")
TINY = 1e-30
TAILS = 3.0
EMPTIED = 2.0  # largest log(q70 / q30); it is 1 for Gaussian weights
SHARPNESS = 60.0  # log odds per unit of age
MOST = 3.0  # log odds of one pair by age: 95%
COMPRESSED = 5.0  # log odds that a compressed copy is the descendant
COARSER = 0.05  # difference of the shares of zeros or repeated values that shows a compressed copy


def ages(layout: Layout, vectors: Float[np.ndarray, "network weights"]) -> Float[np.ndarray, "network 2"]:
    """Return for each network its age and the share of its weights that are 0 or repeat another weight of their matrix."""
    spans = [
        span
        for spec, span in zip(layout.tensors, layout.slices().values(), strict=True)
        if spec.kind in MATRICES and spec.size
    ] or [slice(None)]
    matrix_ages = np.array([[_age(vector[span]) for span in spans] for vector in vectors])  # (N, matrices)
    repeated = np.mean([[_repeated(vector[span]) for span in spans] for vector in vectors], axis=1)
    return np.stack([matrix_ages.mean(axis=1), repeated], axis=1)


def descent_log_odds(
    first: Float[np.ndarray, "pair 2"], second: Float[np.ndarray, "pair 2"]
) -> Float[np.ndarray, " pair"]:
    """Return the log odds that the first of a pair is the ancestor, from what `ages` returns of both."""
    older, coarser = (second - first).T
    by_age = np.clip(SHARPNESS * older, -MOST, MOST)
    return np.where(np.abs(coarser) > COARSER, np.sign(coarser) * COMPRESSED, by_age)


def _age(weights: np.ndarray) -> float:
    sizes = np.abs(weights.astype(np.float64))
    tails = np.sqrt(np.square(sizes).mean()) / max(sizes.mean(), TINY)
    low, high = np.quantile(sizes, [0.3, 0.7])
    emptied = min(np.log(max(high, TINY) / max(low, TINY)), EMPTIED)
    return np.log(max(sizes.max(), TINY)) + TAILS * np.log(max(tails, 1.0)) + emptied


def _repeated(values: np.ndarray) -> float:
    return 1 - len(np.unique(values)) / len(values)
