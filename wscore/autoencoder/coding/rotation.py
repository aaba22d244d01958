"""Orthonormal rotation of an axis of exchangeable units into their mean and their deviations (Helmert)."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotate(tensor: Float[Tensor, "*shape"], axis: int) -> Float[Tensor, "*shape"]:
    """Return y_0 = sqrt(U) mean(x) and y_k = sqrt(k / (k + 1)) (x_k - mean(x_0 .. x_(k-1))) along an axis of U units."""
    x = tensor.movedim(axis, 0)
    units = len(x)
    if units == 1:
        return tensor
    sums = x.cumsum(0)
    count = _counts(x)
    deviations = (x[1:] - sums[:-1] / count) * (count / (count + 1)).sqrt()
    return torch.cat([sums[-1:] / units**0.5, deviations]).movedim(0, axis)


def unrotate(tensor: Float[Tensor, "*shape"], axis: int) -> Float[Tensor, "*shape"]:
    """Return x of y = `rotate(x)`."""
    y = tensor.movedim(axis, 0)
    units = len(y)
    if units == 1:
        return tensor
    count = _counts(y)
    deviations = y[1:] * ((count + 1) / count).sqrt()  # x_k - mean of those before
    shares = deviations / (count + 1)
    means = y[:1] / units**0.5 - shares.flip(0).cumsum(0).flip(0)  # of x_0 .. x_(k-1)
    return torch.cat([means[:1], means + deviations]).movedim(0, axis)


def _counts(x: Tensor) -> Tensor:
    return torch.arange(1, len(x), dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 1))
