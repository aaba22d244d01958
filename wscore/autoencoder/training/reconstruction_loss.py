"""How far rebuilt tokens are from the true ones, over valid entries only.

A loss is first a mean over the valid entries of each network, then a mean over the networks of the batch. So every
network counts the same however many weights it has, and the mean over a data set does not depend on how it was batched.
(One mean over all valid entries of a batch would let the largest architecture decide.) Whatever stands in padding, NaN
included, reaches neither a loss nor its gradient; a network of nothing but padding does not count. Sums are in float32
at least.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wscore.errors import ConfigError

OVER = ("batch", "entry")  # what a normalisation in the loss takes its statistics over
FLOOR = 0.01  # share of the variance of the batch that is added to that of an entry

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def network_mse(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
) -> Float[Tensor, " batch"]:
    """Return sum_i m_i (p_i - t_i)^2 / sum_i m_i of each network; 0 where nothing is valid.

    >>> target, mask = torch.zeros(1, 1, 2), torch.tensor([[[True, False]]])
    >>> network_mse(torch.tensor([[[3.0, 99.0]]]), target, mask)  # padding never counts
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


def batch_normalized(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
    *,
    over: str,
) -> tuple[Float[Tensor, "batch token dim"], Float[Tensor, "batch token dim"]]:
    """Return (p - m) / s and (t - m) / s, with mean m and deviation s of the valid entries of the batch's targets.

    With v the variance (divided by the count) of all valid entries of the batch,

        over "batch"    one m and s^2 = v for all entries
        over "entry"    m_i and s_i^2 = v_i + FLOOR v of each place i in the token matrix, over the networks that have a
                        weight there

    so that errors at places where networks hardly differ count as much as elsewhere. Padding has no say and comes back as
    zero; no gradient is taken of m and s.

    Raises:
        ConfigError: if `over` is unknown.
    """
    if over not in OVER:
        raise ConfigError("unknown normalisation", where="ae.loss_normalization", expected=", ".join(OVER), got=over)
    true = _valid(target.detach(), mask)
    m = true.sum() / mask.sum().clamp(min=1)
    scale = _deviation(true, m, mask).sum() / mask.sum().clamp(min=1)
    if over == "entry":
        counts = mask.sum(0).clamp(min=1)  # (T, dim)
        m = true.sum(0) / counts
        scale = _deviation(true, m, mask).sum(0) / counts + FLOOR * scale
    s = torch.where(scale > 0, scale, 1.0).sqrt()  # networks that are all alike stay as they are
    first, second = (torch.where(mask, (_valid(part, mask) - m) / s, 0.0) for part in (prediction, target))
    return first, second


RECONSTRUCTION: dict[str, Loss] = {"mse": masked_mse, "mae": masked_mae, "cosine": masked_cosine}


def combined(
    prediction: Float[Tensor, "batch token dim"],
    target: Float[Tensor, "batch token dim"],
    mask: Bool[Tensor, "batch token dim"],
    *,
    weights: Mapping[str, float],
) -> Float[Tensor, ""]:
    """Return sum_k w_k loss_k over the losses named in `weights`; those of weight 0 are not computed.

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


def reconstruction_loss(name: str, weights: Mapping[str, float], normalization: str = "none") -> Loss:
    """Return the loss of this name as a function of (prediction, target, mask); `weights` belong to `combined`.

    Args:
        name: of the loss.
        weights: of the parts of `combined`.
        normalization: `none`, or what the statistics are taken over by which both sides are normalised first, see
            `batch_normalized`.

    Raises:
        ConfigError: if a name is unknown.
    """
    if normalization != "none":
        plain = reconstruction_loss(name, weights)
        return lambda p, t, mask: plain(*batch_normalized(p, t, mask, over=normalization), mask)
    if name == "combined":
        return partial(combined, weights=weights)
    if name not in RECONSTRUCTION:
        known = ", ".join([*RECONSTRUCTION, "combined"])
        raise ConfigError("unknown reconstruction loss", where="loss", expected=known, got=name)
    return RECONSTRUCTION[name]


def _valid(values: Tensor, mask: Tensor) -> Tensor:
    """Return values with zeros in padding, in float32 at least."""
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(mask, precise, precise.new_zeros(()))


def _deviation(values: Tensor, mean: Tensor, mask: Tensor) -> Tensor:
    """Return squared distances from the mean, zero in padding."""
    return torch.where(mask, (values - mean).square(), 0.0)


def _difference(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return _valid(prediction, mask) - _valid(target, mask)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the valid entries of each network, (B,), of values that are zero in padding."""
    return values.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def _over_networks(losses: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (B,) losses over the networks that have a valid entry."""
    present = mask.flatten(1).any(1)
    return torch.where(present, losses, losses.new_zeros(())).sum() / present.sum().clamp(min=1)
