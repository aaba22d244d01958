"""Projection head of the contrastive loss, so that the latents themselves can keep view-specific information."""

from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.models.mlp import Count
from wscore.config import Section
from wscore.training.model_folder import register


class ProjectionConfig(Section):
    """Sizes of a projection head.

    Args:
        latent_dim: latent dimension Z.
        projection_dim: output dimension P; 16 to 128 are reasonable.
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
        """Return the projections compared by the contrastive loss."""
        return self.layers(latent)  # (B, P)
