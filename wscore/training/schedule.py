"""Learning-rate schedules as pure functions of the step, so that resuming needs no scheduler state."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]

# Fraction of the base rate after a fraction p of the steps following the warm-up, 0 <= p < 1.
DECAYS: Mapping[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
}


def rate(step: int, *, total: int, warmup: float | int, schedule: Schedule) -> float:
    """Return the fraction of the base learning rate at an optimizer step.

    With W = floor(warmup * total): (step + 1) / W for step < W, then the decay at p = (step - W) / (total - W).

    Args:
        step: steps completed before this one, 0 <= step < total.
        total: number of steps in the whole training.
        warmup: fraction of the steps with linear warm-up, 0 <= warmup < 1.
        schedule: decay after the warm-up.

    >>> [rate(step, total=4, warmup=0.5, schedule="linear") for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rising = int(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return DECAYS[schedule]((step - rising) / (total - rising))
