"""Losses of property heads: means over the networks whose target is known, so that missing targets have no effect.

Entries where `known` is false (NaN included) affect neither the loss nor its gradient. A batch without known targets
has loss 0.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def binary_loss(
    logits: Float[Tensor, " batch"],
    target: Float[Tensor, " batch"],
    known: Bool[Tensor, " batch"],
    *,
    positive_weight: float,
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy -(w y log p + (1 - y) log(1 - p)) with p = sigmoid(logits).

    Args:
        logits: one per network.
        target: 0 or 1 where known.
        known: mask of the known targets.
        positive_weight: weight w of the ones; (zeros / ones) of the training split balances the two.
    """
    weight = torch.tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    clean = torch.where(known, target, torch.zeros_like(target))
    return known_mean(F.binary_cross_entropy_with_logits(logits, clean, pos_weight=weight, reduction="none"), known)


def regression_loss(
    prediction: Float[Tensor, " batch"], target: Float[Tensor, " batch"], known: Bool[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Return the mean squared error in the units of the target."""
    clean = torch.where(known, target, prediction.detach())
    return known_mean(F.mse_loss(prediction, clean, reduction="none"), known)


def class_loss(
    logits: Float[Tensor, "batch classes"],
    target: Float[Tensor, " batch"],
    known: Bool[Tensor, " batch"],
    *,
    class_weights: Float[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """Return the cross-entropy -w_y log softmax(logits)_y.

    Args:
        logits: one per network and class.
        target: index of the true class (as a float) where known.
        known: mask of the known targets.
        class_weights: w; mean 1 over the training networks keeps the scale of the loss.
    """
    number = torch.where(known, target, torch.zeros_like(target)).long()
    each = F.cross_entropy(logits, number, reduction="none") * class_weights[number]
    return known_mean(each, known)


def known_mean(each: Float[Tensor, " batch"], known: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the mean over the known entries, 0 if there are none."""
    return torch.where(known, each, torch.zeros_like(each)).sum() / known.sum().clamp(min=1)
