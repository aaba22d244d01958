"""Streamed principal components agree with scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from wscore.pca import fit_pca


def low_rank(rows, columns, rank, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=(rows, rank)) * 2.0 ** -np.arange(rank) @ random.normal(size=(rank, columns))).astype(
        np.float32
    )


def batches(x, count=3):
    return lambda: iter(np.array_split(x, count))


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


@pytest.mark.parametrize("components", [1, 5, 12])
def test_pca_equals_scikit_learn(components):
    x = low_rank(60, 40, 20)
    test = low_rank(15, 40, 20, seed=1)
    known = PCA(components, svd_solver="full").fit(x)
    found = fit_pca(batches(x), components, seed=0)
    np.testing.assert_allclose(found.project(test), known.inverse_transform(known.transform(test)), atol=2e-4)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(components), atol=1e-5)
    np.testing.assert_allclose(found.variances, known.explained_variance_ * 59 / 60, rtol=1e-4)


def test_pca_of_a_flat_spectrum_is_nearly_as_good_as_the_exact_one():
    x = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
    known = PCA(30, svd_solver="full").fit(x)
    exact = ((x - known.inverse_transform(known.transform(x))) ** 2).sum()
    assert ((x - fit_pca(batches(x), 30, seed=0).project(x)) ** 2).sum() < 1.005 * exact


def test_pca_of_full_rank_is_exact():
    x = normal(20, 9)
    fit = fit_pca(batches(x), 9, seed=0)
    other = normal(4, 9, seed=1)
    np.testing.assert_allclose(fit.project(other), other, atol=1e-5)


def test_pca_does_not_depend_on_batches():
    x = low_rank(60, 40, 20)
    np.testing.assert_allclose(
        fit_pca(batches(x, 1), 5, seed=0).project(x), fit_pca(batches(x, 7), 5, seed=3).project(x), atol=1e-3
    )


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_pca_never_has_more_components_than_rows_allow(rows):
    x = normal(rows, 9)
    fit = fit_pca(batches(x, 1), 64, seed=0)
    assert fit.basis.shape == (rows - 1, 9)
    np.testing.assert_allclose(fit.project(x), x, atol=1e-5)
