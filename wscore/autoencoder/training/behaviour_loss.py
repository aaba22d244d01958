"""How far a rebuilt network answers from its original, from the logits of both on the same images.

Losses are one number per network, so that every network counts the same whatever its scale: logits are taken about their
mean over the classes, which no softmax sees, and divided by the original's own `spread`. A network that was hardly trained
and answers nearly uniformly has small logits but answers all the same; without the division it would weigh nothing.
Everything is in float32 at least, and a loss beyond `CEILING` has no gradient, so that one broken network can't rule a batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CEILING = 20.0
SMALLEST = 1e-6  # spread of a network that answers every image alike


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
        original: logits l, from which no gradient is taken.
        rebuilt: logits l^.
        temperature: in spreads of the original; 0.5 stresses which class wins, 2 the logits of all.
    """
    scale = (temperature * spread(original.detach()))[:, None, None]
    target = F.log_softmax(_centred(original.detach()) / scale, dim=-1)
    found = F.log_softmax(_centred(rebuilt) / scale, dim=-1)
    return _bounded((target.exp() * (target - found)).sum(-1).mean(1))


def agreement(
    original: Float[Tensor, "networks images classes"], rebuilt: Float[Tensor, "networks images classes"]
) -> Float[Tensor, " networks"]:
    """Return the share of images to which both give the same class; an image with logits that are not finite counts as none."""
    finite = original.isfinite().all(-1) & rebuilt.isfinite().all(-1)
    return ((original.argmax(-1) == rebuilt.argmax(-1)) & finite).float().mean(1)


def _centred(logits: Tensor) -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise - precise.mean(-1, keepdim=True)


def _bounded(losses: Tensor) -> Tensor:
    """Return losses of at most `CEILING`; what is beyond it or not finite has no gradient."""
    return torch.where(losses <= CEILING, losses, losses.new_tensor(CEILING))
