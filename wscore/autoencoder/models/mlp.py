"""Fully connected encoder and decoder of tokenized networks.

With `pooling: flatten` all tokens are concatenated at input and output, so that any weight can depend on any other. With
`mean` and `max` a small network shared by all tokens is followed by pooling; such a model takes sequences of any length.
"""

from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wscore.autoencoder.models.embeddings import EmbeddingConfig, FeatureEmbedding, Positions, without_padding
from wscore.config import Section
from wscore.errors import ModelError
from wscore.tokens.batch import TokenBatch

Pooling = Literal["mean", "max", "flatten"]
Count = Annotated[int, msgspec.Meta(ge=1)]


class MlpConfig(Section, tag="mlp", tag_field="arch"):
    """Fully connected architecture.

    Args:
        token_dim: token dimension D.
        max_tokens: maximum sequence length T.
        latent_dim: latent dimension Z.
        hidden_dim: width H of the hidden layers; 64 to 2,048 are reasonable.
        layers: residual blocks on each side.
        pooling: aggregation of tokens into one vector.
        positions: kind of position embedding.
        dropout: dropout rate of the hidden units.
    """

    token_dim: Count
    max_tokens: Count
    latent_dim: Count
    hidden_dim: Count
    layers: Annotated[int, msgspec.Meta(ge=0)]
    pooling: Pooling
    positions: Positions
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)]

    @property
    def embedding(self) -> EmbeddingConfig:
        """Embedding of the features, of width H."""
        return EmbeddingConfig(dim=self.hidden_dim, positions=self.positions, max_positions=self.max_tokens)


class MlpEncoder(nn.Module):
    """z = W_z LN(blocks(h)), where h is the pooled embedding of the tokens.

    flatten: h = W vec(tokens) + mean over valid tokens of e(token);
    mean, max: h = pool over valid tokens of W_2 gelu(W token + e(token)).
    """

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        flat = config.pooling == "flatten"
        self.inputs = nn.Linear(config.token_dim * (config.max_tokens if flat else 1), config.hidden_dim)
        self.embedding = FeatureEmbedding(config.embedding)
        self.mix = nn.Identity() if flat else nn.Sequential(nn.GELU(), nn.Linear(config.hidden_dim, config.hidden_dim))
        self.blocks = nn.Sequential(*(MlpBlock(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.outputs = nn.Linear(config.hidden_dim, config.latent_dim)

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch latent"]:
        """Return one latent per sequence."""
        batch = without_padding(batch)
        places = self.embedding(batch.features)  # (B, T, H)
        if self.config.pooling == "flatten":
            hidden = self.inputs(pad_tokens(batch.tokens, self.config.max_tokens).flatten(1))  # (B, H)
            hidden = hidden + pool(places, batch.token_mask, "mean")  # (B, H)
        else:
            hidden = pool(self.mix(self.inputs(batch.tokens) + places), batch.token_mask, self.config.pooling)  # (B, H)
        return self.outputs(self.norm(self.blocks(hidden)))  # (B, Z)


class MlpDecoder(nn.Module):
    """Mirror of the encoder: h = blocks(W z + mean over valid tokens of e(token)).

    flatten: tokens = unvec(W_t LN(h)); mean, max: token = W_2 gelu(LN(h) + e(token)).
    """

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        flat = config.pooling == "flatten"
        self.inputs = nn.Linear(config.latent_dim, config.hidden_dim)
        self.embedding = FeatureEmbedding(config.embedding)
        self.blocks = nn.Sequential(*(MlpBlock(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.mix = nn.Identity() if flat else nn.Sequential(nn.Linear(config.hidden_dim, config.hidden_dim), nn.GELU())
        self.outputs = nn.Linear(config.hidden_dim, config.token_dim * (config.max_tokens if flat else 1))

    def forward(self, latent: Float[Tensor, "batch latent"], batch: TokenBatch) -> Float[Tensor, "batch token dim"]:
        """Return tokens from latents; only mask and features of the batch are used. Padding is zero."""
        batch = without_padding(batch)
        places = self.embedding(batch.features)  # (B, T, H)
        hidden = self.inputs(latent) + pool(places, batch.token_mask, "mean")  # (B, H)
        hidden = self.norm(self.blocks(hidden))  # (B, H)
        if self.config.pooling == "flatten":
            check_length(batch.mask.shape[1], self.config.max_tokens)
            tokens = self.outputs(hidden).unflatten(1, (self.config.max_tokens, -1))[
                :, : batch.mask.shape[1]
            ]  # (B, T, D)
        else:
            tokens = self.outputs(self.mix(hidden[:, None] + places))  # (B, T, D)
        return torch.where(batch.mask, tokens, 0.0)  # (B, T, D)


class MlpBlock(nn.Module):
    """x + W_2 dropout(gelu(W_1 LN(x)))."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, width)
        )

    def forward(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
        """Return vectors of the same shape."""
        return x + self.layers(x)  # (B, H)


def pool(
    tokens: Float[Tensor, "batch token hidden"], token_mask: Bool[Tensor, "batch token"], how: Pooling
) -> Float[Tensor, "batch hidden"]:
    """Return the mean or maximum over the valid tokens; zeros for a sequence without any."""
    valid = token_mask[..., None]  # (B, T, 1)
    if how == "max":
        highest = torch.where(valid, tokens, -torch.inf).amax(dim=1)  # (B, H)
        return torch.where(valid.any(dim=1), highest, 0.0)  # (B, H)
    return torch.where(valid, tokens, 0.0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)  # (B, H)


def pad_tokens(tokens: Float[Tensor, "batch token dim"], length: int) -> Float[Tensor, "batch length dim"]:
    """Zero-pad sequences along the token axis.

    Raises:
        ModelError: if they are longer than `length`.
    """
    check_length(tokens.shape[1], length)
    return nn.functional.pad(tokens, (0, 0, 0, length - tokens.shape[1]))  # (B, length, D)


def check_length(tokens: int, most: int) -> None:
    """Raise ModelError if a sequence is longer than the model was built for."""
    if tokens > most:
        fix = "train the autoencoder on a cache with sequences of this length, or set ae.pooling=mean"
        raise ModelError(
            "sequences are longer than the model supports", expected=f"at most {most} tokens", got=tokens, fix=fix
        )
