"""PCA of snapshots in float64, for far fewer rows than columns."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.errors import DataError

RELATIVE_RANK = 1e-6  # components with a smaller share of the largest eigenvalue are numerical noise
COLUMNS_AT_ONCE = 65_536


class SnapshotPca(NamedTuple):
    """Mean and principal directions of snapshots.

    Attributes:
        mean: (D,) float32.
        components: (R, D) float32, orthonormal rows, by decreasing variance.
        variances: (R,) float64, variance along each (divided by n - 1).
        numerical_rank: number of directions above numerical noise.
    """

    mean: Float[Tensor, " weights"]
    components: Float[Tensor, "rank weights"]
    variances: Float[np.ndarray, " rank"]
    numerical_rank: int


def fit_snapshot_pca(parts: Sequence[Float[np.ndarray, "_ weights"]], ceiling: int) -> SnapshotPca:
    """Return the principal components of the n rows of some arrays, from their n x n Gram matrix.

    Their number is min(ceiling, n - 1, numerical rank). The largest entry of each direction is positive, as in
    scikit-learn.

    Raises:
        DataError: if there are fewer than two rows or they are all equal.
    """
    count = sum(len(snapshots) for snapshots in parts)
    blocks = [(start, start + COLUMNS_AT_ONCE) for start in range(0, parts[0].shape[1], COLUMNS_AT_ONCE)]
    gram = np.zeros((count, count))
    for start, stop in blocks:
        centred, _ = _centred(parts, start, stop)
        gram += centred @ centred.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    if count < 2 or values[0] <= 0:
        raise DataError("snapshots do not differ, so they have no principal components", got=f"{count} snapshots")
    numerical = min(count - 1, int((values > RELATIVE_RANK * values[0]).sum()))
    rank = min(ceiling, numerical)
    mixing = vectors[:, :rank] / np.sqrt(values[:rank])  # (n, R)
    means, components = zip(*(_directions(parts, mixing, block) for block in blocks), strict=True)
    signed = _with_signs(np.concatenate(components, axis=1))
    mean = torch.from_numpy(np.concatenate(means).astype(np.float32))
    return SnapshotPca(mean, torch.from_numpy(signed.astype(np.float32)), values[:rank] / (count - 1), numerical)


def _centred(parts: Sequence[np.ndarray], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.concatenate([snapshots[:, start:stop] for snapshots in parts]).astype(np.float64)
    mean = rows.mean(axis=0)
    return rows - mean, mean


def _directions(
    parts: Sequence[np.ndarray], mixing: np.ndarray, block: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    centred, mean = _centred(parts, *block)
    return mean, mixing.T @ centred


def _with_signs(components: np.ndarray) -> np.ndarray:
    largest = np.abs(components).argmax(axis=1)
    return components * np.sign(components[np.arange(len(components)), largest])[:, None]
