"""Bootstrap over training runs: checkpoints of one run are not independent, so whole runs are drawn."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Shaped

Statistic = Callable[[np.ndarray], float]
LEVEL = 0.95


def bootstrap(
    runs: Shaped[np.ndarray, " rows"],
    statistics: Mapping[str, Statistic],
    *,
    samples: int,
    seed: int,
) -> dict[str, float]:
    """Return the 95% percentile bootstrap interval of each statistic as `<name>_low` and `<name>_high`.

    Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13; whole runs are drawn, with replacement.

    Args:
        runs: run of each row.
        statistics: functions of row numbers (some occurring several times) that return one number.
        samples: resamplings; 0 returns nothing.
        seed: of the resamplings.
    """
    members = _members(runs)
    if samples == 0 or len(members) < 2:
        return {}
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in statistics}
    for _ in range(samples):
        rows = np.concatenate([members[run] for run in random.integers(len(members), size=len(members))])
        for name, statistic in statistics.items():
            drawn[name].append(statistic(rows))
    return {key: value for name, values in drawn.items() for key, value in _bounds(name, np.array(values)).items()}


def mean_of(values: Float[np.ndarray, " rows"]) -> Statistic:
    """Return the statistic that averages these values over the drawn rows."""
    return lambda rows: float(np.mean(values[rows]))


def _members(runs: np.ndarray) -> list[np.ndarray]:
    codes = np.unique(runs, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


def _bounds(name: str, values: np.ndarray) -> dict[str, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
