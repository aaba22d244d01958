"""Pre-norm transformer over the tokens of a network: self-attention encoder, decoder with cross-attention to the latent."""

from typing import Annotated

import msgspec
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wscore.autoencoder.models.embeddings import EmbeddingConfig, FeatureEmbedding, Positions, without_padding
from wscore.autoencoder.models.mlp import Count, Pooling, pad_tokens, pool
from wscore.config import Section
from wscore.tokens.batch import TokenBatch


class TransformerConfig(Section, tag="transformer", tag_field="arch"):
    """Transformer architecture.

    Args:
        token_dim: token dimension D.
        max_tokens: maximum sequence length T (used by `flatten` and by learned positions).
        latent_dim: latent dimension Z.
        model_dim: hidden size H of the tokens; 64 to 512 are reasonable, a multiple of `heads`.
        layers: blocks on each side.
        heads: attention heads.
        memory: number M of memory slots computed from the latent, attended to by the decoder.
        pooling: aggregation of tokens into one vector.
        positions: kind of position embedding.
        dropout: dropout rate.
    """

    token_dim: Count
    max_tokens: Count
    latent_dim: Count
    model_dim: Count
    layers: Annotated[int, msgspec.Meta(ge=0)]
    heads: Count
    memory: Count
    pooling: Pooling
    positions: Positions
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)]

    def __post_init__(self) -> None:
        """Reject a width that is not divisible by the heads."""
        if self.model_dim % self.heads:
            raise ValueError(f"model_dim {self.model_dim} is not a multiple of heads {self.heads}")

    @property
    def embedding(self) -> EmbeddingConfig:
        """Embedding of the features, of width H."""
        return EmbeddingConfig(dim=self.model_dim, positions=self.positions, max_positions=self.max_tokens)


class TransformerEncoder(nn.Module):
    """x = W token + e(token); x = blocks(x) with attention to valid tokens only; z = W_z pool(LN(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = nn.Linear(config.token_dim, config.model_dim)
        self.embedding = FeatureEmbedding(config.embedding)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.model_dim)
        width = config.model_dim * (config.max_tokens if config.pooling == "flatten" else 1)
        self.outputs = nn.Linear(width, config.latent_dim)

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch latent"]:
        """Return one latent per sequence."""
        batch = without_padding(batch)
        valid = batch.token_mask  # (B, T)
        tokens = self.inputs(batch.tokens) + self.embedding(batch.features)  # (B, T, H)
        for block in self.blocks:
            tokens = block(tokens, valid)  # (B, T, H)
        tokens = torch.where(valid[..., None], self.norm(tokens), 0.0)  # (B, T, H)
        if self.config.pooling == "flatten":
            return self.outputs(pad_tokens(tokens, self.config.max_tokens).flatten(1))  # (B, Z)
        return self.outputs(pool(tokens, valid, self.config.pooling))  # (B, Z)


class TransformerDecoder(nn.Module):
    """memory = reshape(W z) to (M, H); x = e(token); blocks with self- and cross-attention to memory; token = W_t LN(x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.memory = nn.Linear(config.latent_dim, config.memory * config.model_dim)
        self.memory_norm = nn.LayerNorm(config.model_dim)
        self.embedding = FeatureEmbedding(config.embedding)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(max(1, config.layers)))
        self.norm = nn.LayerNorm(config.model_dim)
        self.outputs = nn.Linear(config.model_dim, config.token_dim)

    def forward(self, latent: Float[Tensor, "batch latent"], batch: TokenBatch) -> Float[Tensor, "batch token dim"]:
        """Return tokens from latents; only mask and features of the batch are used. Padding is zero."""
        batch = without_padding(batch)
        memory = self.memory_norm(self.memory(latent).reshape(len(latent), self.config.memory, -1))  # (B, M, H)
        tokens = self.embedding(batch.features)  # (B, T, H)
        for block in self.blocks:
            tokens = block(tokens, memory, batch.token_mask)  # (B, T, H)
        return torch.where(batch.mask, self.outputs(self.norm(tokens)), 0.0)  # (B, T, D)


class EncoderBlock(nn.Module):
    """x = x + attention(LN(x)); x = x + mlp(LN(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.model_dim)
        self.attention = Attention(config)
        self.mlp = feed_forward(config)

    def forward(
        self, tokens: Float[Tensor, "batch token hidden"], valid: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token hidden"]:
        """Return tokens of the same shape."""
        x = self.attention_norm(tokens)  # (B, T, H)
        tokens = tokens + self.attention(x, x, valid)  # (B, T, H)
        return tokens + self.mlp(tokens)  # (B, T, H)


class DecoderBlock(nn.Module):
    """x = x + self-attention(LN(x)); x = x + cross-attention(LN(x), memory); x = x + mlp(LN(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.block = EncoderBlock(config)
        self.cross_norm = nn.LayerNorm(config.model_dim)
        self.cross = Attention(config)

    def forward(
        self,
        tokens: Float[Tensor, "batch token hidden"],
        memory: Float[Tensor, "batch slot hidden"],
        valid: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "batch token hidden"]:
        """Return tokens of the same shape."""
        tokens = tokens + self.cross(self.cross_norm(tokens), memory, None)  # (B, T, H)
        return self.block(tokens, valid)  # (B, T, H)


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(H / heads)) V over the valid keys, heads concatenated."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.model_dim, config.model_dim)
        self.key_value = nn.Linear(config.model_dim, 2 * config.model_dim)
        self.outputs = nn.Linear(config.model_dim, config.model_dim)

    def forward(
        self,
        queries: Float[Tensor, "batch query hidden"],
        keys: Float[Tensor, "batch key hidden"],
        valid: Bool[Tensor, "batch key"] | None,
    ) -> Float[Tensor, "batch query hidden"]:
        """Return the attention output of each query over the valid keys (over all keys if none is valid)."""
        query = self._split(self.query(queries))  # (B, heads, Q, H / heads)
        key, value = (self._split(part) for part in self.key_value(keys).chunk(2, dim=-1))  # (B, heads, K, H / heads)
        seen = None if valid is None else (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]  # (B, 1, 1, K)
        dropout = self.dropout if self.training else 0.0
        gathered = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        return self.outputs(gathered.transpose(1, 2).flatten(2))  # (B, Q, H)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, H / heads)


def feed_forward(config: TransformerConfig) -> nn.Sequential:
    """Return W_2 gelu(W_1 LN(x)) with a hidden layer four times as wide."""
    width = config.model_dim
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(4 * width, width),
    )
