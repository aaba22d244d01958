"""A known architecture decides between hypotheses, and its outputs are those of the network."""

import numpy as np
import pytest
import torch

from wscore.encoder.chain_outputs import COLUMNS, NAMES, chain_numbers
from wscore.encoder.dreamed_probes import MEASURES, Probes, measure_outputs
from wscore.encoder.features import CHAIN
from wscore.encoder.known_architecture import known_outputs, true_hypothesis
from wscore.encoder.weight_statistics import FeatureTable
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import layout_of

FAMILIES = {"mlp": (7, 5), "cnn": (4, 6), "cnn_bn": (5, 3), "resnet": (5, 5)}
PROBES = Probes(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10)


def architecture(family: str, activation: str, pooling: str) -> Architecture:
    pooling = "none" if family == "mlp" else pooling
    return Architecture(
        family=family, input=(1, 8, 8), classes=10, widths=FAMILIES[family], activation=activation, pooling=pooling
    )


@pytest.mark.parametrize(("activation", "pooling"), [("relu", "max"), ("tanh", "avg"), ("gelu", "max")])
@pytest.mark.parametrize("family", FAMILIES)
def test_known_outputs_are_those_of_the_network(family: str, activation: str, pooling: str) -> None:
    torch.manual_seed(0)
    known = architecture(family, activation, pooling)
    network = build(known).eval()
    layout = layout_of(network.state_dict())
    numbers = chain_numbers(layout, layout.flatten(network.state_dict())[None], {"key": PROBES})
    table = FeatureTable(np.stack(list(numbers.values()), axis=1), tuple(CHAIN + name for name in numbers))
    values = known_outputs(table, [known.to_json()]).reshape(len(MEASURES), len(COLUMNS))
    with torch.no_grad():
        outputs = measure_outputs(network(PROBES.images)[None].numpy(), PROBES.labels)
    np.testing.assert_allclose(values, np.broadcast_to(outputs[0][:, None], values.shape), rtol=1e-4, atol=1e-4)


def test_networks_of_unknown_architecture_keep_all_hypotheses() -> None:
    values = np.random.default_rng(0).normal(size=(3, len(NAMES)))
    table = FeatureTable(values, tuple(CHAIN + name for name in NAMES))
    vit = Architecture(family="vit", input=(1, 8, 8), classes=10, widths=(8, 12), activation="gelu", pooling="none")
    known = known_outputs(table, ["", vit.to_json(), architecture("cnn", "relu", "avg").to_json()])
    np.testing.assert_array_equal(known[:2], values[:2])
    assert len(np.unique(known[2])) == len(MEASURES)
    assert true_hypothesis(architecture("cnn", "silu", "avg").to_json()) == ""
