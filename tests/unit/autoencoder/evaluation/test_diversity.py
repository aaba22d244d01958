"""Diversity and novelty against loops, and their extremes: one network for all, copies of training networks."""

from pathlib import Path

import numpy as np
import pytest

from wscore.autoencoder.evaluation.diversity import Spread, TrainingNetworks, distances, pairwise
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo


@pytest.fixture(scope="module")
def cache(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=512, align="none", normalization="none",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tiny_zoo), config, folder)
    return TokenCache(folder)


def test_distances_are_those_of_a_loop() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 4, 9)).astype(np.float32)
    expected = [[np.linalg.norm(a - b) for b in second] for a in first]
    assert np.allclose(distances(first, second), expected, atol=1e-5)


def test_mean_pairwise_distance_by_hand(cache: TokenCache) -> None:
    layout = cache.layout(0)
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], np.float32)
    assert pairwise(layout, points) == pytest.approx(10 / 3)
    assert np.isnan(pairwise(layout, points[:1]))


def test_originals_are_as_diverse_and_novel_as_themselves_one_network_for_all_is_not(cache: TokenCache) -> None:
    training, layout = TrainingNetworks(cache), cache.layout(0)
    same, collapsed, copies = Spread(training), Spread(training), Spread(training)
    networks = np.random.default_rng(0).standard_normal((5, layout.size)).astype(np.float32)
    same.add(layout, networks, networks)
    collapsed.add(layout, networks, np.tile(networks.mean(0), (5, 1)))
    copies.add(layout, networks, np.repeat(training.networks[layout.identity][:1], 5, axis=0))
    assert same.summary() == {"diversity": 1.0, "nearest_training_distance": 1.0}
    assert collapsed.summary()["diversity"] == pytest.approx(0, abs=1e-6)
    assert copies.summary()["nearest_training_distance"] == pytest.approx(0, abs=1e-3)


def test_training_networks_are_those_of_the_training_split(cache: TokenCache) -> None:
    training = TrainingNetworks(cache)
    assert sum(map(len, training.networks.values())) == len(cache.indices("train"))
