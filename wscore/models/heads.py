"""A property head: a small MLP that reads named properties off the latent of a network."""

from itertools import pairwise
from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.models.folder import register

Positive = Annotated[int, msgspec.Meta(gt=0)]


class HeadConfig(Section):
    """Shape of a head.

    Args:
        latent_dim: numbers per latent.
        hidden_dim: units of each hidden layer.
        layers: hidden layers; 0 makes it a linear probe.
        dropout: share of the hidden units left out in training.
        outputs: numbers predicted for each property, by name: 1 for a logit or a scalar, one per class otherwise.
    """

    latent_dim: Positive
    hidden_dim: Positive
    layers: Annotated[int, msgspec.Meta(ge=0)]
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    outputs: Annotated[dict[str, Positive], msgspec.Meta(min_length=1)]


@register
class Head(nn.Module):
    """outputs = W h_L + c with h_0 = (latent - mean) / std and h_l = dropout(gelu(W_l h_(l-1) + b_l)), cut by property.

    `mean` and `std` are buffers: they are saved with the weights and set from the training latents by `standardise`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.latent_dim))
        self.register_buffer("std", torch.ones(config.latent_dim))
        widths = [config.latent_dim, *[config.hidden_dim] * config.layers]
        hidden: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            hidden += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*hidden)
        self.out = nn.Linear(widths[-1], sum(config.outputs.values()))

    @torch.no_grad()
    def standardise(self, latents: Float[Tensor, "networks latent"]) -> None:
        """Take mean and standard deviation from training latents; a dimension that never varies is only centred."""
        std, mean = torch.std_mean(latents, dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std)))

    def forward(self, latents: Float[Tensor, "batch latent"]) -> dict[str, Float[Tensor, "batch _"]]:
        """Return the raw outputs (batch, width) of each property: logits, or numbers in the scaled space."""
        outputs = self.out(self.body((latents - self.mean) / self.std))  # (B, sum of widths)
        return dict(zip(self.config.outputs, outputs.split(list(self.config.outputs.values()), dim=1), strict=True))
