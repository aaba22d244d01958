"""Diversity and novelty: distances of networks from each other and from the nearest training network.

Distances are Euclidean, between networks of one layout, in normalised units: in raw units a few running variances
would dominate.
"""

import numpy as np
from jaxtyping import Float

from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache

Vectors = Float[np.ndarray, "networks weights"]
MOST = 256  # maximum number of networks per layout compared with each other
MOST_TRAINED = 2048  # maximum number of training networks per layout searched for the nearest


class TrainingNetworks:
    """Normalised training networks by layout, the first of each.

    Args:
        cache: of the tokens.
    """

    def __init__(self, cache: TokenCache) -> None:
        self.cache = cache
        parts: dict[str, list[np.ndarray]] = {}
        for layout, vectors in cache.of_split("train", MOST):
            known = parts.setdefault(layout.identity, [])
            budget_bytes = MOST_TRAINED - sum(map(len, known))
            known.append(self.normalize(layout, vectors[:budget_bytes]))
        self.networks = {name: np.concatenate(vectors) for name, vectors in parts.items()}

    def normalize(self, layout: Layout, vectors: Vectors) -> Vectors:
        """Normalise raw weights (n, D)."""
        return np.asarray(self.cache.normalizer.normalize(layout, vectors.astype(np.float32)))

    def nearest(self, layout: Layout, vectors: Vectors) -> Float[np.ndarray, " networks"]:
        """Return the distance of normalised networks to the nearest training network of their layout; NaN without one."""
        if layout.identity not in self.networks:
            return np.full(len(vectors), np.nan)
        return distances(vectors, self.networks[layout.identity]).min(axis=1)


class Spread:
    """Collects reconstructions of a method, up to `MOST` per layout.

    Args:
        training: training networks; provides the normalisation.
    """

    def __init__(self, training: TrainingNetworks) -> None:
        self.training = training
        self.layouts: dict[str, Layout] = {}
        self.originals: dict[str, list[np.ndarray]] = {}
        self.rebuilt: dict[str, list[np.ndarray]] = {}

    def add(self, layout: Layout, original: Vectors, rebuilt: Vectors) -> None:
        """Add raw networks (n, D) of one layout and their reconstructions."""
        self.layouts[layout.identity] = layout
        budget_bytes = MOST - sum(map(len, self.originals.get(layout.identity, [])))
        for store, vectors in ((self.originals, original), (self.rebuilt, rebuilt)):
            store.setdefault(layout.identity, []).append(self.training.normalize(layout, vectors[:budget_bytes]))

    def summary(self) -> dict[str, float]:
        """Return diversity and novelty, means over networks.

        diversity: mean distance between two reconstructed networks over that between their originals: 0 if all are equal.
        nearest_training_distance: distance to the nearest training network over that of the original: 0 for a copy.
        """
        pairs = {"diversity": pairwise, "nearest_training_distance": self._nearest}
        ratios = {}
        for name, measure in pairs.items():
            above, below = (self._total(store, measure) for store in (self.rebuilt, self.originals))
            ratios[name] = above / below if below else float("nan")
        return ratios

    def _nearest(self, layout: Layout, vectors: Vectors) -> float:
        return float(self.training.nearest(layout, vectors).mean())

    def _total(self, store: dict[str, list[np.ndarray]], measure) -> float:
        total = 0.0
        for name, parts in store.items():
            vectors = np.concatenate(parts)
            value = measure(self.layouts[name], vectors)
            total += len(vectors) * value if np.isfinite(value) else 0.0
        return total


def pairwise(layout: Layout, vectors: Vectors) -> float:  # noqa: ARG001
    """Return the mean distance between two different networks; NaN for fewer than two."""
    count = len(vectors)
    return float(distances(vectors, vectors).sum() / (count * (count - 1))) if count > 1 else float("nan")


def distances(first: Vectors, second: Float[np.ndarray, "others weights"]) -> Float[np.ndarray, "networks others"]:
    """Return the Euclidean distances between networks (n, D) and others (m, D), in float64."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    if first is second:
        np.fill_diagonal(squares, 0.0)
    return np.sqrt(np.maximum(squares, 0.0))
