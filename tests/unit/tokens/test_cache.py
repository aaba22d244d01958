import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch

from wscore.errors import DataError
from wscore.io import read_json, write_json
from wscore.networks.layout import layout_of
from wscore.tokens import writer as blocks
from wscore.tokens.cache import TokenCache, build_cache, summarize
from wscore.tokens.config import TokensConfig
from wscore.tokens.index import group_places
from wscore.tokens.manifest import FILES
from wscore.zoo.store import Zoo, write_layouts, write_part

CONFIG = {
    "granularity": "neuron", "chunk_size": 32, "max_tokens": 512, "align": "none",
    "normalization": "layer",
    "unseen_widths": {}, "validation_fraction": 0.2, "test_fraction": 0.3, "seed": 0,
}  # fmt: skip
WINDOWS = {"whole": 512, "windows": 7}
LINEAR = layout_of({"fc.weight": torch.zeros(4, 5), "fc.bias": torch.zeros(4)})


def configured(**change):
    return TokensConfig(**CONFIG | change)


@pytest.fixture(scope="module")
def zoo(tiny_zoo):
    return Zoo(tiny_zoo)


@pytest.fixture(scope="module")
def weights(zoo):
    return [vector.copy() for _, vector in zoo.stream()]


@pytest.fixture(scope="module", params=[(g, w) for g in ("neuron", "chunk") for w in WINDOWS], ids="-".join)
def cache(request, zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    build_cache(zoo, configured(granularity=request.param[0], max_tokens=WINDOWS[request.param[1]]), folder)
    return TokenCache(folder)


@pytest.fixture(scope="module")
def plain(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    build_cache(zoo, configured(normalization="none", max_tokens=7), folder)
    return TokenCache(folder)


def write_zoo(folder, vectors, layout=LINEAR):
    """A zoo of one run per network."""
    table = pd.DataFrame({"model_id": [f"net-{number}" for number in range(len(vectors))]})
    table = table.assign(run_id=table["model_id"], checkpoint=0, layout=layout.identity, architecture="")
    write_part(folder / "rows" / "part-00000.parquet", table, vectors)
    write_layouts(folder, [layout])
    return Zoo(folder)


def test_whole_networks_come_back(cache, weights):
    items = np.arange(len(cache))
    back = cache.to_weights(items, cache.batch(items).tokens)
    assert len(back) == len(weights)
    for one, other in zip(back, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_without_normalisation_they_come_back_bit_for_bit(plain, weights):
    items = np.arange(len(plain))
    for one, other in zip(plain.to_weights(items, plain.batch(items).tokens), weights, strict=True):
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32))


def test_a_batch_is_tokens_then_normalised_then_padded(cache, zoo, weights):
    for item in (0, len(cache) // 2, len(cache) - 1):
        entry = cache.table.iloc[item]
        layout = zoo.layout(int(entry["row"]))
        part = slice(entry["start"], entry["start"] + entry["length"])
        normal = cache.normalizer.normalize(layout, weights[entry["row"]][None])
        template = cache.tokenizer.template(layout)
        batch = cache.batch([item])
        assert batch.tokens.shape == (1, cache.max_tokens, cache.token_dim)
        length = entry["length"]
        np.testing.assert_array_equal(batch.tokens[0, :length], cache.tokenizer.encode(layout, normal)[0][part])
        np.testing.assert_array_equal(batch.mask[0, :length], template.mask[part])
        np.testing.assert_array_equal(batch.features[0, :length], template.features[part])
        assert not any(part[0, length:].any() for part in batch[:3])
        raw = cache.tokenizer.encode(layout, weights[entry["row"]][None])[0][part]
        np.testing.assert_array_equal(cache.raw(item), raw)


def test_a_batch_is_the_same_alone_and_in_company(cache):
    items = np.random.default_rng(0).permutation(len(cache))
    together = cache.batch(items)
    for place in (0, 3, len(items) - 1):
        for one, other in zip(cache.batch(items[[place]]), together, strict=True):
            assert torch.equal(one[0], other[place])


def test_values_in_padding_are_zero_and_finite(cache):
    batch = cache.batch(np.arange(len(cache)))
    assert (batch.tokens[~batch.mask] == 0).all()
    assert (batch.features[~batch.token_mask] == 0).all()
    assert torch.isfinite(batch.tokens).all()


def test_training_tokens_have_mean_zero_and_deviation_one(cache):
    batch = cache.batch(cache.indices("train"))
    valid = batch.tokens[batch.mask]
    assert valid.mean() == pytest.approx(0, abs=1e-3)
    assert valid.std() == pytest.approx(1, abs=0.05)


def test_statistics_come_from_the_training_split_only(zoo, weights, tmp_path):
    config = configured()
    build_cache(zoo, config, tmp_path / "first")
    cache = TokenCache(tmp_path / "first")
    rows = {
        split: set(cache.table["row"].to_numpy()[cache.indices(split)]) for split in ("train", "validation", "test")
    }
    changed = [vector * (1 if row in rows["train"] else 100) for row, vector in enumerate(weights)]
    write_part(tmp_path / "zoo" / "rows" / "part-00000.parquet", zoo.table, changed)
    write_layouts(tmp_path / "zoo", zoo.layouts.values())
    build_cache(Zoo(tmp_path / "zoo"), config, tmp_path / "second")
    other = TokenCache(tmp_path / "second")
    assert other.normalizer == cache.normalizer
    assert other.identity != cache.identity
    assert not rows["train"] & rows["test"]


def test_splits_cover_all_items_once(cache):
    parts = [cache.indices(split) for split in ("train", "validation", "test")]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(cache)))
    with pytest.raises(DataError, match="no such split"):
        cache.indices("training")


def test_rebuilt_networks_stand_in_the_order_of_their_first_item(cache, weights):
    rows = [5, 2, 9]
    items = np.concatenate([np.flatnonzero(cache.table["row"] == row)[::-1] for row in rows])
    mixed = items[np.argsort(np.arange(len(items)) % 2, kind="stable")]
    inside_out = np.concatenate([items[:1], items[items != items[0]][::-1]])
    for chosen in (items, mixed, inside_out):
        back = cache.to_weights(chosen, cache.batch(chosen).tokens)
        networks = cache.networks(chosen)
        assert set(networks) == set(rows)
        for row, vector in zip(networks, back, strict=True):
            np.testing.assert_allclose(vector, weights[row], rtol=1e-5, atol=1e-6)
    assert cache.networks(items).tolist() == rows


def test_networks_of_a_row_are_those_of_the_zoo_bit_for_bit(cache, weights):
    for layout in cache.layouts:
        rows = np.unique(cache.table["row"][cache.table["layout"] == layout])[::-1]
        assert np.array_equal(cache.weights(rows), np.stack([weights[row] for row in rows]))
        items = cache.items(rows)
        assert cache.table["row"][items].tolist() == np.repeat(rows, cache.windows(items[0])).tolist()
        assert cache.table["window"][items].tolist() == [*range(cache.windows(items[0]))] * len(rows)


def test_a_split_is_read_once_in_parts(cache, weights):
    seen = list(cache.of_split("train", 2))
    assert max(len(vectors) for _, vectors in seen) == 2
    rows = np.unique(cache.table["row"][cache.indices("train")])
    found = sorted(vector.tobytes() for _, vectors in seen for vector in vectors)
    assert found == sorted(weights[row].tobytes() for row in rows)


def test_a_network_of_one_window_may_be_asked_for_twice(zoo, tmp_path):
    build_cache(zoo, configured(), tmp_path / "tokens")
    cache = TokenCache(tmp_path / "tokens")
    back = cache.to_weights([3, 3], cache.batch([3, 3]).tokens)
    assert np.array_equal(back[0], back[1])
    assert cache.networks([3, 3]).tolist() == [3, 3]


def test_rebuilding_takes_arrays_and_longer_padding(plain, weights):
    items = np.flatnonzero(plain.table["row"] == 0)
    tokens = np.pad(plain.batch(items).tokens.numpy(), ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    assert np.array_equal(plain.to_weights(items, tokens)[0], weights[0])


@pytest.mark.parametrize(
    "choose", [lambda items: items[:-1], lambda items: items[[0, 0]], lambda items: items[[0, *range(len(items))]]]
)
def test_a_missing_or_repeated_window_is_named(plain, choose):
    network = plain.table[plain.table["window"] == 1]["row"].iloc[0]
    items = choose(np.flatnonzero(plain.table["row"] == network))
    name = plain.table["model_id"].iloc[items[0]]
    with pytest.raises(DataError, match=f"{name}: windows of a network are missing or repeated"):
        plain.to_weights(items, plain.batch(items).tokens)


def test_building_in_small_blocks_gives_the_same_files(zoo, tmp_path, monkeypatch):
    build_cache(zoo, configured(), tmp_path / "large")
    monkeypatch.setattr(blocks, "BLOCK", 1)
    build_cache(zoo, configured(), tmp_path / "small")
    for name in ("tokens.npy", "index.parquet", "layouts.json", "tokenizer.json"):
        assert (tmp_path / "large" / name).read_bytes() == (tmp_path / "small" / name).read_bytes(), name


def test_the_same_zoo_and_parameters_give_the_same_bytes(zoo, tmp_path):
    for name in ("one", "other"):
        build_cache(zoo, configured(), tmp_path / name)
    for name in (*FILES, "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name


def test_identity_follows_zoo_and_parameters(zoo, tmp_path):
    identities = set()
    for number, change in enumerate([{}, {"seed": 1}, {"chunk_size": 16}, {"granularity": "chunk"}]):
        build_cache(zoo, configured(**change), tmp_path / str(number))
        identities.add(TokenCache(tmp_path / str(number)).identity)
    assert len(identities) == 4


def test_the_summary_adds_up(cache, zoo):
    summary = summarize(cache)
    assert sum(summary.networks.values()) == len(zoo)
    assert sum(summary.runs.values()) == zoo.table["run_id"].nunique()
    used = sum(zoo.layout(row).size for row in range(len(zoo)))
    held = np.load(cache.folder / "tokens.npy", mmap_mode="r")
    assert held.shape == (summary.tokens, summary.token_dim)
    assert summary.padding_share == pytest.approx(1 - used / held.size)
    assert summary.megabytes == pytest.approx(held.nbytes / 1e6)
    assert summary.items == len(cache)
    assert summary.windowed == (cache.table.groupby("row").size() > 1).sum()
    assert summary.max_tokens == cache.table["length"].max()
    assert all(isinstance(value, float) for value in summary.figures().values())
    assert f"{len(zoo)} networks" in summary.sentence()


def test_memory_stays_bounded_while_building(tmp_path):
    layout = layout_of({"fc.weight": torch.zeros(100, 100)})
    zoo = write_zoo(tmp_path / "zoo", np.random.default_rng(0).standard_normal((600, layout.size)), layout)
    build_cache(zoo, configured(), tmp_path / "warm")
    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 100_000)
        build_cache(zoo, configured(), tmp_path / "tokens")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "tokens" / "tokens.npy").stat().st_size > 20e6
    assert peak < 10e6


def test_the_cache_is_not_held_in_memory(cache):
    assert isinstance(cache._tokens.base, np.memmap)
    assert not cache._tokens.flags.writeable


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(plain, tmp_path, name):
    shutil.copytree(plain.folder, tmp_path / "tokens")
    (tmp_path / "tokens" / name).unlink()
    with pytest.raises(DataError, match=f"{name}: file of the token cache is missing; run `dvc repro tokenize`"):
        TokenCache(tmp_path / "tokens")


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named(plain, tmp_path, name):
    path = tmp_path / "tokens" / name
    shutil.copytree(plain.folder, path.parent)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: was altered"):
        TokenCache(path.parent).verify()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{name}: was altered; expected {len(content)} bytes"):
        TokenCache(path.parent)


def test_an_unharmed_cache_verifies(plain):
    plain.verify()


def test_no_cache_and_other_versions_are_refused(plain, tmp_path):
    with pytest.raises(DataError, match="no token cache here"):
        TokenCache(tmp_path)
    shutil.copytree(plain.folder, tmp_path / "tokens")
    write_json(tmp_path / "tokens" / "manifest.json", read_json(plain.folder / "manifest.json") | {"format": 0})
    with pytest.raises(DataError, match="is of another version"):
        TokenCache(tmp_path / "tokens")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("number", [0, 11])
def test_weights_that_are_not_finite_are_named_and_leave_nothing(tmp_path, value, number):
    vectors = np.zeros((12, LINEAR.size), np.float32)
    vectors[number, 3] = value
    zoo = write_zoo(tmp_path / "zoo", vectors)
    with pytest.raises(
        DataError, match=f"net-{number}: network has weights that are not finite; .* got 1 of 24 NaN or"
    ):
        build_cache(zoo, configured(), tmp_path / "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_a_network_that_does_not_fit_its_layout_is_named(tmp_path):
    zoo = write_zoo(tmp_path / "zoo", [np.zeros(LINEAR.size)] * 11 + [np.zeros(5)])
    with pytest.raises(DataError, match="net-11: does not fit its layout; expected 24; got 5"):
        build_cache(zoo, configured(), tmp_path / "tokens")


def test_a_missing_layout_is_named(tmp_path):
    zoo = write_zoo(tmp_path / "zoo", np.zeros((12, LINEAR.size)))
    write_layouts(tmp_path / "zoo", [])
    with pytest.raises(DataError, match="layouts of some networks are missing"):
        build_cache(Zoo(zoo.folder), configured(), tmp_path / "tokens")


def test_networks_without_weights_are_refused(tmp_path):
    layout = layout_of({"a": torch.zeros(0)})
    zoo = write_zoo(tmp_path / "zoo", np.zeros((12, 0)), layout)
    with pytest.raises(DataError, match="layouts have no weights"):
        build_cache(zoo, configured(), tmp_path / "tokens")


def test_refused_networks_leave_the_old_cache_alone(zoo, tmp_path):
    build_cache(zoo, configured(), tmp_path / "tokens")
    before = TokenCache(tmp_path / "tokens").identity
    with pytest.raises(DataError, match="no run falls"):
        build_cache(zoo, configured(test_fraction=1e-9), tmp_path / "tokens")
    assert TokenCache(tmp_path / "tokens").identity == before


def test_groups_of_equal_codes():
    first, second = np.array([1, 0, 1, 1, 0]), np.array([5, 5, 5, 6, 5])
    groups = sorted(part.tolist() for part in group_places(first, second))
    assert groups == [[0, 2], [1, 4], [3]]
    assert group_places(np.zeros(0, int)) == []
