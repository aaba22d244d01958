"""A state dict alone is run as the network it came from, where it is a chain of layers."""

import numpy as np
import pytest
import torch
from torch import nn

from wscore.encoder.chain import read_chains
from wscore.encoder.chain_outputs import (
    COLUMNS,
    LIKELY,
    NAMES,
    Guess,
    chain_logits,
    chain_numbers,
    find_probes,
    may_take_known_images,
)
from wscore.encoder.dreamed_probes import MEASURES, Probes
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import layout_of
from wscore.networks.lenet import NetworkSpec, lenet5

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PROBES = {"1x8x8/10": Probes(IMAGES, torch.arange(12) % 10)}
RESIDUAL = ("resnet", "residual_mlp")
CHAINS = {
    "mlp": (6, 5), "cnn": (4, 6), "cnn_bn": (4, 4), "resnet": (5, 5), "residual_mlp": (6, 4, 5), "depthwise_cnn": (4, 6),
}  # fmt: skip


def network_of(family: str, widths: tuple[int, ...], activation: str = "gelu", pooling: str = "avg") -> nn.Module:
    pooling = "none" if family in ("mlp", "residual_mlp", "vit") else pooling
    torch.manual_seed(0)
    network = build(
        Architecture(family=family, input=(1, 8, 8), classes=10, widths=widths, activation=activation, pooling=pooling)
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("family", CHAINS)
def test_one_hypothesis_is_the_network_itself(family: str, activation: str, pooling: str) -> None:
    network = network_of(family, CHAINS[family], activation, pooling)
    layout = layout_of(network.state_dict())
    chains = read_chains(layout)
    state = layout.unflatten(torch.from_numpy(layout.flatten(network.state_dict()))[None])
    chain = chains[-1] if family in RESIDUAL else chains[0]
    outputs = chain_logits(Guess(chain, activation, pooling), state, IMAGES)[0]
    torch.testing.assert_close(outputs, network(IMAGES), atol=1e-5, rtol=1e-5)
    other = "relu" if activation == "tanh" else "tanh"
    assert not torch.allclose(chain_logits(Guess(chain, other, pooling), state, IMAGES)[0], outputs, atol=1e-3)


def test_different_widths_of_a_residual_block_need_its_shortcut() -> None:
    network = network_of("resnet", (4, 6), "tanh", "max")
    layout = layout_of(network.state_dict())
    (chain,) = read_chains(layout)
    state = layout.unflatten(torch.from_numpy(layout.flatten(network.state_dict()))[None])
    outputs = chain_logits(Guess(chain, "tanh", "max"), state, IMAGES)[0]
    torch.testing.assert_close(outputs, network(IMAGES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", CHAINS)
def test_names_of_keys_do_not_matter(family: str) -> None:
    state = network_of(family, CHAINS[family]).state_dict()
    numbers = {name.rpartition(".")[0]: str(place) for place, name in enumerate(state)}
    renamed = {f"{numbers[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in state.items()}
    first, second = (
        chain_numbers(layout, layout.flatten(one)[None], PROBES)
        for one in (state, renamed)
        if (layout := layout_of(one))
    )
    assert set(first) == set(NAMES)
    assert all(first[name] == second[name] for name in NAMES)


def test_likely_measures_are_means_over_hypotheses_by_the_probability_of_the_labels() -> None:
    network = network_of("resnet", CHAINS["resnet"])
    layout = layout_of(network.state_dict())
    numbers = chain_numbers(layout, layout.flatten(network.state_dict())[None], PROBES)
    table = np.array([numbers[name][0] for name in NAMES]).reshape(len(MEASURES), len(COLUMNS))
    each = table[:, :-1]
    assert COLUMNS[-1] == LIKELY
    odds = np.exp(-len(IMAGES) * (each[MEASURES.index("surprise")] - each[MEASURES.index("surprise")].min()))
    assert 0.01 < odds.min() < 0.9
    np.testing.assert_allclose(table[:, -1], each @ odds / odds.sum(), rtol=1e-9)


@pytest.mark.parametrize(
    "network",
    [
        nn.LSTM(3, 4),
        nn.TransformerEncoderLayer(8, 2, 16),
        network_of("vit", (8, 16)),
        nn.Embedding(5, 4),
        nn.Sequential(nn.Linear(64, 5), nn.Linear(6, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6, 10)),
        nn.Linear(64, 10),
    ],
    ids=[
        "recurrent",
        "attention",
        "vit",
        "embedding",
        "units that do not match",
        "maps that are no square",
        "one layer",
    ],
)
def test_other_networks_are_no_chain(network: nn.Module) -> None:
    assert read_chains(layout_of(network.state_dict())) == ()


def test_probes_are_resized_for_larger_images_and_fit_only_their_number_of_classes() -> None:
    lenet = read_chains(layout_of(lenet5(NetworkSpec(name="lenet5", channels=1, size=28, classes=10)).state_dict()))[0]
    resized = find_probes(lenet, PROBES)
    assert resized is not None
    assert resized.images.shape == (12, 1, 10, 10)
    large = read_chains(layout_of(nn.Sequential(nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 10)).state_dict()))[0]
    resized = find_probes(large, PROBES)
    assert resized is not None
    assert resized.images.shape == (12, 1, 28, 28)
    other = nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 7))
    assert find_probes(read_chains(layout_of(other.state_dict()))[0], PROBES) is None
    uneven = nn.Sequential(nn.Linear(65, 5), nn.ReLU(), nn.Linear(5, 10))
    assert find_probes(read_chains(layout_of(uneven.state_dict()))[0], PROBES) is None


def test_probes_of_the_right_size_are_preferred() -> None:
    larger = Probes(torch.rand(12, 1, 10, 10, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 10)
    lenet = layout_of(lenet5(NetworkSpec(name="lenet5", channels=1, size=28, classes=10)).state_dict())
    for probes in (PROBES | {"1x10x10/10": larger}, {"1x10x10/10": larger} | PROBES):
        assert find_probes(read_chains(lenet)[0], probes) == larger
        assert may_take_known_images(lenet, probes)
    assert not may_take_known_images(lenet, PROBES)


def test_networks_that_are_not_run_may_take_any_images() -> None:
    for network in (network_of("cnn", (40, 60)), nn.LSTM(3, 4), nn.Sequential(nn.Linear(65, 5), nn.Linear(5, 10))):
        assert may_take_known_images(layout_of(network.state_dict()), PROBES)
