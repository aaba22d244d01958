"""Which of two related networks descends from the other, from their weights alone.

The largest weights grow during training: the mean over matrices of log max |w| is the age of a network. Pruning and rounding
leave zeros and repeated values, which no ancestor has.
"""

import numpy as np
from jaxtyping import Float

from wscore.networks.layout import Layout

MATRICES = ("linear", "conv")
TINY = 1e-30
SHARPNESS = 60.0  # log odds per unit of age
MOST = 5.0  # log odds of an edge: 99.3%
COARSER = 0.05  # difference of the shares of zeros or repeated values that shows a compressed copy


def ages(layout: Layout, vectors: Float[np.ndarray, "network weights"]) -> Float[np.ndarray, "network 2"]:
    """Return for each network its age and the share of its weights that are 0 or repeat another weight of their matrix."""
    spans = [
        span
        for spec, span in zip(layout.tensors, layout.slices().values(), strict=True)
        if spec.kind in MATRICES and spec.size
    ] or [slice(None)]
    largest = np.stack([np.abs(vectors[:, span]).max(axis=1) for span in spans])  # (matrices, N)
    repeated = np.mean([[_repeated(vector[span]) for span in spans] for vector in vectors], axis=1)
    return np.stack([np.log(np.maximum(largest, TINY)).mean(axis=0), repeated], axis=1)


def descent_log_odds(
    first: Float[np.ndarray, "pair 2"], second: Float[np.ndarray, "pair 2"]
) -> Float[np.ndarray, " pair"]:
    """Return the log odds that the first of a pair is the ancestor, from what `ages` returns of both."""
    older, coarser = (second - first).T
    odds = np.where(np.abs(coarser) > COARSER, np.sign(coarser) * MOST, SHARPNESS * older)
    return np.clip(odds, -MOST, MOST)


def _repeated(values: np.ndarray) -> float:
    return 1 - len(np.unique(values)) / len(values)
