"""Network of the decoder: a latent and a layout in, weights out.

    k = argmax_k -|A z - A z_k|^2 + b_k                     exemplar, a training network of the closest known layout
    P = P_k of the widths that are asked for                `wscore.encoder.resizing`
    m = norm(z Z)                                           memory, numbers of the latent as vectors              (n, M, D)
    x = x + attention(x, m); x = x + attention(x, x); ...   one vector per unit, from its query                   (n, R, D)
    W[u, c] = P[u, c] + gain / sqrt(fan_in rank) <x_u A, y_c>    y_c from the query of input c

Tensors of one number per unit are corrected by numbers linear in x_u. A layout of any widths and depth can be asked for.
"""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from wscore.config import Section
from wscore.encoder.decoder_queries import COLUMN, ROW, LayoutQueries, TensorQuery, layout_queries
from wscore.encoder.exemplars import Exemplars
from wscore.encoder.resizing import Resizing, closest, resizing
from wscore.errors import DataError
from wscore.networks.layout import Layout
from wscore.training.model_folder import register

Positive = Annotated[int, Meta(ge=1)]
VECTORS = ("bias", "norm_weight", "norm_bias", "running_mean", "running_var", "other")  # tensors of one number per unit
SPREAD = 0.1  # scale of their corrections
START = 0.002  # standard deviation of what corrections are made with, at the start
GAINS = {"conv": 3.5}  # of corrections by kind
GAIN = 2.0
LEVEL, LEVELS = 0.5, 4  # inputs of a unit that all have in common
LOG_FACTORS = (-3.0, 3.0)  # range of the logarithm of the factor on a running variance
SOFTNESS = 0.1  # nats in which divergences count for the choice of an exemplar
CHOICE = 32  # numbers in which latents are compared with those of exemplars


class DecoderShape(Section):
    """Shape of the network.

    Args:
        latent_dim: numbers of a latent.
        memory: vectors made of the latent.
        hidden_dim: size of vectors.
        rank: numbers in which weights of a unit and of an input meet.
        layers: blocks.
        heads: attention heads.
        exemplars: of each known layout.
        layouts: that are known.
    """

    latent_dim: Positive
    memory: Positive
    hidden_dim: Positive
    rank: Annotated[int, Meta(gt=LEVELS)]
    layers: Positive
    heads: Positive
    exemplars: Positive
    layouts: tuple[Layout, ...]

    def __post_init__(self) -> None:
        """Reject heads of unequal size."""
        if self.hidden_dim % self.heads:
            raise ValueError("`hidden_dim` must be a multiple of `heads`")


class Request(NamedTuple):
    """A layout that is asked for.

    Attributes:
        queries: of its units and weights.
        known: number of the known layout whose exemplars are taken.
        resizing: of these exemplars.
    """

    queries: LayoutQueries
    known: int
    resizing: Resizing

    def to(self, device: torch.device) -> "Request":
        """Return the request on a device."""
        return Request(self.queries.to(device), self.known, Resizing(*(tensor.to(device) for tensor in self.resizing)))


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

    folder_format = 2  # 1: made of the queries alone

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
        for layer in (self.units, self.vectors):
            nn.init.normal_(layer.weight, std=START)
            nn.init.zeros_(layer.bias)
        empty = [torch.zeros(config.exemplars, layout.size) for layout in config.layouts]
        self.exemplars = nn.ParameterList(empty)
        self.keys = nn.Parameter(torch.zeros(len(empty), config.exemplars, config.latent_dim))
        self.levels = nn.Parameter(torch.zeros(len(empty), config.exemplars))
        self.choice = nn.Linear(config.latent_dim, CHOICE, bias=False)

    @torch.no_grad()
    def start(self, chosen: Sequence[Exemplars]) -> None:
        """Take exemplars of every known layout, before training."""
        for number, exemplars in enumerate(chosen):
            self.exemplars[number].copy_(exemplars.weights)
            self.keys[number] = exemplars.latents
            self.levels[number] = -exemplars.divergences.mean(0) / SOFTNESS

    def request(self, layout: Layout) -> Request:
        """Return what is asked for with a layout."""
        known = closest(layout, self.config.layouts) if self.config.layouts else None
        source = None if known is None else self.config.layouts[known]
        return Request(layout_queries(layout), known or 0, resizing(layout, source))

    def scores(self, latents: Float[Tensor, "n latent"], known: int) -> Float[Tensor, "n exemplar"]:
        """Return the scores of the exemplars of a known layout."""
        return self.levels[known] - torch.cdist(self.choice(latents), self.choice(self.keys[known])) ** 2

    def forward(self, latents: Float[Tensor, "n latent"], request: Request) -> Float[Tensor, "n weights"]:
        """Return flat weight vectors of networks of one layout."""
        queries = request.queries
        memory = self.memory_norm(self.memory(latents).unflatten(1, (self.config.memory, -1)))
        x = self.rows(queries.rows).expand(len(latents), -1, -1)
        for block in self.blocks:
            x = block(x, memory)
        x = self.norm(x)
        units, vectors = self.units(x), self.vectors(x)
        tensors, start = queries.tensors, self._exemplar(latents, request)
        parts = [
            self._vector(query, vectors, begin)
            if query.columns is None
            else begin + self._matrix(query, query.columns, units)
            for query, begin in zip(tensors, start.split([query.spec.size for query in tensors], 1), strict=True)
        ]
        return torch.cat(parts, 1)

    def _exemplar(self, latents: Float[Tensor, "n latent"], request: Request) -> Float[Tensor, "n weights"]:
        """Return the best exemplar of each network in the layout that is asked for."""
        index, factor, constant = request.resizing
        if not self.config.layouts:
            return constant.expand(len(latents), -1)
        chosen = self.scores(latents, request.known).argmax(1)
        # gradients of `index_select` are summed in one order, those of an index in brackets in any
        return self.exemplars[request.known].index_select(1, index).index_select(0, chosen) * factor + constant

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
        return self(latents.float(), self.request(layout))

    @torch.no_grad()
    def typical(self, layout: Layout) -> Float[Tensor, " weights"]:
        """Return the first exemplar in a layout."""
        _, known, (index, factor, constant) = self.request(layout)
        return self.exemplars[known][0, index] * factor + constant if self.config.layouts else constant

    def _matrix(self, query: TensorQuery, columns: Tensor, units: Float[Tensor, "n row rank"]) -> Tensor:
        y = self.columns(columns)
        y = F.layer_norm(y - y.mean(0), y.shape[1:]) if len(y) > 1 else F.layer_norm(y, y.shape[1:])
        y = torch.cat([y, y.new_full((len(y), LEVELS), LEVEL)], 1)
        gain = GAINS.get(query.spec.kind, GAIN) / math.sqrt(len(y) * self.config.rank)
        return (gain * units[:, query.rows] @ y.mT).flatten(1)

    def _vector(self, query: TensorQuery, vectors: Float[Tensor, "n row kind"], start: Tensor) -> Tensor:
        kind = query.spec.kind if query.spec.kind in VECTORS else "other"
        values = vectors[:, query.rows, VECTORS.index(kind)]
        return start * values.clamp(*LOG_FACTORS).exp() if kind == "running_var" else start + SPREAD * values
