"""Layers that were trained together agree unit by unit; flipped units and foreign layers do not."""

import numpy as np
import torch
from torch import nn

from wscore.networks.layout import layout_of
from wscore.survey.layer_fit import agreement, layer_fit

RANDOM = np.random.default_rng(0)
UNITS = 16


def sides() -> tuple[np.ndarray, np.ndarray]:
    """Return incoming and outgoing weights of units that act alike where they read alike."""
    hidden = RANDOM.normal(size=(5, UNITS, 3))
    maps = RANDOM.normal(size=(2, 3, 20))
    return hidden @ maps[0], hidden @ maps[1]


def test_units_that_read_and_act_alike_fit() -> None:
    incoming, outgoing = sides()
    found = agreement(incoming, outgoing)
    assert (found["fit"] > 3).all()
    assert (found["turned"] <= 0.2).all()
    assert (np.abs(agreement(incoming, outgoing[:, RANDOM.permutation(UNITS)])["fit"]) < found["fit"]).all()


def test_a_flipped_unit_is_against_the_others_and_its_flip_is_the_gain() -> None:
    incoming, outgoing = sides()
    flipped = incoming.copy()
    flipped[:, 3] *= -1
    before, after = agreement(incoming, outgoing), agreement(flipped, outgoing)
    assert (after["gain"] > before["gain"]).all()
    assert (after["least"] < before["least"]).all()
    np.testing.assert_allclose(after["fit"] + after["gain"], before["fit"] + before["gain"])


def test_order_and_scale_of_units_do_not_matter() -> None:
    incoming, outgoing = sides()
    order = RANDOM.permutation(UNITS)
    expected, found = agreement(incoming, outgoing), agreement(3 * incoming[:, order], outgoing[:, order])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-9, err_msg=name)


def test_all_layers_with_hidden_units_have_numbers() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 3))
    layout = layout_of(layers.state_dict())
    vectors = np.stack([layout.flatten(layers.state_dict())] * 2)
    names = {name.partition("_")[0] for name in layer_fit(layout, vectors)}
    assert names == {
        "conv[-1].outgoing", "conv[-1].bias", "conv[-1].shift", "conv[-1].mean", "linear[-2].outgoing", "linear[-2].bias",
    }  # fmt: skip
    assert layer_fit(layout_of({"a": torch.ones(4, 4)}), np.ones((1, 16), np.float32)) == {}
