"""Convolutional variational autoencoder over the flattened weight vector, padded to a common length.

The vector is reshaped to a one-channel image, either directly (row by row) or after a learned linear map, which can place
related weights next to each other for the convolutions. Strided convolutions reduce it to a small image, from which mean and
log variance of the latent are computed; the decoder mirrors this. The vector is padded to a square whose side is divisible
by 2 ** levels, and the output is cropped to the original length, so that any length works.
"""

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wscore.autoencoder.models.embeddings import EmbeddingConfig, FeatureEmbedding, Positions, without_padding
from wscore.autoencoder.models.mlp import Count, pool
from wscore.config import Section
from wscore.errors import ModelError
from wscore.tokens.batch import TokenBatch

LOG_VARIANCES = (-30.0, 20.0)  # clamp range, for numerical stability of exp in float32
FIRST_LOG_VARIANCE = -6.0  # initial value: wide posteriors would swamp the means with noise
GROUPS = 8  # maximum number of groups of the normalisation


class VaeConfig(Section, tag="vae", tag_field="arch"):
    """Convolutional variational architecture.

    Args:
        weights: length L of the padded vector: number of weights of the largest network.
        max_tokens: maximum sequence length, rows of learned position embeddings.
        latent_dim: latent dimension Z.
        input: `image` reshapes the vector to an image; `linear` applies a learned matrix before and after the convolutions.
        channels: of the first convolution; each level doubles them. 4 to 64 are reasonable.
        levels: number of downsampling steps; 2 to 4 are reasonable.
        encoding: `sampled` draws latents from the posterior during training; `deterministic` always uses its mean.
        positions: kind of position embedding, which conditions the decoder on the layout.
        dropout: dropout rate of channels.
        checkpointing: activation checkpointing in training: less memory, more time.
    """

    weights: Count
    max_tokens: Count
    latent_dim: Count
    input: Literal["image", "linear"]
    channels: Count
    levels: Annotated[int, msgspec.Meta(ge=1, le=8)]
    encoding: Literal["sampled", "deterministic"]
    positions: Positions
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    checkpointing: bool

    @property
    def side(self) -> int:
        """Height and width of the image: the smallest multiple of 2 ** levels whose square holds the vector."""
        rows = math.isqrt(self.weights - 1) + 1  # the square root, rounded up
        return -(-rows // 2**self.levels) * 2**self.levels

    @property
    def top(self) -> tuple[int, int, int]:
        """Channels, height and width of the smallest image."""
        return self.channels * 2**self.levels, self.side // 2**self.levels, self.side // 2**self.levels

    @property
    def embedding(self) -> EmbeddingConfig:
        """Embedding of the features."""
        return EmbeddingConfig(dim=self.latent_dim, positions=self.positions, max_positions=self.max_tokens)


class Posterior(NamedTuple):
    """Diagonal Gaussian over the latents of a batch.

    Attributes:
        mean: its mean.
        log_variance: logarithm of its variances.
    """

    mean: Float[Tensor, "batch latent"]
    log_variance: Float[Tensor, "batch latent"]

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "batch latent"]:
        """Return one sample per network: m + exp(log v / 2) e with e from N(0, 1)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + (self.log_variance / 2).exp() * noise  # (B, Z)


class VaeEncoder(nn.Module):
    """m = W_m h, log v = W_v h, where h = flat(down(conv(image(x)))) and x is the padded weight vector."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = nn.Linear(config.weights, config.side**2) if config.input == "linear" else nn.Identity()
        widths = [config.channels * 2**level for level in range(config.levels + 1)]
        stem = nn.Conv2d(1, config.channels, 3, padding=1)
        downs = (Down(inputs, config.dropout) for inputs in widths[:-1])
        self.stages = nn.ModuleList([stem, *downs])
        self.norm = nn.Sequential(_norm(widths[-1]), nn.SiLU(), nn.Flatten())
        self.outputs = nn.Linear(math.prod(config.top), config.latent_dim)
        self.spread = nn.Linear(math.prod(config.top), config.latent_dim)
        nn.init.zeros_(self.spread.weight)
        nn.init.constant_(self.spread.bias, FIRST_LOG_VARIANCE)

    def posterior(self, batch: TokenBatch) -> Posterior:
        """Return mean and log variance of the latent of every sequence."""
        batch = without_padding(batch)
        vector = pack(batch.tokens, batch.mask, self.config.weights)  # (B, L)
        image = _image(self.inputs(vector), self.config.side)  # (B, 1, S, S)
        hidden = self.norm(
            run_stages(self.stages, image, again=self.config.checkpointing and self.training)
        )  # (B, C H W)
        return Posterior(self.outputs(hidden), self.spread(hidden).clamp(*LOG_VARIANCES))

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch latent"]:
        """Return the mean of the posterior."""
        return self.posterior(batch).mean


class VaeDecoder(nn.Module):
    """x = vector(conv(up(image(W (z + e))))), where e is the mean embedding of the valid tokens, which encodes the layout."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * 2**level for level in range(config.levels + 1)]
        self.embedding = FeatureEmbedding(config.embedding)
        self.inputs = nn.Linear(config.latent_dim, math.prod(config.top))
        self.stages = nn.ModuleList(Up(outputs, config.dropout) for outputs in reversed(widths[:-1]))
        self.norm = nn.Sequential(_norm(config.channels), nn.SiLU())
        linear = config.input == "linear"
        self.image = nn.Conv2d(config.channels, 1, 3, padding=1) if linear else nn.Identity()
        self.outputs = (
            nn.Linear(config.side**2, config.weights) if linear else nn.Conv2d(config.channels, 1, 3, padding=1)
        )

    def forward(self, latent: Float[Tensor, "batch latent"], batch: TokenBatch) -> Float[Tensor, "batch token dim"]:
        """Return tokens from latents; only mask and features of the batch are used. Padding is zero."""
        batch = without_padding(batch)
        places = pool(self.embedding(batch.features), batch.token_mask, "mean")  # (B, Z)
        image = self.inputs(latent + places).unflatten(1, self.config.top)  # (B, C, H, W)
        image = self.norm(run_stages(self.stages, image, again=self.config.checkpointing and self.training))
        if self.config.input == "linear":
            vector = self.outputs(self.image(image).flatten(1))  # (B, L)
        else:
            vector = self.outputs(image).flatten(1)[:, : self.config.weights]  # (B, L)
        return unpack(vector, batch.mask)  # (B, T, D)


class Residual(nn.Module):
    """x + conv(dropout(silu(norm(conv(silu(norm(x)))))))."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            _norm(channels), nn.SiLU(), nn.Dropout2d(dropout), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        """Return images of the same shape."""
        return x + self.layers(x)  # (B, C, H, W)


class Down(nn.Sequential):
    """A residual block, then a convolution that halves the image and doubles its channels."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__(Residual(channels, dropout), nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1))


class Up(nn.Sequential):
    """Upsampling by 2, a convolution that halves the channels to `channels`, then a residual block."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2), nn.Conv2d(2 * channels, channels, 3, padding=1), Residual(channels, dropout)
        )


def run_stages(
    stages: nn.ModuleList, image: Float[Tensor, "batch channel height width"], *, again: bool
) -> Float[Tensor, "batch channel2 height2 width2"]:
    """Apply all stages to an image; `again` enables activation checkpointing per stage."""
    for stage in stages:
        image = checkpoint(stage, image, use_reentrant=False) if again else stage(image)
    return image


def pack(
    tokens: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token dim"], length: int
) -> Float[Tensor, "batch length"]:
    """Concatenate the valid entries of every sequence, zero-padded to `length`.

    Raises:
        ModelError: if a sequence has more weights than `length`.
    """
    vector = tokens.new_zeros(len(tokens), length)  # (B, L)
    return vector.masked_scatter(_occupied(mask, length), tokens[mask])


def unpack(
    vector: Float[Tensor, "batch length"], mask: Bool[Tensor, "batch token dim"]
) -> Float[Tensor, "batch token dim"]:
    """Return tokens from vectors: the inverse of `pack`; padding is zero.

    Raises:
        ModelError: if a sequence has more weights than the vector.
    """
    tokens = vector.new_zeros(mask.shape)  # (B, T, D)
    return tokens.masked_scatter(mask, vector[_occupied(mask, vector.shape[1])])


def _occupied(mask: Tensor, length: int) -> Tensor:
    counts = mask.flatten(1).sum(1)  # (B,)
    if int(counts.max()) > length:
        fix = "train the autoencoder on a cache with networks this large, or cut them into windows (tokens.max_tokens)"
        raise ModelError(
            "networks are larger than the VAE's vector",
            expected=f"at most {length} weights",
            got=int(counts.max()),
            fix=fix,
        )
    return torch.arange(length, device=mask.device) < counts[:, None]  # (B, L)


def _image(vector: Tensor, side: int) -> Tensor:
    padded = nn.functional.pad(vector, (0, side * side - vector.shape[1]))  # (B, S S)
    return padded.unflatten(1, (1, side, side))  # (B, 1, S, S)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
