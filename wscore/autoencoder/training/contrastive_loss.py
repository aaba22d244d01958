"""Contrastive loss of two views of the same networks."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wscore.errors import TrainingError


def nt_xent(
    first: Float[Tensor, "batch latent"], second: Float[Tensor, "batch latent"], temperature: float
) -> Float[Tensor, ""]:
    """Return the normalised temperature-scaled cross-entropy of two views of B >= 2 networks.

    With the 2B views z and j(i) the other view of the network of view i,

        loss = mean_i -log( exp(cos(z_i, z_j(i)) / temperature) / sum_{k != i} exp(cos(z_i, z_k) / temperature) )

    (Chen et al. 2020, arXiv 2002.05709, equation 1). Computed in float32 at least, also under autocast. Any batch size
    is allowed, including a smaller last batch.

    Args:
        first: row i is one view of network i.
        second: row i is another view of network i.
        temperature: positive; smaller values give more weight to the nearest negatives.

    Raises:
        TrainingError: if there are fewer than two networks.
    """
    count = len(first)
    if count < 2:
        raise TrainingError("contrastive loss has no negatives", expected="2 networks or more", got=count)
    with torch.autocast(first.device.type, enabled=False):
        views = torch.cat([first, second])  # (2B, Z)
        views = F.normalize(views.to(torch.promote_types(views.dtype, torch.float32)), dim=1)
        itself = torch.eye(2 * count, dtype=torch.bool, device=views.device)
        logits = (views @ views.T / temperature).masked_fill(itself, -torch.inf)  # (2B, 2B)
        partners = torch.arange(2 * count, device=views.device).roll(count)
        return F.cross_entropy(logits, partners)
