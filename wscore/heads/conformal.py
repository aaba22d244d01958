"""Prediction intervals by split conformal prediction on the validation networks.

Vovk, Gammerman & Shafer (2005), "Algorithmic learning in a random world", in the split form and by groups of the
prediction (Mondrian), so that networks that are easy to predict get narrower intervals. Networks of one run are not
independent, runs are: all networks of a run share one weight (hierarchical conformal prediction, Lee, Barber & Willett 2023,
arXiv 2306.06342). Few runs therefore give wider intervals than as many independent networks would.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from jaxtyping import Float, Shaped
from msgspec import Meta

from wscore.config import Section
from wscore.heads.targets import Continuous, Encoded, Targets

GROUPS = 5  # of the predicted value
MEMBERS = 40  # minimum number of validation networks per group
ROUNDING = 1e-9  # of sums of weights


class Intervals(Section):
    """Half widths of the intervals of one target, in its scaled space, by group of the predicted value.

    Args:
        coverage: nominal coverage.
        edges: upper edges of all groups but the last, ascending.
        widths: half width of each group.
    """

    coverage: Annotated[float, Meta(gt=0, lt=1)]
    edges: tuple[float, ...]
    widths: Annotated[tuple[Annotated[float, Meta(ge=0)], ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Reject edges and widths whose counts do not match."""
        if len(self.widths) != len(self.edges) + 1:
            raise ValueError("intervals need one width more than edges")

    def bounds(
        self, predicted: Float[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Return lower and upper bounds for predictions, in the scaled space."""
        half = np.asarray(self.widths)[np.searchsorted(self.edges, predicted, side="left")]
        return predicted - half, predicted + half


def fit_intervals(
    targets: Targets,
    outputs: Mapping[str, Float[np.ndarray, "rows _"]],
    encoded: Encoded,
    *,
    runs: Shaped[np.ndarray, " rows"],
    coverage: float,
) -> dict[str, Intervals]:
    """Return the intervals of all continuous targets, from predictions for validation networks.

    Args:
        targets: of the head.
        outputs: predictions by target.
        encoded: true values.
        runs: training run of each network.
        coverage: nominal coverage.
    """
    intervals = {}
    for number, target in enumerate(targets):
        known = encoded.known[:, number]
        if isinstance(target, Continuous) and known.any():
            predicted = outputs[target.name][known, 0].astype(float)
            intervals[target.name] = _fit(predicted, encoded.values[known, number].astype(float), runs[known], coverage)
    return intervals


def _fit(predicted: np.ndarray, truth: np.ndarray, runs: np.ndarray, coverage: float) -> Intervals:
    groups = int(np.clip(len(predicted) // MEMBERS, 1, GROUPS))
    edges = np.unique(np.quantile(predicted, np.arange(1, groups) / groups))
    group = np.searchsorted(edges, predicted, side="left")
    errors = np.abs(truth - predicted)
    chosen = [group == k if (group == k).any() else group >= 0 for k in range(len(edges) + 1)]
    widths = [half_width(errors[rows], runs[rows], coverage) for rows in chosen]
    return Intervals(coverage=coverage, edges=tuple(edges.tolist()), widths=tuple(widths))


def half_width(errors: Float[np.ndarray, " rows"], runs: Shaped[np.ndarray, " rows"], coverage: float) -> float:
    """Return the smallest error up to which the weights sum to the coverage, or the largest error if there are too few runs.

    The weights of a run sum to 1 / (runs + 1). With one error per run, it is the ceil((n + 1) coverage)-th smallest of n.

    >>> half_width(np.array([0.3, 0.1, 0.2, 0.4]), np.arange(4), coverage=0.6)
    0.3
    >>> half_width(np.array([0.3, 0.1, 0.2, 0.4]), np.array([0, 1, 1, 1]), coverage=0.6)
    0.4
    """
    _, members, counts = np.unique(runs, return_inverse=True, return_counts=True)
    order = np.argsort(errors, kind="stable")
    reached = np.cumsum(1 / counts[members][order]) / (len(counts) + 1)
    return float(errors[order][min(int(np.searchsorted(reached, coverage - ROUNDING)), len(errors) - 1)])
