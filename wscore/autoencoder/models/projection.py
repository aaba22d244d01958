"""Projection head of the contrastive loss: latents are compared after it, so that they need not lose what views don't share."""

from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.models.mlp import Count
from wscore.config import Section
from wscore.training.model_folder import register


class ProjectionConfig(Section):
    """Sizes of a projection head.

    Args:
        latent_dim: numbers per latent Z.
        projection_dim: numbers P that are compared; 16 to 128 are reasonable.
    """

    latent_dim: Count
    projection_dim: Count


@register
class ProjectionHead(nn.Module):
    """p = W_2 relu(W_1 z), as in SimCLR (arXiv 2002.05709)."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Linear(config.latent_dim, config.latent_dim),
            nn.ReLU(),
            nn.Linear(config.latent_dim, config.projection_dim),
        )

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch projection"]:
        """Return what the contrastive loss compares."""
        return self.layers(latent)  # (B, P)
