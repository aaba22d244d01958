"""Barriers by hand; draws of a Gaussian have its moments."""

import numpy as np
import pandas as pd
import pytest

from studies.latents.latent_space import DRAWS, barriers, by_band, path_table
from studies.latents.latent_space import fitted_gaussian as gaussian


def test_a_barrier_is_the_deepest_fall_below_the_line_between_the_ends() -> None:
    rows = [
        {"pair": pair, "path": "latent", "t": t, "accuracy": accuracy}
        for pair, values in enumerate([(1.0, 0.5, 0.6), (0.4, 0.5, 0.6)])
        for t, accuracy in zip((0.0, 0.5, 1.0), values, strict=True)
    ]
    assert barriers(pd.DataFrame(rows)) == {"latent": pytest.approx((0.3 + 0.0) / 2)}


def test_tables_average_over_pairs_and_architectures() -> None:
    rows = [
        {"pair": n, "path": p, "t": 0.0, "accuracy": 0.1 * n}
        for n in (1, 3)
        for p in ("latent", "latent_residual", "aligned", "unaligned")
    ]
    assert path_table(pd.DataFrame(rows))["latent"].tolist() == pytest.approx([0.2])
    head = {"low": 0.0, "high": 1.0, "trained": 5, "accuracy_best": 1.0, "novelty": 1.0, "diversity": 0.5}
    table = pd.DataFrame([{**head, "method": m, "accuracy": a} for m in reversed(DRAWS) for a in (0.2, 0.4)])
    found = by_band(table)
    assert found["method"].tolist() == list(DRAWS)
    assert found["accuracy"].tolist() == pytest.approx([0.3] * len(DRAWS))
    assert found["trained"].tolist() == [10] * len(DRAWS)


def test_the_root_of_a_covariance_gives_draws_of_that_covariance() -> None:
    rng = np.random.default_rng(0)
    latents = (rng.standard_normal((5000, 3)) @ np.array([[2.0, 0, 0], [1, 1, 0], [0, 0, 0.1]])).astype(np.float32)
    mean, root = gaussian(latents)
    assert np.allclose(root @ root.T, np.cov(latents.T), atol=0.1)
    assert np.allclose(mean, latents.mean(0))
