"""PCA of matrices that are streamed in batches, in several passes, and never held in memory.

Subspace iteration on the covariance (Halko, Martinsson & Tropp 2011, "Finding structure with randomness", algorithm 4.4, with
the covariance applied in one pass). Memory is columns x (components + 16). Exact where the components reach the rank.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Stream = Callable[
    [], Iterable[Float[np.ndarray, "_ _"]]
]  # batches (rows, columns) of any length, the same at each call
Product = Callable[[Float[np.ndarray, "columns width"]], Float[np.ndarray, "columns width"]]
OVERSAMPLE, ROUNDS = 16, 8


class Pca(NamedTuple):
    """A mean and the directions of largest variance.

    Attributes:
        mean: of the columns.
        basis: orthonormal rows, by decreasing variance.
        variances: mean square of the coordinates along each of them.
    """

    mean: Float[np.ndarray, " columns"]
    basis: Float[np.ndarray, "components columns"]
    variances: Float[np.ndarray, " components"]

    def project(self, x: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """Return the rows projected onto the components: mean + (x - mean) basis^T basis."""
        return self.mean + (x - self.mean) @ self.basis.T @ self.basis


def fit_pca(stream: Stream, components: int, *, seed: int) -> Pca:
    """Return the first principal components of a matrix, with Rayleigh-Ritz on the scores at the end.

    Args:
        stream: returns the batches.
        components: requested number; at most min(rows - 1, columns) exist.
        seed: of the initial guess.
    """
    rows, mean = stream_mean(stream)
    mean = mean.astype(np.float32)
    width = min(components + OVERSAMPLE, max(rows - 1, 0), mean.size)
    basis = subspace(lambda vectors: scatter(stream, mean, vectors), mean.size, width, seed)
    scores = [(batch - mean) @ basis for batch in stream()]
    gram = sum((part.T.astype(np.float64) @ part for part in scores), np.zeros((width, width)))
    values, vectors = np.linalg.eigh(gram)
    directions = vectors[:, ::-1][:, :components].astype(np.float32)
    variances = np.maximum(values[::-1][:components], 0) / max(rows, 1)
    return Pca(mean, np.ascontiguousarray((basis @ directions).T), variances)


def subspace(product: Product, size: int, width: int, seed: int) -> Float[np.ndarray, "size width"]:
    """Return an orthonormal basis (columns) of approximately the leading eigenspace of a symmetric matrix.

    Args:
        product: multiplies the matrix with the columns of another one.
        size: of the matrix.
        width: columns of the basis; slightly more than the eigenvectors of interest.
        seed: of the initial guess.
    """
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, width)))[0].astype(np.float32)
    for _ in range(ROUNDS):
        basis = np.linalg.qr(product(basis))[0].astype(np.float32)
    return basis


def stream_mean(stream: Stream) -> tuple[int, Float[np.ndarray, " columns"]]:
    """Return the count of rows and the mean of the columns in float64."""
    rows, total = 0, np.zeros(1)
    for batch in stream():
        rows, total = rows + len(batch), total + batch.sum(axis=0, dtype=np.float64)
    return rows, total / max(rows, 1)


def scatter(
    stream: Stream, mean: Float[np.ndarray, " columns"], vectors: Float[np.ndarray, "columns width"]
) -> Float[np.ndarray, "columns width"]:
    """Return the sum of (x - mean)^T (x - mean) vectors over the rows x, summed in float64."""
    total = np.zeros(vectors.shape)
    for batch in stream():
        centred = batch - mean
        total += centred.T @ (centred @ vectors)
    return total
