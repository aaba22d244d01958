"""Linear path of an autoencoder, fitted to the training networks of a cache: one basis per layout (and window)."""

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
NARROWEST = 1e-6  # deviation of a number, as a share of the largest
DAMPING = 0.01  # added to a sensitivity, as a share of its mean
LARGEST = 4096  # coordinates of the largest block of a symmetric covariance; above, the plain one is taken
FITTED = 8192  # sequences of a layout (and window) that a basis and a code are fitted to, at most


class LinearPathConfig(NamedTuple):
    """How bases are fitted.

    Attributes:
        latent_dim: most components of each.
        symmetry: share of covariance and metric that is averaged over all orders of the hidden units, see `symmetric_pca`.
        balance: an error in a tensor of n weights counts n ** -balance: 0 treats all weights alike, 1 all tensors.
        seed: of the randomised decomposition.
    """

    latent_dim: int
    symmetry: float
    balance: float
    seed: int


class LinearGroupFit(NamedTuple):
    """What a linear path does with the sequences of one signature, entries in the order of their tokens.

    Attributes:
        signature: of the layout, as in `TokenBatch.layouts`.
        mean: of the training networks.
        analysis: columns that make coordinates of deviations from the mean.
        synthesis: columns that make deviations of coordinates; analysis^T synthesis = 1.
        variances: of the coordinates.
        floors: which weights must stay above a value (running variances above zero); -inf where there is none.
        undone: whether the basis is one of weights without floors, so that the encoder undoes the bound of the decoder.
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
        """Return how much wider each number spreads over networks of a layout than over those that a basis was fitted to.

        A basis of more directions than there are training networks puts what these have in common by chance into its first
        ones: there these networks spread more than others of their kind, and hardly at all in the last ones. The
        variances of the covariance that the basis was made of are better, as far as that is averaged over orders of the units.

        Args:
            latents: of the training networks on the linear path alone.
            kinds: keys of their layouts.

        Returns:
            Ratios of the two deviations, by signature.
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
        config: how bases are fitted.
        sensitivity: by layout, in what metric errors are small; where there is none, tensors are balanced.
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
    """Return training items by layout and window, of each at most `FITTED`, spread evenly over all.

    So the memory that a fit takes depends on the size of the networks and on the count of layouts, not on that of networks.
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
    """Return the basis of items that are alike, fitted to weights in the order of the layout, each times its importance."""
    metric = sensitivity.get(cache.layout(members[0]).identity)
    if metric is not None:
        return _fit_sensitive(cache, members, config, metric.numpy())
    places = _places(cache, int(members[0]))
    layout = cache.layout(members[0])
    whole = len(places) == layout.size  # not a window: a symmetry is one of whole networks
    order = np.argsort(places) if whole else np.arange(len(places))
    sizes = np.repeat([spec.size for spec in layout.tensors], [spec.size for spec in layout.tensors])[places]
    importance = (sizes / sizes.mean()) ** (-config.balance / 2)  # in the order of the tokens
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
    """Return the basis whose truncation or rounding errors e are small in e^T F e.

    With the damped metric F = L L^T and the covariance C of the weights, both mixed as in `symmetric_pca`, coordinates are
    V^T L^T (x - m) with the eigenvectors V of L^T C L. They are uncorrelated, and an error of one is as bad as an error of
    another.
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
    """Return mean (D,) and covariance (D, D) in float64, a share of them averaged over all orders of the hidden units.

    The covariance is that of the weights as they are encoded, where those with a floor have none (`linear.unbounded`).
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
    """Return L (D, D) with L L^T the damped metric, a share of it averaged over all orders of the hidden units."""
    lower = np.linalg.cholesky(metric + (DAMPING * np.trace(metric) / len(metric) + 1e-12) * np.eye(len(metric)))
    units = _units(layout, symmetry)
    if units is None:
        return lower
    size = len(metric)
    averaged = units.covariance(iter([lower.T * size**0.5]), np.zeros(size))(np.eye(size))  # of size vectors
    return np.linalg.cholesky((1 - symmetry) * lower @ lower.T + symmetry * (averaged + averaged.T) / 2)


def _units(layout: Layout, symmetry: float) -> Exchangeable | None:
    """Return the hidden units over whose orders is averaged, if it is, and the blocks are small enough."""
    units = Exchangeable(layout) if symmetry > 0 else None
    return units if units is not None and units.dim <= LARGEST else None


def _floors(cache: TokenCache, layout: Layout) -> Float32[np.ndarray, " weights"]:
    """Return zero as normalised where a weight (D,) of a layout is a running variance, else -inf."""
    zeros = np.asarray(cache.normalizer.normalize(layout, np.zeros(layout.size, np.float32)))
    variance = np.repeat(
        [spec.kind == "running_var" for spec in layout.tensors], [spec.size for spec in layout.tensors]
    )
    return np.where(variance, zeros, -np.inf).astype(np.float32)


def oriented(vectors: np.ndarray) -> np.ndarray:
    """Return the columns with signs such that the largest entry of each is positive."""
    if not vectors.size:
        return vectors
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, np.float32(-1), np.float32(1))


def _unscaled(signature: int, basis: Pca, importance: np.ndarray, floors: np.ndarray) -> LinearGroupFit:
    """Return the oblique basis for weights of a basis for weights times their importance."""
    vectors, columns = basis.basis.T, importance[:, None]
    parts = (basis.mean / importance, vectors * columns, vectors / columns)
    mean, analysis, synthesis = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts)
    variances = basis.variances.astype(np.float32)
    return LinearGroupFit(signature, mean, analysis, synthesis, variances, torch.from_numpy(floors), undone=False)


def _places(cache: TokenCache, item: int) -> Int[np.ndarray, " weights"]:
    """Return which weight of its network each valid entry of an item is, in the order of the tokens."""
    start, length = (int(cache.table[name].iloc[item]) for name in ("start", "length"))
    template = cache.tokenizer.template(cache.layout(item))
    part = slice(start, start + length)
    return template.gather[part][template.mask[part]]


def _blocks(cache: TokenCache, items: np.ndarray, importance: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the valid entries (n, D) of items that are alike, times their importance, some items at once."""
    for start in range(0, len(items), BLOCK):
        batch = cache.batch(items[start : start + BLOCK])
        yield batch.tokens[batch.mask].view(len(batch.tokens), -1).numpy() * importance
