"""Rows of weights: every weight is where its map says, and comes back exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.errors import DataError
from wscore.sae.rows import Scatter, UnitRows, View, tensor_of, unit_map
from wscore.symmetry.spec import permute
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

VIEWS: tuple[View, ...] = ("tokens", "neurons", "weights")


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return Zoo(tiny_zoo)


@pytest.fixture(scope="module")
def cache(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=14, align="none", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("units") / "tokens"
    build_cache(zoo, config, folder)
    return TokenCache(folder)


@pytest.mark.parametrize("view", VIEWS)
def test_rows_come_back_as_the_networks_they_were_cut_from(zoo: Zoo, cache: TokenCache, view: View) -> None:
    rows = UnitRows(cache, view)
    assert (cache.table["window"] > 0).any()  # some networks lie in several windows
    for place in range(0, len(rows.networks), 5):
        row = int(rows.networks[place])
        layout, vector = zoo.layout(row), zoo.weights([row])
        units = rows.maps[layout.identity]
        batch = rows.batch(rows.rows_of_networks(np.array([place])))
        assert torch.equal(batch.mask, torch.from_numpy(units.weights >= 0))
        back = Scatter(units, layout, cache.normalizer)(batch.values.numpy()[None], np.full(layout.size, 7.0))
        held = np.isin(np.arange(layout.size), units.weights)
        assert np.allclose(back[0, held], vector[0, held], atol=1e-5)
        assert (back[0, ~held] == 7).all()
        assert held.all() == (view != "neurons")


def test_weights_that_two_rows_hold_become_their_mean(zoo: Zoo, cache: TokenCache) -> None:
    name = next(n for n, one in cache.layouts.items() if any(t.kind == "conv" for t in one.tensors))
    layout = cache.layouts[name]
    units = unit_map("neurons", layout, cache.tokenizer, cache.alignment.specs[name])
    counts = np.bincount(units.weights[units.weights >= 0], minlength=layout.size)
    assert counts.max() == 2
    values = np.zeros((1, *units.weights.shape), np.float32)
    shared = int(np.flatnonzero(counts == 2)[0])
    first, second = np.argwhere(units.weights == shared)
    values[0, first[0], first[1]], values[0, second[0], second[1]] = 1.0, 3.0
    back = Scatter(units, layout, cache.normalizer)(values, np.zeros(layout.size))
    assert cache.normalizer.normalize(layout, back)[0, shared] == pytest.approx(2.0, abs=1e-5)


def test_a_permuted_network_has_the_same_neurons_in_another_order(zoo: Zoo, cache: TokenCache) -> None:
    row = int(np.flatnonzero(zoo.table["family"] == "mlp")[0])
    layout = zoo.layout(row)
    spec = cache.alignment.specs[layout.identity]
    units = unit_map("neurons", layout, cache.tokenizer, spec)
    vector = torch.from_numpy(zoo.weights([row]))
    group, count = next(iter(spec.units.items()))
    order = torch.arange(count).flip(0)
    state = permute(spec, layout.unflatten(vector), {group: order[None]})
    moved = torch.cat([state[tensor.name].flatten() for tensor in layout.tensors])
    assert torch.equal(moved[units.weights], vector[0][units.weights][order])


def test_rows_know_their_split_network_and_kind(zoo: Zoo, cache: TokenCache) -> None:
    rows = UnitRows(cache, "tokens")
    parts = [rows.rows_of(split) for split in ("train", "validation", "test")]
    assert sorted(np.concatenate(parts)) == list(range(len(rows)))
    test = set(zoo.table["run_id"].iloc[rows.networks[rows.network[parts[2]]]])
    assert not test & set(zoo.table["run_id"].iloc[rows.networks[rows.network[parts[0]]]])
    with pytest.raises(DataError, match="no such split"):
        rows.rows_of("holdout")
    for code in np.unique(rows.names(np.arange(len(rows)))):
        same = np.flatnonzero(rows.names(np.arange(len(rows))) == code)
        assert len({str(zoo.table["layout"].iloc[rows.networks[rows.network[row]]]) for row in same}) == 1
        assert (rows.batch(same).mask == rows.batch(same[:1]).mask).all()


def test_entries_of_a_row_are_told_by_tensor(zoo: Zoo, cache: TokenCache) -> None:
    row = int(np.flatnonzero(zoo.table["family"] == "mlp")[0])
    layout = zoo.layout(row)
    units = unit_map("neurons", layout, cache.tokenizer, cache.alignment.specs[layout.identity])
    found = tensor_of(layout, units.padded(100).weights[0])
    assert [(name, span.stop - span.start) for name, span in found] == [
        (layout.tensors[0].name, 64), (layout.tensors[1].name, 1), (layout.tensors[2].name, 10),
    ]  # fmt: skip


def test_unknown_hidden_units_are_named(cache: TokenCache) -> None:
    with pytest.raises(DataError, match="hidden units of a layout are unknown"):
        unit_map("neurons", next(iter(cache.layouts.values())), cache.tokenizer, None)
