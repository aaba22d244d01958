"""Embeds token features (layer, kind, positions, size), with sinusoidal or learned positions."""

import math
from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.networks.layout import KINDS
from wscore.tokens.batch import TokenBatch
from wscore.tokens.tokenizer import FEATURES

Positions = Literal["sinusoidal", "learned"]
LAYER, KIND, IN_LAYER, LOG_SIZE, IN_MODEL = range(len(FEATURES))
PLACES = (LAYER, IN_LAYER, IN_MODEL)
SHARE = 1_000.0  # fractions in [0, 1) are scaled by 1000, layer indices by 1
FREQUENCIES = 16
PERIOD = 10_000.0


class EmbeddingConfig(Section):
    """Embedding of token features.

    Args:
        dim: embedding dimension.
        positions: `sinusoidal`, or `learned`: a table with a row per layer (the last one for all deeper layers) and tables
            indexed by the position within the layer or model in equal intervals.
        max_positions: rows of each learned table.
    """

    dim: Annotated[int, msgspec.Meta(ge=1)]
    positions: Positions
    max_positions: Annotated[int, msgspec.Meta(ge=1)]


class FeatureEmbedding(nn.Module):
    """e(token) = K[kind] + s log_size + sum over p in (layer, position in layer, position in model) of P_p(p).

    P_p is a learned table, or a linear map of sin(p w_i), cos(p w_i) with w_i decreasing from 1 to 1 / 10,000 as in "Attention
    Is All You Need" (arXiv 1706.03762).
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.kind = nn.Embedding(len(KINDS), config.dim)
        self.log_size = nn.Linear(1, config.dim)
        if config.positions == "learned":
            self.places = nn.ModuleList(nn.Embedding(config.max_positions, config.dim) for _ in PLACES)
        else:
            self.places = nn.ModuleList(nn.Linear(2 * FREQUENCIES, config.dim, bias=False) for _ in PLACES)

    def forward(self, features: Float[Tensor, "batch token feature"]) -> Float[Tensor, "batch token dim"]:
        """Return one vector per token; unknown kinds count as `other`."""
        kind = features[..., KIND].long().clamp(0, len(KINDS) - 1)  # (B, T)
        vectors = self.kind(kind) + self.log_size(features[..., LOG_SIZE, None])  # (B, T, E)
        for column, place in zip(PLACES, self.places, strict=True):
            vectors = vectors + place(self._place(features[..., column], column))  # (B, T, E)
        return vectors

    def _place(self, places: Tensor, column: int) -> Tensor:
        rows = self.config.max_positions
        if self.config.positions == "learned":
            return (places if column == LAYER else places * rows).long().clamp(0, rows - 1)  # (B, T)
        return sinusoids(places if column == LAYER else places * SHARE, FREQUENCIES)  # (B, T, 2 F)


def sinusoids(places: Float[Tensor, "*axes"], frequencies: int) -> Float[Tensor, "*axes wave"]:
    """Return sin(p w_i) and cos(p w_i) of places p for `frequencies` values w_i = PERIOD ** (-i / frequencies)."""
    steps = torch.arange(frequencies, device=places.device, dtype=places.dtype)  # (F,)
    angles = places[..., None] * torch.exp(-math.log(PERIOD) / frequencies * steps)  # (*, F)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (*, 2 F)


def without_padding(batch: TokenBatch) -> TokenBatch:
    """Return the batch with padding set to zero, so that its content (even NaN) has no influence."""
    tokens = torch.where(batch.mask, batch.tokens, 0.0)  # (B, T, D)
    features = torch.where(batch.token_mask[..., None], batch.features, 0.0)  # (B, T, 5)
    return batch._replace(tokens=tokens, features=features)
