from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wscore.encoder.dreamed_probes import (
    dream,
    probe_key,
)
from wscore.encoder.features import zoo_features
from wscore.encoder.spectra import network_numbers
from wscore.networks.architectures import parse
from wscore.networks.layout import layout_of
from wscore.zoo.store import Zoo


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return Zoo(tiny_zoo)


def test_dreamed_probes_are_recognised_by_the_networks_that_were_asked(zoo: Zoo):
    rows = np.arange(len(zoo))
    early, late = (dream(zoo, rows, count=20, steps=steps, seed=0) for steps in (1, 20))
    (key,) = late
    assert key == probe_key(parse(zoo.table["architecture"].iloc[0]))
    assert late[key].images.min() >= 0
    assert late[key].images.max() <= 1
    name = "chain.surprise.plain.relu.max"
    tables = [zoo_features(zoo, probes) for probes in (early, late)]
    surprise = [np.nanmean(table.values[:, table.names.index(name)]) for table in tables]
    assert surprise[1] < surprise[0]
    again = dream(zoo, rows, count=20, steps=20, seed=0)
    assert torch.equal(again[key].images, late[key].images)


def test_spectra_do_not_depend_on_the_order_of_hidden_units(zoo: Zoo):
    row = next(k for k in range(len(zoo)) if parse(zoo.table["architecture"].iloc[k]).family == "mlp")
    layout = zoo.layout(row)
    state = layout.unflatten(torch.from_numpy(zoo.weights([row])[0]))
    order = torch.randperm(len(state["linear1.bias"]), generator=torch.Generator().manual_seed(0))
    moved = dict(state)
    following = "linear2.weight" if "linear2.weight" in state else "head.weight"
    moved |= {name: state[name][order] for name in ("linear1.weight", "linear1.bias")}
    moved[following] = state[following][:, order]
    first, second = (network_numbers(layout, layout.flatten(one)[None]) for one in (state, moved))
    for name, values in first.items():
        assert values == pytest.approx(second[name], abs=1e-5), name
    changed = dict(state) | {"linear1.weight": 2 * state["linear1.weight"]}  # what it must notice
    third = network_numbers(layout, layout.flatten(changed)[None])
    assert third["linear[-2].rms"] != pytest.approx(first["linear[-2].rms"], abs=0.1)


def test_layers_that_fit_are_told_from_random_ones_and_products_are_those_of_the_matrices():
    network = nn.Sequential(nn.Conv2d(2, 6, 3, bias=False), nn.Flatten(), nn.Linear(6 * 4, 5, bias=False))
    layout, random = layout_of(network.state_dict()), np.random.default_rng(0)
    lower, upper = random.normal(size=(50, 6, 18)), random.normal(size=(50, 5, 6, 4))
    fitting = np.einsum("nuk,nopk->nuop", lower, random.normal(size=(50, 5, 4, 18))).swapaxes(
        1, 2
    )  # rows lie in its span
    for above, expected in ((upper, 0.0), (fitting, 0.15)):
        vectors = np.concatenate([lower.reshape(50, -1), above.reshape(50, -1)], axis=1)
        numbers = network_numbers(layout, vectors)
        product = np.einsum("noup,nuk->nopk", above, lower).reshape(50, 20, 18)
        sizes = np.linalg.svd(product, compute_uv=False)
        assert numbers["pair[-1].product1"] == pytest.approx(np.log10(sizes[:, 0]), abs=1e-6)
        assert numbers["pair[-1].product3"] == pytest.approx(np.log10(sizes[:, 2]), abs=1e-6)
        assert numbers["pair[-1].aligned"].mean() == pytest.approx(expected, abs=0.05)
