"""Fits the linear path of an autoencoder to the training networks of a cache: one basis per layout (and window)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from wscore.autoencoder.models.autoencoder import Autoencoder
from wscore.autoencoder.models.linear_path import LinearConfig, LinearGroup, unbounded
from wscore.autoencoder.training.sensitivity import Sensitivities
from wscore.autoencoder.training.symmetric_covariance import Exchangeable, symmetric_pca
from wscore.networks.layout import Layout
from wscore.pca import Pca, fit_pca
from wscore.tokens.cache import TokenCache

BLOCK = 256  # networks at once
NARROWEST = 1e-6  # minimum standard deviation of a dimension, relative to the largest
DAMPING = 0.01  # added to a sensitivity, relative to its mean
LARGEST = 4096  # maximum block dimension of a symmetric covariance; above it the plain one is used
FITTED = 8192  # maximum number of sequences per layout (and window) to fit basis and code


class LinearPathConfig(NamedTuple):
    """Settings of the basis fit.

    Attributes:
        latent_dim: maximum number of components per basis.
        symmetry: weight of the covariance and metric averaged over all orders of the hidden units, see `symmetric_pca`.
        balance: errors in a tensor of n weights are weighted by n ** -balance: 0 weights all weights equally, 1 all tensors.
        seed: of the randomised decomposition.
    """

    latent_dim: int
    symmetry: float
    balance: float
    seed: int


class LinearGroupFit(NamedTuple):
    """Fitted basis of one signature, entries in token order.

    Attributes:
        signature: of the layout, as in `TokenBatch.layouts`.
        mean: of the training networks.
        analysis: columns that map deviations from the mean to coordinates.
        synthesis: columns that map coordinates to deviations; analysis^T synthesis = 1.
        variances: of the coordinates.
        floors: lower bounds of weights (zero for running variances); -inf where there is none.
        undone: whether the basis is fitted to unbounded weights, so that the encoder inverts the bound of the decoder.
    """

    signature: int
    mean: Float[Tensor, " weights"]
    analysis: Float[Tensor, "weights rank"]
    synthesis: Float[Tensor, "weights rank"]
    variances: Float32[np.ndarray, " rank"]
    floors: Float[Tensor, " weights"]
    undone: bool


class LinearFit(NamedTuple):
    """Fitted bases of all layouts.

    Attributes:
        config: sizes of the linear path.
        groups: one per layout and window.
    """

    config: LinearConfig
    groups: list[LinearGroupFit]

    @torch.no_grad()
    def fill(self, model: Autoencoder) -> None:
        """Write means and bases into both sides of an autoencoder with a linear path of this configuration."""
        encoder, decoder = model.encoder.linear, model.decoder.linear
        assert encoder is not None
        assert decoder is not None
        for place, group in enumerate(self.groups):
            for side, basis in ((encoder, group.analysis), (decoder, group.synthesis)):
                side.means[place].copy_(group.mean)
                side.bases[place].copy_(basis)
            if group.undone:
                encoder.floors[place].copy_(group.floors)
            decoder.floors[place].copy_(group.floors)

    def widening(
        self, latents: Float[Tensor, "latents number"], kinds: Int64[Tensor, " latents"]
    ) -> dict[int, Float[Tensor, " rank"]]:
        """Return the ratio of expected to training standard deviation of each latent dimension, per layout.

        A basis with more directions than training networks overfits: the training networks have too much variance in the
        leading directions and hardly any in the last ones. The variances of the covariance behind the basis are better
        estimates, to the extent that it is averaged over orders of the units.

        Args:
            latents: of the training networks on the linear path alone.
            kinds: keys of their layouts.

        Returns:
            Ratios of the standard deviations, by signature.
        """
        found = {}
        for group in self.groups:
            own = latents[kinds == group.signature][:, : group.analysis.shape[1]]
            expected = torch.from_numpy(group.variances).sqrt() / self.config.scale
            seen = (own - own.mean(0)).square().mean(0).sqrt()
            found[group.signature] = expected / seen.clamp_min(NARROWEST * seen.max().clamp_min(NARROWEST))
        return found


def fit_linear_path(
    cache: TokenCache, config: LinearPathConfig, sensitivity: Sensitivities | None = None
) -> LinearFit | None:
    """Return the bases of the training networks, see `fitted_to`; None if no layout has two of them.

    Args:
        cache: of the networks.
        config: settings of the fit.
        sensitivity: error metric by layout; layouts without one use the balance of tensors.
    """
    alike = fitted_to(cache)
    groups = [_fit_group(cache, members, config, sensitivity or {}) for members in alike if len(members) > 1]
    if not groups:
        return None
    mean = float(np.mean(np.concatenate([group.variances for group in groups])))
    entries = (
        LinearGroup(signature=group.signature, weights=len(group.mean), rank=group.analysis.shape[1])
        for group in groups
    )
    scale = max(mean, 1e-12) ** 0.5
    return LinearFit(LinearConfig(latent_dim=config.latent_dim, scale=scale, groups=tuple(entries)), groups)


def fitted_to(cache: TokenCache) -> list[Int[np.ndarray, " items"]]:
    """Return training items by layout and window, at most `FITTED` of each, evenly spaced.

    The memory of a fit thus depends on the size of networks and the number of layouts, not on the number of networks.
    """
    items = cache.indices("train")
    table = cache.table.iloc[items]
    alike = [items[places] for _, places in sorted(table.groupby(["layout", "window"], sort=True).indices.items())]
    return [
        members if len(members) <= FITTED else members[np.linspace(0, len(members) - 1, FITTED).astype(np.int64)]
        for members in alike
    ]


def _fit_group(
    cache: TokenCache, members: np.ndarray, config: LinearPathConfig, sensitivity: Sensitivities
) -> LinearGroupFit:
    """Return the basis of items of one layout and window, fitted to importance-weighted weights in layout order."""
    metric = sensitivity.get(cache.layout(members[0]).identity)
    if metric is not None:
        return _fit_sensitive(cache, members, config, metric.numpy())
    places = _places(cache, int(members[0]))
    layout = cache.layout(members[0])
    whole = len(places) == layout.size  # not a window: the symmetry holds only for whole networks
    order = np.argsort(places) if whole else np.arange(len(places))
    sizes = np.repeat([spec.size for spec in layout.tensors], [spec.size for spec in layout.tensors])[places]
    importance = (sizes / sizes.mean()) ** (-config.balance / 2)  # in token order
    units = _units(layout, config.symmetry if whole else 0.0)
    stream = lambda: (block[:, order] for block in _blocks(cache, members, importance.astype(np.float32)))  # noqa: E731
    if units is None:
        found = fit_pca(stream, config.latent_dim, seed=config.seed)
    else:
        found = symmetric_pca(stream, config.latent_dim, seed=config.seed, units=units, symmetry=config.symmetry)
    back = np.argsort(order)
    signature = int(cache.keys(members[:1])[0])
    fitted = Pca(found.mean[back], oriented(found.basis.T)[back].T, found.variances)
    return _unscaled(signature, fitted, importance, _floors(cache, layout)[places])


def _fit_sensitive(
    cache: TokenCache, members: np.ndarray, config: LinearPathConfig, metric: Float[np.ndarray, "all all"]
) -> LinearGroupFit:
    """Return the basis that minimises truncation and rounding errors e in the metric e^T F e.

    With the damped metric F = L L^T and the covariance C of the weights, both mixed as in `symmetric_pca`, coordinates are
    V^T L^T (x - m) with the eigenvectors V of L^T C L. They are uncorrelated, and errors in all
    coordinates have equal cost.
    """
    places, layout = _places(cache, int(members[0])), cache.layout(members[0])
    weights = np.concatenate([*_blocks(cache, members, np.ones(len(places), np.float32))])[:, np.argsort(places)]
    own = np.sort(places)
    floors = _floors(cache, layout)
    symmetry = config.symmetry if len(places) == layout.size else 0.0
    mean, covariance = _moments(weights, layout, symmetry, floors[own])
    lower = damped_root(metric[np.ix_(own, own)], layout, symmetry)
    variances, vectors = np.linalg.eigh(lower.T @ covariance @ lower)
    order = np.argsort(-variances, kind="stable")[: config.latent_dim]
    vectors = oriented(vectors[:, order])
    back = np.argsort(np.argsort(places))
    analysis, synthesis = (lower @ vectors)[back], np.linalg.solve(lower.T, vectors)[back]
    centre, first, second = (
        torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (mean[back], analysis, synthesis)
    )
    signature = int(cache.keys(members[:1])[0])
    floors = torch.from_numpy(floors[places])
    return LinearGroupFit(
        signature, centre, first, second, np.maximum(variances[order], 0).astype(np.float32), floors, undone=True
    )


def _moments(weights: np.ndarray, layout: Layout, symmetry: float, floors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and covariance (D, D) in float64, mixed with their average over all orders of the hidden units.

    The covariance is that of the weights as they are encoded, with floors removed (`linear_path.unbounded`).
    """
    mean = weights.mean(0, dtype=np.float64)
    units = _units(layout, symmetry)
    if units is not None:
        mean = (1 - symmetry) * mean + symmetry * units.average(mean)
    sides = (torch.from_numpy(part.astype(np.float32)) for part in (weights, mean, floors))
    weights = unbounded(*sides).numpy()
    centred = weights - mean
    covariance = centred.T @ centred / len(centred)
    if units is not None:
        averaged = units.covariance(iter([weights]), mean)(np.eye(len(mean)))
        covariance = (1 - symmetry) * covariance + symmetry * (averaged + averaged.T) / 2
    return mean, covariance


def damped_root(
    metric: Float[np.ndarray, "weights weights"], layout: Layout, symmetry: float
) -> Float[np.ndarray, "weights weights"]:
    """Return L (D, D) with L L^T the damped metric, mixed with its average over all orders of the hidden units."""
    lower = np.linalg.cholesky(metric + (DAMPING * np.trace(metric) / len(metric) + 1e-12) * np.eye(len(metric)))
    units = _units(layout, symmetry)
    if units is None:
        return lower
    size = len(metric)
    averaged = units.covariance(iter([lower.T * size**0.5]), np.zeros(size))(np.eye(size))  # of size vectors
    return np.linalg.cholesky((1 - symmetry) * lower @ lower.T + symmetry * (averaged + averaged.T) / 2)


def _units(layout: Layout, symmetry: float) -> Exchangeable | None:
    """Return the hidden units to average over, if symmetry is on and the blocks are small enough."""
    units = Exchangeable(layout) if symmetry > 0 else None
    return units if units is not None and units.dim <= LARGEST else None


def _floors(cache: TokenCache, layout: Layout) -> Float32[np.ndarray, " weights"]:
    """Return the normalised value of 0 for running variances of a layout (D,), -inf for other weights."""
    zeros = np.asarray(cache.normalizer.normalize(layout, np.zeros(layout.size, np.float32)))
    variance = np.repeat(
        [spec.kind == "running_var" for spec in layout.tensors], [spec.size for spec in layout.tensors]
    )
    return np.where(variance, zeros, -np.inf).astype(np.float32)


def oriented(vectors: np.ndarray) -> np.ndarray:
    """Flip the signs of columns so that the largest entry of each is positive."""
    if not vectors.size:
        return vectors
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, np.float32(-1), np.float32(1))


def _unscaled(signature: int, basis: Pca, importance: np.ndarray, floors: np.ndarray) -> LinearGroupFit:
    """Convert a basis of importance-weighted weights to an oblique basis of the weights."""
    vectors, columns = basis.basis.T, importance[:, None]
    parts = (basis.mean / importance, vectors * columns, vectors / columns)
    mean, analysis, synthesis = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts)
    variances = basis.variances.astype(np.float32)
    return LinearGroupFit(signature, mean, analysis, synthesis, variances, torch.from_numpy(floors), undone=False)


def _places(cache: TokenCache, item: int) -> Int[np.ndarray, " weights"]:
    """Return the weight index of each valid entry of an item, in token order."""
    start, length = (int(cache.table[name].iloc[item]) for name in ("start", "length"))
    template = cache.tokenizer.template(cache.layout(item))
    part = slice(start, start + length)
    return template.gather[part][template.mask[part]]


def _blocks(cache: TokenCache, items: np.ndarray, importance: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the valid entries (n, D) of items of one layout and window, times their importance, in blocks."""
    for start in range(0, len(items), BLOCK):
        batch = cache.batch(items[start : start + BLOCK])
        yield batch.tokens[batch.mask].view(len(batch.tokens), -1).numpy() * importance
