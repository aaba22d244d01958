"""Linear bases of weight vectors, fitted by streaming over blocks of networks."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wscore.autoencoder.training.symmetric_covariance import Exchangeable
from wscore.errors import DataError

Blocks = Callable[[], Iterator[np.ndarray]]
Product = Callable[[np.ndarray], np.ndarray]
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


def pca(blocks: Blocks, rank: int, *, seed: int, units: Exchangeable | None = None, symmetry: float = 0.0) -> Basis:
    """Return the first principal components of networks, by randomised subspace iteration.

    They are the leading eigenvectors of (1 - s) C + s C', where C is the covariance of the networks and C' its average over all
    orders of their hidden units, both about the mean mixed likewise. s > 0 helps where there are few networks for their length.

    Memory is bounded by one block and a few matrices (D, rank); the blocks are read `PASSES` + 3 times. The basis is exact where
    the variances beyond the rank fall off, and loses next to no variance where they don't (Halko, Martinsson and Tropp, 2011).

    Args:
        blocks: returns an iterator over float32 arrays (n, D), the same at each call.
        rank: most components; there are fewer if there are fewer weights or, without s, not more than so many networks.
        seed: of the random start.
        units: hidden units of the networks; not needed without s.
        symmetry: the share s, from 0 to 1.

    Raises:
        DataError: if there is no network.
    """
    count, mean = _mean(blocks)
    if units is not None and symmetry > 0:
        mean = (1 - symmetry) * mean + symmetry * units.average(mean)
    mean = mean.astype(np.float32)
    product = _mixed(blocks, mean, units, symmetry)
    rank = min(rank, len(mean), len(mean) if symmetry > 0 and units is not None else count - 1)
    width = min(rank + OVERSAMPLING, len(mean))
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(mean), width)))[0].astype(np.float32)
    for _ in range(PASSES):
        vectors = np.linalg.qr(product(vectors))[0]
    small = (vectors.T @ product(vectors)).astype(np.float64)
    variances, rotation = np.linalg.eigh((small + small.T) / 2)
    order = np.argsort(-variances, kind="stable")[:rank]
    vectors = oriented(vectors @ rotation[:, order])
    return Basis(mean, vectors.astype(np.float32), np.maximum(variances[order], 0).astype(np.float32))


def _mixed(blocks: Blocks, mean: np.ndarray, units: Exchangeable | None, symmetry: float) -> Product:
    """Return the function V -> ((1 - s) C + s C') V."""
    if units is None or symmetry <= 0:
        return lambda vectors: _times(blocks, mean, vectors)
    averaged = units.covariance(blocks(), mean)
    if symmetry >= 1:
        return averaged
    return lambda vectors: (1 - symmetry) * _times(blocks, mean, vectors) + symmetry * averaged(vectors)


def _mean(blocks: Blocks) -> tuple[int, np.ndarray]:
    count, total = 0, np.zeros(0)
    for block in blocks():
        total = block.sum(0, dtype=np.float64) + (total if count else 0)
        count += len(block)
    if not count:
        raise DataError("there is no network to fit a basis to", expected="at least one")
    return count, total / count


def _times(blocks: Blocks, mean: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the covariance about `mean` times vectors."""
    count, product = 0, np.zeros_like(vectors)
    for block in blocks():
        centred = block - mean
        product += centred.T @ (centred @ vectors)
        count += len(block)
    return product / np.float32(count)


def oriented(vectors: np.ndarray) -> np.ndarray:
    """Return the columns with signs such that the largest entry of each is positive."""
    if not vectors.size:
        return vectors
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
