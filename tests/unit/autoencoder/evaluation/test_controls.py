import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import Population
from wscore.autoencoder.evaluation.controls import (
    CodecCoordinates,
    LayoutGroup,
    LayoutPca,
    MeanNetwork,
    Noise,
    TokenMethod,
    TokenPca,
)
from wscore.networks.layout import layout_of
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

LAYOUT = layout_of({"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)})
CONFIG = {
    "granularity": "neuron", "chunk_size": 32, "max_tokens": 512, "align": "none",
    "normalization": "layer",
    "unseen_widths": {}, "validation_fraction": 0.2, "test_fraction": 0.3, "seed": 0,
}  # fmt: skip


def vectors(n, size=LAYOUT.size, seed=0):
    return np.random.default_rng(seed).normal(size=(n, size)).astype(np.float32)


def group(weights, layout=LAYOUT):
    return LayoutGroup(layout, np.arange(len(weights)), weights)


@pytest.fixture(scope="module")
def zoo(tiny_zoo):
    return Zoo(tiny_zoo)


@pytest.fixture(scope="module", params=[512, 7], ids=["whole", "windows"])
def cache(request, zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    build_cache(zoo, TokensConfig(**CONFIG | {"max_tokens": request.param}), folder)
    return TokenCache(folder)


def networks(zoo, cache, split, layout):
    rows = np.unique(cache.table["row"][cache.indices(split)])
    chosen = rows[[zoo.table["layout"].iloc[row] == layout for row in rows]]
    return LayoutGroup(zoo.layouts[layout], chosen, zoo.weights(chosen))


def layouts_of(zoo, cache, split):
    return sorted(set(cache.table["layout"][cache.indices(split)]))


def test_mean_network_equals_numpy():
    weights = vectors(7)
    mean = MeanNetwork([(LAYOUT, weights[:3]), (LAYOUT, weights[3:])])
    restored = mean.restore(group(vectors(4, seed=1)))
    np.testing.assert_allclose(restored, np.tile(weights.mean(0), (4, 1)), atol=1e-6)
    assert mean.floats(LAYOUT) == 1


def test_mean_network_of_an_unseen_layout_is_the_mean_of_each_kind():
    weights = vectors(7)
    other = layout_of(
        {"other.weight": torch.zeros(1, 2), "other.bias": torch.zeros(1), "x.running_var": torch.zeros(1)}
    )
    mean = MeanNetwork([(LAYOUT, weights)]).mean(other)
    kernel, bias = weights[:, :6].mean(), weights[:, 6:].mean()
    np.testing.assert_allclose(mean, [kernel, kernel, bias, 0], rtol=1e-5)


class Halved:
    """Gives back half of every weight."""

    def restore(self, group):
        return group.weights / 2

    def floats(self, layout):
        return 3.0 if layout else None


def test_noise_is_as_far_away_as_the_other_method():
    weights = vectors(6)
    noise = Noise(Halved(), seed=0)
    restored = noise.restore(group(weights))
    np.testing.assert_allclose(
        np.linalg.norm(restored - weights, axis=1), np.linalg.norm(weights / 2, axis=1), rtol=1e-5
    )
    assert noise.floats(LAYOUT) is None


def test_noise_of_a_network_does_not_depend_on_its_neighbours():
    weights = vectors(6)
    noise = Noise(Halved(), seed=0)
    part = LayoutGroup(LAYOUT, np.arange(2, 6), weights[2:])
    np.testing.assert_allclose(noise.restore(group(weights))[2:], noise.restore(part), rtol=1e-5)


def test_a_perfect_codec_gives_the_networks_back(zoo, cache):
    method = TokenMethod(cache, lambda batch: batch.tokens, 4)
    for layout in layouts_of(zoo, cache, "test"):
        some = networks(zoo, cache, "test", layout)
        np.testing.assert_allclose(method.restore(some), some.weights, atol=1e-4)
        windows = cache.table.loc[cache.table["layout"] == layout, "window"].nunique()
        assert method.floats(some.layout) == 4 * windows + 1


def test_rows_keep_their_order(zoo, cache):
    method = TokenMethod(cache, lambda batch: batch.tokens, 4)
    layout = layouts_of(zoo, cache, "train")[0]
    some = networks(zoo, cache, "train", layout)
    back = LayoutGroup(some.layout, some.rows[::-1], some.weights[::-1])
    np.testing.assert_allclose(method.restore(back), method.restore(some)[::-1], rtol=1e-5, atol=1e-6)


def test_token_pca_is_pca_of_the_padded_normalised_matrix(zoo, cache):
    train = cache.indices("train")
    matrix = cache.batch(train).tokens.flatten(1).numpy()
    known = PCA(3, svd_solver="full").fit(matrix)
    codec = TokenPca(cache, train, 3, batch_size=4, seed=0)
    batch = cache.batch(cache.indices("test"))
    expected = known.inverse_transform(known.transform(batch.tokens.flatten(1).numpy())).reshape(batch.tokens.shape)
    np.testing.assert_allclose(codec(batch).numpy(), expected, atol=5e-3)


def test_padding_never_reaches_pca(zoo, cache):
    codec = TokenPca(cache, cache.indices("train"), 3, batch_size=4, seed=0)
    batch = cache.batch(cache.indices("test"))
    dirty = batch._replace(tokens=torch.where(batch.mask, batch.tokens, 1e6))
    torch.testing.assert_close(codec(dirty), codec(batch))


def test_layout_pca_fits_each_layout_by_itself(zoo, cache):
    """With as many components as training networks allow, they come back whatever the other layouts are."""
    method = LayoutPca(cache, 64, batch_size=4, seed=0)
    for layout in layouts_of(zoo, cache, "train"):
        some = networks(zoo, cache, "train", layout)
        np.testing.assert_allclose(method.restore(some), some.weights, atol=2e-3)


def test_layout_pca_without_training_networks_gives_normal_zeros(zoo, cache):
    method = LayoutPca(cache, 2, batch_size=4, seed=0)
    layout = layouts_of(zoo, cache, "train")[0]
    method.fits = {}
    some = networks(zoo, cache, "train", layout)
    expected = cache.normalizer.restore(some.layout, np.zeros_like(some.weights))
    np.testing.assert_allclose(method.restore(some), expected, atol=1e-6)


def test_coordinates_of_the_codec_are_those_of_largest_variance_and_all_of_them_are_the_network(zoo, cache):
    layout = layouts_of(zoo, cache, "train")[0]
    some = networks(zoo, cache, "train", layout)
    codec = WeightCodec.fit([Population(some.layout, some.weights, None, None)])
    errors = [
        float(
            np.square(
                CodecCoordinates(codec, TokenMethod(cache, lambda batch: batch.tokens, size)).restore(some)
                - some.weights
            ).sum()
        )
        for size in (2, 20, some.layout.size)
    ]
    assert errors[0] > errors[1] > 1e-2
    assert errors[2] < 1e-4
    code, stored = codec.coordinates(some.layout), TokenMethod(cache, lambda batch: batch.tokens, 2)
    kept = int(stored.floats(some.layout)) - 1
    cut = code.forward(torch.from_numpy(CodecCoordinates(codec, stored).restore(some)))
    alive = (cut.abs() > 1e-3).any(0)
    assert int(alive.sum()) <= kept
    assert code.log_stds[alive].min() >= code.log_stds.sort(descending=True).values[kept - 1]
