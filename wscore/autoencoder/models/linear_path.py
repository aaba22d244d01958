"""Linear path of an autoencoder: one basis per known layout, usually from a PCA.

A latent of the linear path is a rotation of the weights, so distances between latents equal those between (projected) networks
of a layout. Sequences of an unknown layout have no linear path.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from wscore.autoencoder.models.mlp import Count
from wscore.config import Section
from wscore.tokens.batch import MIX, TokenBatch, odd_numbers

LEAST_ROOM = 1e-3  # minimum distance between a mean and its floor, in normalised units
LEAST_SHARE = 1e-3  # minimum fraction of that distance between a weight and its floor when encoding


class LinearGroup(Section):
    """Sequences of one layout (and window), which differ only in their weights.

    Args:
        signature: of the layout, as in `TokenBatch.layouts`.
        weights: number of weights D per sequence.
        rank: number of components r, at most latent_dim.
    """

    signature: int
    weights: Annotated[int, msgspec.Meta(ge=0)]
    rank: Annotated[int, msgspec.Meta(ge=0)]


class LinearConfig(Section):
    """Sizes of a linear path.

    Args:
        latent_dim: latent dimension Z.
        scale: divisor of the latents, which gives them unit scale.
        groups: layouts with a basis.
    """

    latent_dim: Count
    scale: Annotated[float, msgspec.Meta(gt=0)]
    groups: tuple[LinearGroup, ...]


class LinearPath(nn.Module):
    """Parameters shared by encoder and decoder: for each group g a mean m_g (D), a basis B_g (D, r) and a code c_g (Z).

    The codes are fixed random signs that separate the layouts in latent space, which would otherwise all be centred at zero.
    """

    known: Tensor
    codes: Tensor

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config = config
        self.means = nn.ParameterList(torch.zeros(group.weights) for group in config.groups)
        self.bases = nn.ParameterList(torch.zeros(group.weights, group.rank) for group in config.groups)
        self.floors = nn.ParameterList(torch.full((group.weights,), -torch.inf) for group in config.groups)
        known = torch.tensor([group.signature for group in config.groups], dtype=torch.int64)
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("codes", _codes(known, config.latent_dim), persistent=False)
        self.requires_grad_(False)

    def rows(self, batch: TokenBatch) -> Iterator[tuple[int, Int64[Tensor, " n"]]]:
        """Yield (group, indices in the batch) for every group present in the batch."""
        alike = torch.eq(batch.layouts[:, None], self.known)  # (B, G)
        for group in alike.any(dim=0).nonzero()[:, 0].tolist():
            yield group, alike[:, group].nonzero()[:, 0]  # (n,)


class LinearEncoder(LinearPath):
    """z = B_g^T (unbound(x) - m_g) / scale + c_g, where x are the weights of a sequence of group g; 0 for unknown layouts.

    unbound is the inverse of the bound of `LinearDecoder`, so that a full-rank basis reconstructs every weight.
    """

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch latent"]:
        """Return one latent per sequence."""
        latent = batch.tokens.new_zeros(batch.tokens.shape[0], self.config.latent_dim)  # (B, Z)
        for group, rows in self.rows(batch):
            weights = batch.tokens[rows][batch.mask[rows]].view(len(rows), -1)  # (n, D)
            weights = unbounded(weights, self.means[group], self.floors[group])
            part = (weights - self.means[group]) @ self.bases[group] / self.config.scale  # (n, r)
            part = nn.functional.pad(part, (0, self.config.latent_dim - part.shape[1])) + self.codes[group]  # (n, Z)
            latent = latent.index_copy(0, rows, part.to(latent.dtype))  # (B, Z)
        return latent


class LinearDecoder(LinearPath):
    """x = bound(B_g (z - c_g) scale + m_g + n), where n is the output of the parallel network; n alone for unknown layouts.

    Some weights have a floor f below which a network is broken: a running variance must stay above zero. For these,
    bound(x) = f + (m - f) exp((x - m) / (m - f)) where x < m; it has the value and the slope of x at m and never
    reaches f. All other weights are unchanged.
    """

    def forward(
        self,
        latent: Float[Tensor, "batch latent"],
        batch: TokenBatch,
        beside: Float[Tensor, "batch token dim"] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Return tokens from latents; only mask and features of the batch are used. Padding is zero."""
        tokens = latent.new_zeros(batch.mask.shape) if beside is None else beside  # (B, T, D)
        for group, rows in self.rows(batch):
            basis = self.bases[group]
            part = (latent[rows] - self.codes[group])[:, : basis.shape[1]] * self.config.scale  # (n, r)
            weights = part @ basis.T + self.means[group]  # (n, D)
            if beside is not None:
                weights = weights + beside[rows][batch.mask[rows]].view(len(rows), -1)  # (n, D)
            mask = torch.zeros_like(batch.mask).index_copy(0, rows, batch.mask[rows])  # (B, T, D)
            tokens = tokens.masked_scatter(
                mask, bounded(weights, self.means[group], self.floors[group]).to(tokens.dtype)
            )  # (B, T, D)
        return tokens


def bounded(
    weights: Float[Tensor, "*n weights"], mean: Float[Tensor, " weights"], floor: Float[Tensor, " weights"]
) -> Float[Tensor, "*n weights"]:
    """Return weights bounded below by a floor, see `LinearDecoder`; -inf means no floor."""
    held = floor.isfinite()  # (D,)
    if not held.any():
        return weights
    least, budget_bytes = _room(mean, floor)
    above = (weights - least) / budget_bytes - 1  # (*n, D)
    return torch.where(held & (above < 0), least + budget_bytes * above.clamp_max(0).exp(), weights)


def unbounded(
    weights: Float[Tensor, "*n weights"], mean: Float[Tensor, " weights"], floor: Float[Tensor, " weights"]
) -> Float[Tensor, "*n weights"]:
    """Return the inverse of `bounded`; a weight at its floor is moved `LEAST_SHARE` of the way to the mean."""
    held = floor.isfinite()  # (D,)
    if not held.any():
        return weights
    least, budget_bytes = _room(mean, floor)
    share = (weights - least) / budget_bytes  # (*n, D)
    return torch.where(held & (share < 1), least + budget_bytes * (1 + share.clamp(LEAST_SHARE, 1).log()), weights)


def _room(mean: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    least = torch.where(floor.isfinite(), floor, 0.0)
    return least, (mean.detach() - least).clamp_min(LEAST_ROOM)


def _codes(known: Tensor, latent_dim: int) -> Tensor:
    """Return signs (G, Z) that depend only on the layout keys."""
    mixed = known[:, None] * odd_numbers(latent_dim)  # (G, Z)
    mixed = (mixed ^ (mixed >> 30)) * MIX
    return torch.where(mixed >= 0, 1.0, -1.0)
