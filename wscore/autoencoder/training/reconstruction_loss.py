"""Reconstruction losses of tokens, over valid entries only.

A loss is first a mean over the valid entries of each network, then a mean over the networks of the batch. So every
network has equal weight regardless of its size, and the mean over a data set does not depend on the batching. (A single
mean over all valid entries of a batch would be dominated by the largest architecture.) Padding, even NaN, affects neither
a loss nor its gradient; a network that is entirely padding does not count. Sums are in float32 at least.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wscore.errors import ConfigError

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def network_mse(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
) -> Float[Tensor, " batch"]:
    """Return sum_i m_i (p_i - t_i)^2 / sum_i m_i of each network; 0 where nothing is valid.

    >>> target, mask = torch.zeros(1, 1, 2), torch.tensor([[[True, False]]])
    >>> network_mse(torch.tensor([[[3.0, 99.0]]]), target, mask)  # padding is ignored
    tensor([9.])
    """
    return _mean(_difference(prediction, target, mask).square(), mask)


def network_mae(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
) -> Float[Tensor, " batch"]:
    """Return sum_i m_i |p_i - t_i| / sum_i m_i of each network; 0 where nothing is valid."""
    return _mean(_difference(prediction, target, mask).abs(), mask)


def network_cosine(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
) -> Float[Tensor, " batch"]:
    """Return 1 - <p, t> / (|p| |t|) over the valid entries of each network, in [0, 2]; 1 where p or t is zero."""
    flat = (_valid(part, mask).flatten(1) for part in (prediction, target))  # (B, T * dim)
    return 1 - F.cosine_similarity(*flat, dim=1)


def masked_mse(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
) -> Float[Tensor, ""]:
    """Return the mean of `network_mse` over the networks."""
    return _over_networks(network_mse(prediction, target, mask), mask)


def masked_mae(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
) -> Float[Tensor, ""]:
    """Return the mean of `network_mae` over the networks."""
    return _over_networks(network_mae(prediction, target, mask), mask)


def masked_cosine(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
) -> Float[Tensor, ""]:
    """Return the mean of `network_cosine` over the networks."""
    return _over_networks(network_cosine(prediction, target, mask), mask)


RECONSTRUCTION: dict[str, Loss] = {"mse": masked_mse, "mae": masked_mae, "cosine": masked_cosine}


def combined(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
    *,
    weights: Mapping[str, float],
) -> Float[Tensor, ""]:
    """Return sum_k w_k loss_k over the losses in `weights`; those with weight 0 are not computed.

    Raises:
        ConfigError: if a name is unknown, or no weight is positive.
    """
    used = {name: weight for name, weight in weights.items() if weight != 0}
    unknown = sorted(set(weights) - set(RECONSTRUCTION))
    if unknown or not used or min(used.values()) < 0:
        raise ConfigError(
            "cannot combine losses",
            where="loss_weights",
            expected=f"a weight of at least 0 for some of {', '.join(RECONSTRUCTION)}, one of them positive",
            got=dict(weights),
        )
    terms = [weight * RECONSTRUCTION[name](prediction, target, mask) for name, weight in used.items()]
    return torch.stack(terms).sum()


def reconstruction_loss(name: str, weights: Mapping[str, float]) -> Loss:
    """Return the loss of this name as a function of (prediction, target, mask); `weights` are used by `combined`.

    Raises:
        ConfigError: if the name is unknown.
    """
    if name == "combined":
        return partial(combined, weights=weights)
    if name not in RECONSTRUCTION:
        known = ", ".join([*RECONSTRUCTION, "combined"])
        raise ConfigError("unknown reconstruction loss", where="loss", expected=known, got=name)
    return RECONSTRUCTION[name]


def _valid(values: Tensor, mask: Tensor) -> Tensor:
    """Set padding to zero, in float32 at least."""
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(mask, precise, precise.new_zeros(()))


def _difference(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return _valid(prediction, mask) - _valid(target, mask)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the valid entries of each network, (B,), of values that are zero in padding."""
    return values.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def _over_networks(losses: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (B,) losses over the networks that have a valid entry."""
    present = mask.flatten(1).any(1)
    return torch.where(present, losses, losses.new_zeros(())).sum() / present.sum().clamp(min=1)
