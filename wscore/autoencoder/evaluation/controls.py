"""Baselines (controls) of the autoencoder: simpler compression methods, on the same runs with the same metrics.

    control            stored per network                                                 stored floats
    mean_network       its layout; reconstructed as the mean training network of that     1
    pca                scores on the principal components of the padded, normalised       latent_dim + 1
                       token matrix of all layouts: the input of the autoencoder
    layout_pca         scores on the principal components of its layout, a basis each      latent_dim + 1
    codec_coordinates  the coordinates of the weight codec with the largest variance      latent_dim + 1
    noise              the original, plus noise of the norm of the autoencoder's error    none: not a code

A network of several windows has one code per window. All methods are fitted on the training split only. No number is
quantised.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.evaluation.weight_errors import kind_columns
from wscore.networks.layout import Layout
from wscore.pca import fit_pca
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache

Vectors = Float[np.ndarray, "networks weights"]
Block = Float[np.ndarray, "_ _"]  # one of several with different axes
Codec = Callable[[TokenBatch], Float[Tensor, "batch token dim"]]
AT_ONCE = 256  # windows passed through a codec at once


class LayoutGroup(NamedTuple):
    """Networks of one layout.

    Attributes:
        layout: of all networks.
        rows: their row numbers in the zoo (n,).
        weights: their weights (n, D), in raw units, hidden units in the order of the cache.
    """

    layout: Layout
    rows: np.ndarray
    weights: np.ndarray


@runtime_checkable
class Method(Protocol):
    """A compression method for networks."""

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return the reconstruction of each network, in raw units (n, D)."""
        ...

    def floats(self, layout: Layout) -> float | None:
        """Return the number of 32-bit floats stored per network, including the layout index; None if it is not a code."""
        ...


class TokenMethod:
    """A codec from normalised tokens to normalised tokens: the autoencoder, or PCA of the token matrix.

    Args:
        cache: of the tokens; provides windows, normalisation and its inverse.
        codec: returns reconstructed tokens (B, T, dim) of a batch.
        size: floats stored per window.
    """

    def __init__(self, cache: TokenCache, codec: Codec, size: int) -> None:
        self.cache, self.codec, self.size = cache, codec, size

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return the networks after passing all windows through the codec."""
        items = self.cache.items(group.rows)
        return np.stack(self.cache.to_weights(items, self.rebuild(items))).astype(np.float32, copy=False)

    def rebuild(self, items: np.ndarray) -> Float[Tensor, "batch token dim"]:
        """Return the normalised tokens of windows after the codec."""
        parts = np.array_split(items, -(-len(items) // AT_ONCE))
        with torch.no_grad():
            return torch.cat([self.codec(self.cache.batch(part)).cpu() for part in parts])

    def floats(self, layout: Layout) -> float:
        """Return windows x size + 1."""
        windows = self.cache.table["window"].to_numpy(int)[self.cache.table["layout"].to_numpy() == layout.identity]
        return (windows.max(initial=0) + 1.0) * self.size + 1


class MeanNetwork:
    """The mean training network of each layout; for unseen layouts, the mean training weight of each kind of tensor.

    Args:
        batches: training networks (layout, weights (n, D)), each once.
    """

    def __init__(self, batches: Iterable[tuple[Layout, Block]]) -> None:
        sums: dict[str, np.ndarray] = {}
        counts: dict[str, int] = {}
        kinds: dict[str, list[float]] = {}
        for layout, vectors in batches:
            total = vectors.sum(axis=0, dtype=np.float64)
            sums[layout.identity] = sums.get(layout.identity, 0.0) + total
            counts[layout.identity] = counts.get(layout.identity, 0) + len(vectors)
            for kind, columns in kind_columns(layout).items():
                above, below = kinds.get(kind, (0.0, 0.0))
                kinds[kind] = [above + float(total[columns].sum()), below + float(columns.size * len(vectors))]
        self.means = {key: sums[key] / counts[key] for key in sums}
        self.kinds = {kind: above / below for kind, (above, below) in kinds.items()}

    def mean(self, layout: Layout) -> Float[np.ndarray, " weights"]:
        """Return the mean network (D,) of a layout in float64."""
        if layout.identity in self.means:
            return self.means[layout.identity]
        return np.concatenate([np.full(spec.size, self.kinds.get(spec.kind, 0.0)) for spec in layout.tensors])

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return the same network for all."""
        return np.tile(self.mean(group.layout).astype(np.float32), (len(group.weights), 1))

    def floats(self, layout: Layout) -> float:  # noqa: ARG002
        """Return 1: the layout index."""
        return 1.0


class TokenPca:
    """PCA codec over whole token matrices: (B, T, dim) flattened, as input to the autoencoder.

    Entries that are padding in every fitted window are excluded from the fit and reconstructed as 0.

    Args:
        cache: of the tokens.
        items: windows to fit.
        components: as many as the autoencoder has latent dimensions.
        batch_size: windows read at once.
        seed: of the initial guess.
    """

    def __init__(self, cache: TokenCache, items: np.ndarray, components: int, *, batch_size: int, seed: int) -> None:
        parts = np.array_split(items, max(1, -(-len(items) // batch_size)))
        used = np.any([cache.batch(part).mask.flatten(1).any(dim=0).numpy() for part in parts], axis=0)
        self.columns = np.flatnonzero(used)
        stream = lambda: (_flat_tokens(cache.batch(part))[:, self.columns] for part in parts)  # noqa: E731
        self.pca = fit_pca(stream, components, seed=seed)
        scores = [(part - self.pca.mean) @ self.pca.basis.T for part in stream()]
        self.spread = max(float(np.sqrt(np.mean(np.concatenate(scores) ** 2))) if self.pca.basis.size else 0.0, 1e-12)

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch token dim"]:
        """Return the tokens projected onto the components."""
        x = _flat_tokens(batch)
        rebuilt = np.zeros_like(x)
        rebuilt[:, self.columns] = self.pca.project(x[:, self.columns])
        return torch.from_numpy(rebuilt).view_as(batch.tokens)


class LayoutPca(TokenMethod):
    """PCA by layout (and window): one basis each, so that no component is spent on distinguishing layouts.

    Layouts without training networks are reconstructed as zeros in normalised units.

    Args:
        cache: of the tokens; the training split is fitted.
        components: per window, as many as the autoencoder has latent dimensions.
        batch_size: windows read at once.
        seed: of the initial guess.
    """

    def __init__(self, cache: TokenCache, components: int, *, batch_size: int, seed: int) -> None:
        super().__init__(cache, lambda batch: batch.tokens, components)
        items = np.asarray(cache.indices("train"))
        self.fits = {
            key: TokenPca(cache, items[rows], components, batch_size=batch_size, seed=seed)
            for key, rows in self.kinds(items).items()
        }

    def rebuild(self, items: np.ndarray) -> Float[Tensor, "batch token dim"]:
        """Return the tokens of windows projected onto the components of their layout."""
        batch = self.cache.batch(items)
        tokens = torch.zeros_like(batch.tokens)
        for key, rows in self.kinds(items).items():
            if key in self.fits:
                tokens[rows] = self.fits[key](TokenBatch(*(part[rows] for part in batch)))
        return tokens

    def kinds(self, items: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
        """Return the indices among these items of each layout and window."""
        return self.cache.table.iloc[items].groupby(["layout", "window"], sort=True).indices  # pyright: ignore


class CodecCoordinates:
    """As many coordinates of the weight codec as another method stores: those of largest variance in the training networks.

    Errors count as they change outputs there. All other coordinates are at their mean, which is 0.

    Args:
        codec: fitted on the training split.
        other: method whose size is matched.
    """

    def __init__(self, codec: WeightCodec, other: TokenMethod) -> None:
        self.codec, self.other = codec, other

    @torch.no_grad()
    def restore(self, group: LayoutGroup) -> Vectors:
        """Return the networks with the other coordinates at their mean."""
        code = self.codec.coordinates(group.layout)
        kept = code.log_stds.argsort(descending=True, stable=True)[: int(self.floats(group.layout)) - 1]
        coordinates = code.forward(torch.from_numpy(group.weights))  # (n, D)
        cut = torch.zeros_like(coordinates).index_copy(1, kept, coordinates[:, kept])
        return code.inverse(cut).numpy()

    def floats(self, layout: Layout) -> float:
        """Return the floats of the other method."""
        return self.other.floats(layout)


class Noise:
    """The original plus Gaussian noise whose norm is that of another method's error, network by network.

    Args:
        other: method whose error norm is matched.
        seed: of the noise, which depends only on it and on the network's row.
    """

    def __init__(self, other: Method, *, seed: int) -> None:
        self.other, self.seed = other, seed

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return w + |w - w^| n / |n|."""
        size = np.linalg.norm(group.weights.astype(np.float64) - self.other.restore(group), axis=1)
        directions = np.stack([self._direction(int(row), group.layout.size) for row in group.rows])
        return (group.weights + size[:, None] * directions).astype(np.float32)

    def floats(self, layout: Layout) -> None:
        """Return None: noise stores nothing."""

    def _direction(self, row: int, size: int) -> np.ndarray:
        noise = np.random.default_rng((self.seed, row)).standard_normal(size)
        return noise / np.linalg.norm(noise)


def _flat_tokens(batch: TokenBatch) -> np.ndarray:
    return torch.where(batch.mask, batch.tokens, 0).flatten(1).cpu().numpy()
