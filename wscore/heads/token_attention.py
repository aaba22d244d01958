"""Attention over the tokens of a network, invariant to the order of tokens within a layer.

A token is one unit of a layer with all its weights. Every block attends first within the layer, then over the whole
network; there is no positional encoding within a layer, so the output is invariant to permuting its tokens. The order of
the entries of each token follows the units of the previous layer and is left to augmentation (`wscore.tokens`).
"""

from typing import Annotated

import msgspec
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.networks.layout import KINDS
from wscore.tokens.batch import TokenBatch
from wscore.tokens.tokenizer import FEATURES

Count = Annotated[int, msgspec.Meta(ge=1)]
LAYER, KIND, SIZE = (FEATURES.index(name) for name in ("layer", "kind", "log_size"))
LAYERS = 64  # distinct layer embeddings; deeper layers share the last one


class ReaderConfig(Section):
    """Shape of a token reader.

    Args:
        token_dim: numbers per token.
        width: hidden size of the tokens; a multiple of `heads`.
        blocks: pairs of attention within layers and over the network.
        heads: attention heads.
        outputs: numbers per network.
        dropout: dropout rate.
    """

    token_dim: Count
    width: Count
    blocks: Annotated[int, msgspec.Meta(ge=0)]
    heads: Count
    outputs: Count
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)]

    def __post_init__(self) -> None:
        """Reject a width that is not divisible by the heads."""
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class TokenReader(nn.Module):
    """x = W [token, log |token|, mask] + e(layer, kind, size); blocks; z = W_z LN([mean, max over tokens])."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = nn.Linear(3 * config.token_dim + 1, config.width)
        self.layer = nn.Embedding(LAYERS, config.width)
        self.kind = nn.Embedding(len(KINDS), config.width)
        self.blocks = nn.ModuleList(ReaderBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(2 * config.width)
        self.outputs = nn.Linear(2 * config.width, config.outputs)

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch output"]:
        """Return the outputs of each network; padding has no influence."""
        valid = batch.token_mask  # (B, T)
        layer = batch.features[..., LAYER].long()  # (B, T)
        tokens = torch.where(batch.mask, batch.tokens, 0.0)  # (B, T, D)
        size = torch.where(batch.mask, (tokens.abs() + 1e-4).log(), 0.0)
        x = torch.cat([tokens, size, batch.mask.to(tokens), batch.features[..., SIZE, None]], dim=-1)
        x = self.inputs(x) + self.layer(layer.clamp(max=LAYERS - 1)) + self.kind(batch.features[..., KIND].long())
        near = (layer[:, :, None] == layer[:, None, :]) & valid[:, None, :]  # (B, T, T)
        far = valid[:, None, :].expand_as(near)
        for block in self.blocks:
            x = block(x, near, far)  # (B, T, H)
        keep = valid[..., None]
        mean = torch.where(keep, x, 0.0).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
        highest = torch.where(keep, x, torch.finfo(x.dtype).min).amax(dim=1)
        return self.outputs(self.norm(torch.cat([mean, highest], dim=-1)))  # (B, outputs)


class ReaderBlock(nn.Module):
    """x = x + attention(LN x) within layers; x = x + attention(LN x) over the network; x = x + mlp(LN x)."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.within, self.between = _attention(config), _attention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, config.width),
            nn.Dropout(config.dropout),
        )
        self.heads = config.heads

    def forward(
        self,
        x: Float[Tensor, "batch token hidden"],
        near: Bool[Tensor, "batch token token"],
        far: Bool[Tensor, "batch token token"],
    ) -> Float[Tensor, "batch token hidden"]:
        """Return tokens of the same shape."""
        for norm, attention, seen in ((self.norms[0], self.within, near), (self.norms[1], self.between, far)):
            x = x + _attend(attention, norm(x), seen, self.heads)
        return x + self.mlp(self.norms[2](x))


def _attention(config: ReaderConfig) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"into": nn.Linear(config.width, 3 * config.width), "out": nn.Linear(config.width, config.width)}
    )


def _attend(attention: nn.ModuleDict, x: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v over the visible tokens; a token that sees none attends to itself."""
    diagonal = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    parts = attention["into"](x).unflatten(-1, (3, heads, -1)).movedim(2, 0)  # (3, B, T, heads, d)
    query, key, value = (projected.transpose(1, 2) for projected in parts)  # (B, heads, T, d)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=(seen | diagonal)[:, None])
    return attention["out"](mixed.transpose(1, 2).flatten(2))
