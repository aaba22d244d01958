"""Linear bases of weight vectors, fitted by streaming over blocks of networks."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wscore.errors import DataError

Blocks = Callable[[], Iterator[np.ndarray]]
OVERSAMPLING = 32
PASSES = 8


class Basis(NamedTuple):
    """An orthonormal basis of the directions in which networks differ most.

    Attributes:
        mean: of the networks.
        vectors: orthonormal columns, by falling variance.
        variances: mean square of the networks' coordinates along each of them.
    """

    mean: Float32[np.ndarray, " weights"]
    vectors: Float32[np.ndarray, "weights rank"]
    variances: Float32[np.ndarray, " rank"]

    def error(self, networks: Float32[np.ndarray, "networks weights"]) -> float:
        """Return the sum of the squared errors with which networks come back from their coordinates."""
        centred = networks - self.mean
        return float(np.square(centred).sum(dtype=np.float64) - np.square(centred @ self.vectors).sum(dtype=np.float64))


def pca(blocks: Blocks, rank: int, *, seed: int) -> Basis:
    """Return the first principal components of networks, by randomised subspace iteration.

    Memory is bounded by one block and a few matrices (D, rank); the blocks are read `PASSES` + 2 times. The basis is exact where
    the variances beyond the rank fall off, and loses next to no variance where they don't (Halko, Martinsson and Tropp, 2011).

    Args:
        blocks: returns an iterator over float32 arrays (n, D), the same at each call.
        rank: most components; there are fewer if there are fewer weights, or not more than so many networks.
        seed: of the random start.

    Raises:
        DataError: if there is no network.
    """
    count, mean = _mean(blocks)
    rank = min(rank, len(mean), count - 1)
    width = min(rank + OVERSAMPLING, len(mean))
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(mean), width)))[0].astype(np.float32)
    for _ in range(PASSES):
        vectors = np.linalg.qr(_covariance_times(blocks, mean, vectors) / count)[0]
    small = vectors.T @ _covariance_times(blocks, mean, vectors) / count
    variances, rotation = np.linalg.eigh((small + small.T).astype(np.float64) / 2)
    order = np.argsort(-variances, kind="stable")[:rank]
    vectors = _oriented(vectors @ rotation[:, order])
    return Basis(mean, vectors.astype(np.float32), np.maximum(variances[order], 0).astype(np.float32))


def _mean(blocks: Blocks) -> tuple[int, np.ndarray]:
    count, total = 0, np.zeros(0)
    for block in blocks():
        total = block.sum(0, dtype=np.float64) + (total if count else 0)
        count += len(block)
    if not count:
        raise DataError("there is no network to fit a basis to", expected="at least one")
    return count, (total / count).astype(np.float32)


def _covariance_times(blocks: Blocks, mean: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    product = np.zeros_like(vectors)
    for block in blocks():
        centred = block - mean
        product += centred.T @ (centred @ vectors)
    return product


def _oriented(vectors: np.ndarray) -> np.ndarray:
    """Return the columns with signs such that the largest entry of each is positive."""
    if not vectors.size:
        return vectors
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
