"""Chooses ensemble weights: the mixture with the lowest error on validation networks."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from wscore.heads.boosting import class_weights
from wscore.heads.targets import Continuous, Discrete, Target

STEPS = 10  # weights are multiples of 1 / STEPS
LEAST = 1e-6  # smallest probability


def best_shares(
    target: Target, outputs: Sequence[Float[np.ndarray, "rows width"]], values: Float[np.ndarray, " rows"]
) -> tuple[float, ...]:
    """Return the weights, multiples of 0.1 that sum to 1, with the lowest `error_of` of the mixed predictions.

    Equal weights if there are no rows; ties go to the first mixture.
    """
    if not len(values):
        return (1 / len(outputs),) * len(outputs)
    mixtures = list(_mixtures(len(outputs)))
    errors = [
        error_of(target, sum(share * each for share, each in zip(mixture, outputs, strict=True)), values)  # pyright: ignore
        for mixture in mixtures
    ]
    return mixtures[int(np.argmin(errors))]


def _mixtures(count: int) -> Iterator[tuple[float, ...]]:
    """Yield all weightings of `count` members."""
    for steps in itertools.product(range(STEPS + 1), repeat=count - 1):
        if sum(steps) <= STEPS:
            yield tuple(step / STEPS for step in (*steps, STEPS - sum(steps)))


def error_of(target: Target, outputs: Float[np.ndarray, "rows width"], values: Float[np.ndarray, " rows"]) -> float:
    """Return the mean squared error of scaled values, or the mean of -w_y log p_y of classes; 0 without rows."""
    if not len(values):
        return 0.0
    if isinstance(target, Continuous):
        return float(np.mean((outputs[:, 0] - values) ** 2))
    places = values.astype(int)
    share = outputs if isinstance(target, Discrete) else np.column_stack([1 - outputs[:, 0], outputs[:, 0]])
    predicted = np.maximum(share[np.arange(len(places)), places], LEAST)
    return float(-np.mean(class_weights(target)[places] * np.log(predicted)))
