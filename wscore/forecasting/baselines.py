"""Forecasts that need no network, always shown beside one that does.

A baseline sees the snapshots known at the present, at the forecast's stride, oldest first, and returns the next K.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.forecasting.gram import TINY
from wscore.zoo.layout import Layout

AVERAGED = 3  # snapshots in LAWA
DECAY = 0.8  # of the exponential moving average, per step
REMEMBERED = 12  # snapshots that the moving average looks at; older ones weigh less than 7% together

Snapshots = Float[Tensor, "snapshot weights"]
Forecast = Float[Tensor, "horizon weights"]
Baseline = Callable[[Snapshots, Layout, int], Forecast]


def copy_last(history: Snapshots, layout: Layout, horizons: int) -> Forecast:  # noqa: ARG001
    """Return the last snapshot for every horizon: w(t + k) = w(t)."""
    return history[-1].expand(horizons, -1)


def linear(history: Snapshots, layout: Layout, horizons: int) -> Forecast:
    """Return the last increment continued: w(t + k) = w(t) + k d."""
    return damped(history, layout, horizons, coefficient=1.0)


def damped(history: Snapshots, layout: Layout, horizons: int, *, coefficient: float) -> Forecast:  # noqa: ARG001
    """Return w(t + k) = w(t) + a k d with one coefficient a for all weights and horizons."""
    steps = torch.arange(1, horizons + 1, dtype=history.dtype)[:, None]
    return history[-1] + coefficient * steps * (history[-1] - history[-2])


def online_ar1(history: Snapshots, layout: Layout, horizons: int) -> Forecast:
    """Return w(t + k) = w(t) + (r + .. + r^k) d, with r fitted to the increments of this history, for each tensor.

    r = sum <d(s), d(s - 1)> / sum |d(s - 1)|^2, within [-1, 1]. Nothing is learned beforehand.
    """
    increments = history[1:] - history[:-1]
    powers = torch.arange(1, horizons + 1, dtype=torch.float64)
    change = []
    for part in layout.slices().values():
        own = increments[:, part].double()
        squares = own[:-1].square().sum()
        ratio = (own[1:] * own[:-1]).sum() / squares.clamp_min(TINY)
        sums = (ratio.clamp(-1, 1) ** powers).cumsum(0)  # (K,)
        change.append(sums[:, None] * own[-1])
    return history[-1] + torch.cat(change, dim=1).to(history.dtype)


def lawa(history: Snapshots, layout: Layout, horizons: int) -> Forecast:  # noqa: ARG001
    """Return the mean of the last three snapshots for every horizon (latest weight averaging, arXiv 2306.03241)."""
    return history[-AVERAGED:].mean(0).expand(horizons, -1)


def moving_average(history: Snapshots, layout: Layout, horizons: int) -> Forecast:  # noqa: ARG001
    """Return the exponential moving average of the snapshots for every horizon: m = 0.8 m + 0.2 w."""
    average = history[-REMEMBERED:][0]
    for snapshot in history[-REMEMBERED:][1:]:
        average = DECAY * average + (1 - DECAY) * snapshot
    return average.expand(horizons, -1)


def fit_damping(
    grams: Sequence[Float[Tensor, "window tensor vector vector"]], known: Sequence[Tensor], increments: int
) -> float:
    """Return the coefficient a of `damped` with the least squared error over training windows.

    a = sum k <y_k, d> / sum k^2 |d|^2 over windows and known horizons k.

    Args:
        grams: as `window_grams` returns them, one entry per trajectory.
        known: (W, K) which targets there are, likewise.
        increments: c - 1, the vectors that come before the targets.
    """
    product, square = 0.0, 0.0
    for products, mask in zip(grams, known, strict=True):
        whole = products.sum(1)  # (W, c-1+K, c-1+K)
        steps = torch.arange(1, mask.shape[1] + 1, dtype=whole.dtype)
        product += float((steps * whole[:, 0, increments:] * mask).sum())
        square += float((steps.square() * whole[:, :1, 0] * mask).sum())
    return product / square if square > 0 else 0.0


def baselines(damping: float, length: int) -> Mapping[str, Baseline]:
    """Return all baselines by name.

    Args:
        damping: coefficient of `damped`, as `fit_damping` returns it.
        length: snapshots c that the predictor sees; the autoregression sees as many.
    """

    def ar1(history: Snapshots, layout: Layout, horizons: int) -> Forecast:
        return online_ar1(history[-length:], layout, horizons)

    return {
        "copy_last": copy_last,
        "linear": linear,
        "damped": partial(damped, coefficient=damping),
        "online_ar1": ar1,
        "lawa": lawa,
        "ema": moving_average,
    }
