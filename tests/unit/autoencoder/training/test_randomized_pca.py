"""Streamed principal components agree with scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from wscore.autoencoder.training.randomized_pca import pca
from wscore.errors import DataError


def test_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    networks = (rng.standard_normal((60, 30)) * np.linspace(3, 0.1, 30) + 1).astype(np.float32)
    found = pca(lambda: iter(np.array_split(networks, 4)), 5, seed=0)
    rival = PCA(5).fit(networks)
    assert np.allclose(np.abs(np.sum(found.vectors.T * rival.components_, axis=1)), 1, atol=1e-3)
    assert np.allclose(found.variances, rival.explained_variance_ * 59 / 60, rtol=1e-3)
    assert np.allclose(found.mean, networks.mean(0), atol=1e-5)


def test_rank_is_bounded_by_networks_and_weights() -> None:
    networks = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
    found = pca(lambda: iter([networks]), 10, seed=0)
    assert found.vectors.shape == (30, 3)
    centred = networks - found.mean
    assert np.allclose(centred @ found.vectors @ found.vectors.T, centred, atol=1e-4)


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(DataError, match="no network"):
        pca(lambda: iter([]), 3, seed=0)
