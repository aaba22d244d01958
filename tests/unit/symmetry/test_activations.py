"""Activation matching finds a hidden order again, also where weights mislead, and refuses what it can't compare."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.errors import DataError, ModelError
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import StackedAnswer, logits
from wscore.symmetry.activations import Activations, match_activations
from wscore.symmetry.spec import permute, random_orders
from wscore.symmetry.trace import derive_spec
from wscore.tokens.alignment import Alignment
from wscore.zoo.store import Zoo

RESNET = Architecture(family="resnet", input=(1, 8, 8), classes=10, widths=(5, 6), activation="tanh", pooling="max")
CNN = Architecture(family="cnn", input=(1, 8, 8), classes=10, widths=(4, 5), activation="gelu", pooling="avg")
MLP = Architecture(family="mlp", input=(1, 4, 4), classes=3, widths=(9, 7), activation="tanh", pooling="none")


@pytest.mark.parametrize("architecture", [MLP, CNN, RESNET], ids=["mlp", "cnn", "resnet"])
def test_a_hidden_order_is_found_again_exactly_in_whatever_scale(architecture: Architecture) -> None:
    network, images = build(architecture).eval(), torch.rand(24, *architecture.input)
    spec = derive_spec(network, images[:2])
    stacked = {name: tensor.expand(5, *tensor.shape).clone() for name, tensor in network.state_dict().items()}
    hidden = permute(spec, stacked, random_orders(spec, 5, torch.Generator().manual_seed(1)))
    probes = Activations(network, spec, images)
    orders = match_activations(probes.of({name: tensor[:1] for name, tensor in stacked.items()}), probes.of(hidden))
    found = permute(spec, hidden, orders)
    assert not all(torch.equal(hidden[name], stacked[name]) for name in stacked)
    assert all(torch.equal(found[name], stacked[name]) for name in stacked)


def test_units_that_answer_alike_are_matched_though_their_weights_differ() -> None:
    """A layer scaled unit by unit has other weights and, but for its scale, the same answers."""
    network, images = build(MLP).eval(), torch.rand(24, 1, 4, 4)
    spec = derive_spec(network, images[:2])
    state = {name: tensor[None].clone() for name, tensor in network.state_dict().items()}
    scaled = {
        **state,
        "linear1.weight": 1e-3 * torch.rand(9, 1) * state["linear1.weight"],
        "linear1.bias": torch.zeros(1, 9),
    }
    state["linear1.bias"] = torch.zeros(1, 9)
    probes = Activations(network, spec, images)
    orders = match_activations(probes.of(state), probes.of(scaled))
    assert torch.equal(orders["g0"][0], torch.arange(9))


def test_answers_are_standardised_and_constant_units_answer_nothing() -> None:
    network, images = build(MLP).eval(), torch.rand(24, 1, 4, 4)
    state = {name: tensor[None].clone() for name, tensor in network.state_dict().items()}
    state["linear1.weight"][:, 2] = 0
    found = Activations(network, derive_spec(network, images[:2]), images).of(state)["g0"]
    assert found.shape == (1, 24, 9)
    assert torch.allclose(found.mean(1), torch.zeros(1, 9).double(), atol=1e-9)
    expected = torch.ones(9).double()
    expected[2] = 0
    assert torch.allclose(found.norm(dim=1)[0], expected)


def test_another_symmetry_is_refused() -> None:
    spec = derive_spec(build(MLP), torch.rand(2, 1, 4, 4))
    with pytest.raises(ModelError, match="other hidden units"):
        Activations(build(CNN), spec, torch.rand(2, 1, 8, 8))


def test_a_zoo_aligned_by_activations_computes_what_it_computed(tiny_zoo: Path) -> None:
    zoo, images = Zoo(tiny_zoo), torch.rand(32, 1, 8, 8)
    alignment = Alignment.fit(zoo, np.ones(len(zoo), bool), images=images)
    runs, moved = zoo.table["run_id"].astype(str).to_numpy(), 0
    for architecture, layout, rows in zoo.families():
        before = zoo.weights(rows)
        after = alignment.apply_runs(layout, before, runs[rows])
        outputs = [
            logits(StackedAnswer(architecture, layout), torch.from_numpy(vectors), images)
            for vectors in (before, after)
        ]
        assert torch.allclose(*outputs, atol=1e-4)
        moved += not np.array_equal(before, after)
    assert moved


def test_images_of_another_shape_are_refused(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    with pytest.raises(DataError, match=r"images do not fit the networks"):
        Alignment.fit(zoo, np.ones(len(zoo), bool), images=torch.rand(4, 3, 8, 8))
