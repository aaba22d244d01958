"""PCA of unaligned networks, a control for the benefit of alignment."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from wscore.autoencoder.evaluation.controls import LayoutGroup, Size
from wscore.networks.layout import Layout
from wscore.pca import Pca, fit_pca
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

Vectors = Float[np.ndarray, "networks weights"]


class UnalignedPca:
    """PCA by layout, in normalised units, of networks in their original unit order.

    Reconstructions are permuted to the order of the cache, so that they are compared with the same networks as every other
    method. Layouts without training networks are reconstructed as zeros in normalised units.

    Args:
        zoo: the original networks.
        cache: provides splits, normalisation and order.
        components: components stored per network.
        batch_size: networks read at once.
        seed: of the initial guess.
        kept: floats that store them, for all or by layout; None for one each.
    """

    def __init__(
        self, zoo: Zoo, cache: TokenCache, components: int, *, batch_size: int, seed: int,
        kept: Size | None = None,
    ) -> None:  # fmt: skip
        self.kept = components if kept is None else kept
        self.zoo, self.cache, self.components, self.batch_size = zoo, cache, components, batch_size
        table = cache.table.iloc[cache.indices("train")]
        names, rows = table["layout"].to_numpy(str), table["row"].to_numpy(int)
        self.fits = {
            str(name): self._fit(cache.layouts[str(name)], np.unique(rows[names == name]), seed)
            for name in np.unique(names)
        }

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return networks projected onto the components of their layout, hidden units in the order of the cache."""
        layout = group.layout
        known = self.fits.get(layout.identity)
        normal = self._normal(layout, group.rows)
        projected = np.zeros_like(normal) if known is None else known.project(normal).astype(np.float32)
        restored = np.asarray(self.cache.normalizer.restore(layout, projected), np.float32)
        alignment = self.cache.alignment
        if layout.identity not in alignment.references:
            return restored
        return alignment.permute(layout, restored, alignment.match(layout, self._last(group.rows)))

    def floats(self, layout: Layout) -> float:
        """Return the floats of the components + 1 for the layout index, or the size given for the layout."""
        return self.kept[layout.identity] if isinstance(self.kept, Mapping) else self.kept + 1.0

    def _fit(self, layout: Layout, rows: np.ndarray, seed: int) -> Pca:
        def stream() -> Iterator[np.ndarray]:
            for part in np.array_split(rows, -(-len(rows) // self.batch_size)):
                yield self._normal(layout, part)

        return fit_pca(stream, self.components, seed=seed)

    def _normal(self, layout: Layout, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.cache.normalizer.normalize(layout, self.zoo.weights(rows).astype(np.float32)))

    def _last(self, rows: np.ndarray) -> np.ndarray:
        """Return the weights of the last checkpoint of the run of each row (of one layout), which determines the order."""
        table = self.zoo.table
        alike = np.flatnonzero(table["layout"] == table["layout"].iloc[rows[0]])
        last = self.zoo.last_checkpoints(alike)
        of_run = dict(zip(table["run_id"].iloc[last], last.tolist(), strict=True))
        return self.zoo.weights([of_run[run] for run in table["run_id"].iloc[rows]])
