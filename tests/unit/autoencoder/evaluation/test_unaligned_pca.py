"""PCA without alignment: exact where components suffice, in the order of the cache, worse than with it where they don't."""

from pathlib import Path

import numpy as np
import pytest

from wscore.autoencoder.evaluation.controls import LayoutGroup
from wscore.autoencoder.evaluation.unaligned_pca import UnalignedPca
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo


@pytest.fixture(scope="module")
def cache(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=512, align="weights", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tiny_zoo), config, folder)
    return TokenCache(folder)


def test_training_networks_come_back_in_the_order_of_the_cache(tiny_zoo: Path, cache: TokenCache) -> None:
    zoo = Zoo(tiny_zoo)
    method = UnalignedPca(zoo, cache, 50, batch_size=4, seed=0)
    moved = 0
    for _, layout, members in zoo.families():
        rows = np.intersect1d(members, cache.table["row"].to_numpy()[cache.indices("train")])
        if not len(rows):
            continue
        expected = cache.weights(rows)
        assert np.allclose(method.restore(LayoutGroup(layout, rows, expected)), expected, atol=1e-2)
        moved += not np.allclose(expected, zoo.weights(rows))
    assert moved
    assert method.floats(layout) == 51
