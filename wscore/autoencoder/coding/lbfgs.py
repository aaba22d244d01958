"""L-BFGS for many small independent problems at once: one evaluation of all of them per iteration."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Values (n,) and gradients (n, K) at points (n, K).
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]

DECREASE = 1e-4  # share of the decrease promised by the gradient that a step must bring (Armijo)
SHRINK = 0.25  # of a step that brought less
TINY = 1e-20


class Minimum(NamedTuple):
    """What was reached.

    Attributes:
        points: of each problem.
        values: of the objective there, at most those at the start.
    """

    points: Float[Tensor, "problems dim"]
    values: Float[Tensor, " problems"]


class _Memory:
    """The last steps s and changes y of the gradient of every problem; pairs without curvature have weight 0."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor, used: Bool[Tensor, " problems"]) -> None:
        product = (step * change).sum(1)
        used = used & (product > 1e-10 * change.square().sum(1))
        weight = torch.where(used, 1 / product.clamp_min(TINY), 0.0)
        keep = used[:, None]
        self.pairs = [*self.pairs, (torch.where(keep, step, 0.0), torch.where(keep, change, 0.0), weight)][-self.size :]

    def direction(self, gradient: Tensor, first: float) -> Tensor:
        """Return -H g by the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4); -g of length `first` without pairs."""
        q, shares = gradient, []
        scale = first / gradient.norm(dim=1).clamp_min(TINY)
        for step, change, weight in reversed(self.pairs):
            share = weight * (step * q).sum(1)
            q = q - share[:, None] * change
            shares.append(share)
        for _, change, weight in self.pairs:
            scale = torch.where(weight > 0, 1 / (weight * change.square().sum(1)).clamp_min(TINY), scale)
        q = q * scale[:, None]
        for (step, change, weight), share in zip(self.pairs, reversed(shares), strict=True):
            q = q + (share - weight * (change * q).sum(1))[:, None] * step
        return -q


def minimise(
    objective: Objective, start: Float[Tensor, "problems dim"], *, steps: int, history: int = 20, first: float = 1.0
) -> Minimum:
    """Return where `steps` evaluations beyond the first lead from a start, problem by problem.

    Every problem takes the whole quasi-Newton step if that lowers its objective enough and else a quarter of it at the
    next evaluation, and so on; no problem waits for another, and none ends higher than it began.

    Args:
        objective: values and gradients of all problems; what is not finite counts as too high.
        start: points to begin at.
        steps: further evaluations of the objective.
        history: pairs that are remembered.
        first: length of the first step.
    """
    points, memory = start, _Memory(history)
    values, gradients = objective(points)
    gradients = torch.nan_to_num(gradients)
    direction = memory.direction(gradients, first)
    share = torch.ones_like(values)
    for _ in range(steps):
        candidate = points + share[:, None] * direction
        value, gradient = objective(candidate)
        slope = (gradients * direction).sum(1)
        better = value.isfinite() & gradient.isfinite().all(1) & (value <= values + DECREASE * share * slope)
        gradient = torch.nan_to_num(gradient)
        memory.add(candidate - points, gradient - gradients, better)
        taken = better[:, None]
        points, gradients = torch.where(taken, candidate, points), torch.where(taken, gradient, gradients)
        values = torch.where(better, value, values)
        fresh = memory.direction(gradients, first)
        downhill = (fresh * gradients).sum(1, keepdim=True) < 0
        direction = torch.where(taken, torch.where(downhill, fresh, -gradients), direction)
        share = torch.where(better, 1.0, share * SHRINK)
    return Minimum(points, values)
