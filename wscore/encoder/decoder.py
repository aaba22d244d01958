"""Network of the decoder: a latent and the queries of a layout in, weights out.

    m = norm(z Z)                                           memory, numbers of the latent as vectors              (n, M, D)
    x = x + attention(x, m); x = x + attention(x, x); ...   one vector per unit, from its query                   (n, R, D)
    W[u, c] = gain / sqrt(fan_in rank) <x_u A, y_c>         weight of unit u for input c, y_c from the query of c

Tensors of one number per unit are linear in x_u. A layout of any widths and depth can be asked for. At the start the latent has
no influence: cross-attention ends in zeros.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from wscore.config import Section
from wscore.encoder.decoder_queries import COLUMN, ROW, LayoutQueries, TensorQuery, layout_queries
from wscore.errors import DataError
from wscore.networks.layout import Layout
from wscore.training.model_folder import register

Positive = Annotated[int, Meta(ge=1)]
VECTORS = ("bias", "norm_weight", "norm_bias", "running_mean", "running_var", "other")  # tensors of one number per unit
SPREAD = 0.1  # of such numbers at the start
GAINS = {"conv": 3.5}  # of weights by kind: activations of an untrained network keep their size
GAIN = 2.0
LEVEL, LEVELS = 0.5, 4  # inputs of a unit that all have in common
LOG_VARIANCES = (-6.0, 4.0)  # range of the logarithm of a running variance


class DecoderShape(Section):
    """Shape of the network.

    Args:
        latent_dim: numbers of a latent.
        memory: vectors made of the latent.
        hidden_dim: size of vectors.
        rank: numbers in which weights of a unit and of an input meet.
        layers: blocks.
        heads: attention heads.
    """

    latent_dim: Positive
    memory: Positive
    hidden_dim: Positive
    rank: Annotated[int, Meta(gt=LEVELS)]
    layers: Positive
    heads: Positive

    def __post_init__(self) -> None:
        """Reject heads of unequal size."""
        if self.hidden_dim % self.heads:
            raise ValueError("`hidden_dim` must be a multiple of `heads`")


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.across = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.within = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        nn.init.zeros_(self.across.out_proj.weight)

    def forward(self, x: Float[Tensor, "n row dim"], memory: Float[Tensor, "n memory dim"]) -> Tensor:
        x = x + self.across(self.norms[0](x), memory, memory, need_weights=False)[0]
        y = self.norms[1](x)
        x = x + self.within(y, y, y, need_weights=False)[0]
        return x + self.perceptron(self.norms[2](x))


@register
class WeightDecoder(nn.Module):
    """See the module docstring."""

    def __init__(self, config: DecoderShape) -> None:
        super().__init__()
        self.config, dim = config, config.hidden_dim
        self.memory = nn.Linear(config.latent_dim, config.memory * dim)
        self.memory_norm = nn.LayerNorm(dim)
        self.rows = nn.Sequential(nn.Linear(ROW, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.LayerNorm(dim))
        self.columns = nn.Sequential(
            nn.Linear(COLUMN, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 2 * dim), nn.GELU(),
            nn.Linear(2 * dim, config.rank - LEVELS),
        )  # fmt: skip
        self.blocks = nn.ModuleList(_Block(dim, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.units, self.vectors = nn.Linear(dim, config.rank), nn.Linear(dim, len(VECTORS))

    def forward(self, latents: Float[Tensor, "n latent"], queries: LayoutQueries) -> Float[Tensor, "n weights"]:
        """Return flat weight vectors of networks of one layout."""
        memory = self.memory_norm(self.memory(latents).unflatten(1, (self.config.memory, -1)))
        x = self.rows(queries.rows).expand(len(latents), -1, -1)
        for block in self.blocks:
            x = block(x, memory)
        x = self.norm(x)
        units, vectors = self.units(x), self.vectors(x)
        parts = [
            self._vector(query, vectors) if query.columns is None else self._matrix(query, query.columns, units)
            for query in queries.tensors
        ]
        return torch.cat(parts, 1)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n latent"], layout: Layout) -> Float[Tensor, "n weights"]:
        """Return weights of networks of one layout for `Layout.unflatten`, from latents of the encoder.

        Raises:
            DataError: if latents have another length than those of the training.
        """
        if latents.ndim != 2 or latents.shape[1] != self.config.latent_dim:
            raise DataError(
                "the decoder takes other latents", where="latents", expected=f"(n, {self.config.latent_dim})",
                got=tuple(latents.shape), fix="encode with the encoder that the decoder was trained with",
            )  # fmt: skip
        return self(latents.float(), layout_queries(layout))

    def _matrix(self, query: TensorQuery, columns: Tensor, units: Float[Tensor, "n row rank"]) -> Tensor:
        y = self.columns(columns)
        y = F.layer_norm(y - y.mean(0), y.shape[1:]) if len(y) > 1 else F.layer_norm(y, y.shape[1:])
        y = torch.cat([y, y.new_full((len(y), LEVELS), LEVEL)], 1)
        gain = GAINS.get(query.spec.kind, GAIN) / math.sqrt(len(y) * self.config.rank)
        return (gain * units[:, query.rows] @ y.mT).flatten(1)

    def _vector(self, query: TensorQuery, vectors: Float[Tensor, "n row kind"]) -> Tensor:
        kind = query.spec.kind if query.spec.kind in VECTORS else "other"
        values = vectors[:, query.rows, VECTORS.index(kind)]
        if kind == "running_var":
            return values.clamp(*LOG_VARIANCES).exp()
        return SPREAD * values + float(kind == "norm_weight")
