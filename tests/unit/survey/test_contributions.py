"""Units of a network that recognises the probes contribute to right outputs; flipped ones work against them."""

import numpy as np
import pytest
import torch
from torch import nn

from wscore.encoder.dreamed_probes import Probes
from wscore.encoder.features import named_numbers
from wscore.networks.layout import Layout, layout_of
from wscore.survey.contributions import likeliest, unit_contributions

CLASSES, UNITS = 4, 12
IMAGES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
PROBES = {"a": Probes(IMAGES, torch.arange(40) % CLASSES)}


def trained() -> tuple[Layout, np.ndarray]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, UNITS), nn.Tanh(), nn.Linear(UNITS, CLASSES))
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(IMAGES), PROBES["a"].labels).backward()
        optimizer.step()
    layout = layout_of(network.state_dict())
    return layout, layout.flatten(network.state_dict())


def test_flipped_units_work_against_the_outputs() -> None:
    layout, vector = trained()
    flipped = vector.copy()
    flipped[layout.slices()["1.weight"]][: 3 * 16] *= -1
    vectors = np.stack([vector, flipped])
    found = unit_contributions(layout, vectors, PROBES, named_numbers(layout, vectors, PROBES))
    least, against = found["linear[-2].least_part"], found["linear[-2].parts_against"]
    assert least[0] > least[1]
    assert against[1] >= 3 / UNITS > against[0]
    assert (found["linear[-1].balance"] <= 1).all()


def test_running_means_of_flipped_units_are_on_the_other_side() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, UNITS, bias=False),
        nn.BatchNorm1d(UNITS, momentum=None),
        nn.Tanh(),
        nn.Linear(UNITS, 4),
    )
    network(IMAGES)  # updates the running statistics
    layout = layout_of(network.state_dict())
    vector = layout.flatten(network.state_dict())
    flipped, other = vector.copy(), vector.copy()
    span = layout.slices()["1.weight"]
    flipped[span][: 3 * 16] *= -1
    other[span] = np.random.default_rng(1).normal(size=other[span].shape)
    vectors = np.stack([vector, flipped, other])
    numbers = unit_contributions(layout, vectors, PROBES, named_numbers(layout, vectors, PROBES))
    found = {name: numbers[f"linear[-2].{name}"] for name in ("mean_match", "mean_turned", "worst_miss", "var_spread")}
    assert found["mean_match"][0] > 0.999 > found["mean_match"][1:].max()
    np.testing.assert_allclose(found["mean_turned"][:2], [0, 3 / UNITS])
    assert found["worst_miss"][0] < 0.01 < found["worst_miss"][1]
    assert found["var_spread"][0] == pytest.approx(found["var_spread"][1], abs=1e-4)
    assert found["var_spread"][2] > 0.1


def test_networks_that_cannot_be_run_have_no_numbers() -> None:
    layout, vector = trained()
    outputs = named_numbers(layout, vector[None], PROBES)
    assert unit_contributions(layout, vector[None], {}, outputs) == {}
    assert unit_contributions(layout, vector[None], PROBES, {}) == {}


def test_the_activation_of_the_network_is_among_the_likeliest() -> None:
    layout, vector = trained()
    outputs = named_numbers(layout, vector[None], PROBES)
    best = likeliest(outputs)[0]
    hits = [values[0] for name, values in outputs.items() if name.startswith("chain.hits.")]
    assert hits[best] == max(hits)
