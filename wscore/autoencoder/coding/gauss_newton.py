"""Rows whose outer products are Gauss-Newton matrices: what the outputs of networks notice of changes of their weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.training.behaviour_loss import spread
from wscore.networks.inference import Answer


def gauss_newton_rows(
    answer: Answer,
    weights: Float[Tensor, "n weights"],
    images: Float[Tensor, "m *input"],
    *,
    temperature: float,
    generator: torch.Generator,
) -> Float[Tensor, "n m weights"]:
    """Return J^T R e of each network and image, R R^T = diag(p) - p p^T of p = softmax(logits / T), e ~ N(0, 1).

    In the mean over e and images their outer products are the Gauss-Newton matrix of KL(p || p of other weights). T is
    `temperature` times the spread of the network's logits.
    """
    with torch.no_grad():
        scale = temperature * spread(answer(weights, images[None]))  # (n,)
    count = len(images)
    copies = weights.repeat_interleave(count, 0).requires_grad_(True)  # (n m, D)
    with torch.enable_grad():
        logits = answer(copies, images.repeat(len(weights), *[1] * (images.ndim - 1))[:, None])[:, 0]
        logits = logits / scale.repeat_interleave(count)[:, None]  # (n m, C)
    shares = logits.detach().softmax(-1)
    drawn = shares.sqrt() * torch.randn(shares.shape, generator=generator)
    (rows,) = torch.autograd.grad(logits, copies, drawn - shares * drawn.sum(-1, keepdim=True))
    return torch.nan_to_num(rows).unflatten(0, (len(weights), count))
