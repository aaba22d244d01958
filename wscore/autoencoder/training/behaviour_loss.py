"""Divergence between outputs of a reconstructed network and its original, from the logits of both on the same images.

There is one loss per network, invariant to the scale of its logits: logits are centred over the classes, which leaves the
softmax unchanged, and divided by the `spread` of the original. A barely trained network has nearly uniform outputs and small
logits; without the division its loss would vanish. Everything is computed in float32 at least, and a loss beyond `CEILING`
has no gradient, so that one broken network cannot dominate a batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CEILING = 20.0
SMALLEST = 1e-6  # lower bound of the spread, for networks with constant outputs


def spread(logits: Float[Tensor, "networks images classes"]) -> Float[Tensor, " networks"]:
    """Return the standard deviation over images and classes of c - mean over images of c, with c = l - mean over classes of l."""
    centred = _centred(logits)
    return (centred - centred.mean(1, keepdim=True)).square().mean((1, 2)).sqrt().clamp_min(SMALLEST)


def behaviour_kl(
    original: Float[Tensor, "networks images classes"],
    rebuilt: Float[Tensor, "networks images classes"],
    temperature: float,
) -> Float[Tensor, " networks"]:
    """Return the mean over images of KL(softmax(l / T) || softmax(l^ / T)) in nats, with T = temperature x spread(l).

    Args:
        original: logits l, detached.
        rebuilt: logits l^.
        temperature: in units of the original's spread; 0.5 emphasises the predicted class, 2 all logits.
    """
    scale = (temperature * spread(original.detach()))[:, None, None]
    target = F.log_softmax(_centred(original.detach()) / scale, dim=-1)
    predicted = F.log_softmax(_centred(rebuilt) / scale, dim=-1)
    return _bounded((target.exp() * (target - predicted)).sum(-1).mean(1))


def agreement(
    original: Float[Tensor, "networks images classes"], rebuilt: Float[Tensor, "networks images classes"]
) -> Float[Tensor, " networks"]:
    """Return the share of images with the same predicted class; images with non-finite logits count as disagreement."""
    finite = original.isfinite().all(-1) & rebuilt.isfinite().all(-1)
    return ((original.argmax(-1) == rebuilt.argmax(-1)) & finite).float().mean(1)


def _centred(logits: Tensor) -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise - precise.mean(-1, keepdim=True)


def _bounded(losses: Tensor) -> Tensor:
    """Return losses of at most `CEILING`; losses beyond it or non-finite ones have no gradient."""
    return torch.where(losses <= CEILING, losses, losses.new_tensor(CEILING))
