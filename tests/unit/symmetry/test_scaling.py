"""Scales of ReLU networks: the function is kept, equal networks become equal, other networks are left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import StackedAnswer, logits
from wscore.networks.layout import layout_of
from wscore.symmetry.scaling import balance, derive_scaling, scale
from wscore.symmetry.spec import by_unit
from wscore.symmetry.trace import derive_spec
from wscore.tokens.alignment import Alignment
from wscore.zoo.store import Zoo

FAMILIES = {
    "mlp": Architecture(family="mlp", input=(1, 8, 8), classes=10, widths=(9, 7), activation="relu", pooling="none"),
    "cnn": Architecture(family="cnn", input=(1, 8, 8), classes=10, widths=(4, 5), activation="relu", pooling="avg"),
    "cnn_bn": Architecture(
        family="cnn_bn", input=(1, 8, 8), classes=10, widths=(4, 5), activation="relu", pooling="max"
    ),
    "resnet": Architecture(
        family="resnet", input=(1, 8, 8), classes=10, widths=(5, 6), activation="relu", pooling="max"
    ),
    "equal": Architecture(
        family="resnet", input=(1, 8, 8), classes=10, widths=(5, 5), activation="relu", pooling="avg"
    ),
}


def prepared(architecture: Architecture):
    network, example = build(architecture).eval(), torch.rand(4, *architecture.input)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.3 * torch.rand(tensor.shape) if "running" in name or tensor.ndim == 1 else 0.0)
    spec = derive_scaling(network, derive_spec(network, example), example)
    return (
        network,
        spec,
        {name: tensor[None].repeat(3, *[1] * tensor.ndim) for name, tensor in network.state_dict().items()},
    )


def outputs(architecture: Architecture, state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    layout = layout_of({name: tensor[0] for name, tensor in state.items()})
    vectors = torch.stack([torch.from_numpy(layout.flatten({k: v[n] for k, v in state.items()})) for n in range(3)])
    return logits(StackedAnswer(architecture, layout), vectors, images)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_balanced_networks_compute_the_same_and_scaled_copies_become_one(name: str) -> None:
    architecture = FAMILIES[name]
    _, spec, state = prepared(architecture)
    assert spec is not None
    factors = {group: torch.rand(3, units, dtype=torch.float64) * 5 + 0.1 for group, units in spec.units.items()}
    scaled = scale(spec, state, factors)
    images = torch.rand(20, 1, 8, 8)
    before, after = outputs(architecture, state, images), outputs(architecture, balance(spec, scaled), images)
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-3)
    first, second = balance(spec, state), balance(spec, scaled)
    for tensor in state:
        assert torch.allclose(first[tensor].float(), second[tensor].float(), rtol=5e-3, atol=5e-3), tensor
    assert not torch.allclose(scaled["head.weight"], state["head.weight"], rtol=0.01)


def test_both_sides_of_every_unit_have_the_same_norm_and_the_whole_is_smaller() -> None:
    _, spec, state = prepared(FAMILIES["mlp"])
    assert spec is not None
    found = balance(spec, state)
    for group, units in spec.units.items():
        norms = [
            torch.stack(
                [by_unit(found[side.tensor], side.axis, side.how, units).square().sum(-1) for side in sides]
            ).sum(0)
            for sides in (spec.incoming[group], spec.outgoing[group])
        ]
        assert torch.allclose(*norms, rtol=1e-3)
    assert sum(t.square().sum() for t in found.values()) < sum(t.square().sum() for t in state.values())


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_other_activations_have_no_such_symmetry(activation: str) -> None:
    architecture = Architecture(
        family="mlp", input=(1, 8, 8), classes=10, widths=(9,), activation=activation, pooling="none"
    )
    network, example = build(architecture), torch.rand(4, 1, 8, 8)
    assert derive_scaling(network, derive_spec(network, example), example) is None


def test_a_balanced_zoo_computes_what_it_computed(tiny_zoo: Path) -> None:
    zoo, images = Zoo(tiny_zoo), torch.rand(20, 1, 8, 8)
    alignment = Alignment.fit(zoo, np.ones(len(zoo), bool), balanced=True)
    runs, moved = zoo.table["run_id"].astype(str).to_numpy(), {}
    for architecture, layout, rows in zoo.families():
        before = zoo.weights(rows)
        after = alignment.apply_runs(layout, before, runs[rows])
        found = [
            logits(StackedAnswer(architecture, layout), torch.from_numpy(vectors), images)
            for vectors in (before, after)
        ]
        assert torch.allclose(*found, rtol=1e-3, atol=1e-2)
        relu = '"relu"' in architecture
        moved[relu] = moved.get(relu, False) or not np.allclose(np.sort(before), np.sort(after))
    assert moved == {True: True, False: False}
