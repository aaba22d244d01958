"""Output sensitivity: the mean Gauss-Newton curvature of network outputs in the weights, per layout.

The Gauss-Newton matrix F of KL(outputs || outputs at weights perturbed by d), which is d^T F d / 2 for small d, is averaged
over training networks and training images. Basis and rounding weighted by it move errors to insensitive directions of the
layout. It is a property of the layout: no network is run for its own encoding.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.decode_weights import NetworkGroup
from wscore.autoencoder.training.behaviour_loss import spread
from wscore.networks.datasets import Tasks, as_tasks
from wscore.networks.images import Images
from wscore.tokens.cache import TokenCache

NETWORKS = 128  # maximum number per layout, evenly spaced among its training networks
LARGEST = 4096  # maximum number of weights of a layout with a stored matrix
TOGETHER = 512  # networks x images run at once

#: F (D, D) of layouts by their identity, in normalised units.
Sensitivities = Mapping[str, Float[Tensor, "weights weights"]]


def output_sensitivities(
    cache: TokenCache, groups: Sequence[NetworkGroup], images: Images | Tasks, *, count: int, temperature: float,
    seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the mean curvature of each layout with at most `LARGEST` weights.

    The curvature in the logits, diag(p) - p p^T at a temperature in units of the spread of the network's logits, is sampled: one
    direction R e with R R^T = diag(p) - p p^T and e ~ N(0, 1) per image, which is unbiased.

    Args:
        cache: of the networks' tokens.
        groups: training networks that differ only in their weights.
        images: of the networks' data sets; only training images are used.
        count: images per network.
        temperature: of the divergence.
        seed: for images and directions.
    """
    generator, tasks = torch.Generator().manual_seed(seed), as_tasks(images)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for identity in sorted({group.layout.identity for group in groups}):
        mine = [group for group in groups if group.layout.identity == identity]
        share = min(1.0, NETWORKS / sum(len(group.rows) for group in mine))
        if mine[0].layout.size > LARGEST:
            continue
        for group in mine:
            chosen = torch.linspace(0, len(group.rows) - 1, max(1, round(share * len(group.rows)))).long().unique()
            for part in chosen.split(max(1, TOGETHER // count)):
                rows = _gradients(
                    cache,
                    group,
                    group.items[part.numpy()],
                    _draw(tasks, group, count, generator),
                    temperature,
                    generator,
                )
                sums[identity] = sums.get(identity, torch.zeros(())) + rows.mT.double() @ rows.double() / count
            counts[identity] = counts.get(identity, 0) + len(chosen)
    return {identity: total / counts[identity] for identity, total in sums.items()}


def _draw(tasks: Tasks, group: NetworkGroup, count: int, generator: torch.Generator) -> Tensor:
    found = tasks.of(group.task)
    assert found is not None, "networks that can be run have images"
    images = found.x_train
    return images[torch.randint(len(images), (count,), generator=generator)]


def _gradients(
    cache: TokenCache,
    group: NetworkGroup,
    items: np.ndarray,
    images: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Return J^T R e (n I, D) of some networks on images, in normalised weights."""
    layout, count = group.layout, len(images)
    with torch.no_grad():
        weights = group.weights(cache.batch(items.reshape(-1)).tokens)  # (n, D)
        scale = temperature * spread(group.answer(weights, images[None]))  # (n,)
    copies = weights.repeat_interleave(count, 0).requires_grad_(True)  # (n I, D)
    with torch.enable_grad():
        logits = group.answer(copies, images.repeat(len(weights), *[1] * (images.ndim - 1))[:, None])[:, 0]
        logits = logits / scale.repeat_interleave(count)[:, None]  # (n I, C)
    shares = logits.detach().softmax(-1)
    drawn = shares.sqrt() * torch.randn(shares.shape, generator=generator)
    (rows,) = torch.autograd.grad(logits, copies, drawn - shares * drawn.sum(-1, keepdim=True))
    unit = cache.normalizer.restore(layout, torch.ones(layout.size)) - cache.normalizer.restore(
        layout, torch.zeros(layout.size)
    )
    return torch.nan_to_num(rows) * unit
