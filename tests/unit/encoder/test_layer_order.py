"""Layers are put in the order of the network, whatever the order of the tensors of a file."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from wscore.encoder.layer_order import in_layer_order
from wscore.networks.architectures import FAMILIES, Architecture, build
from wscore.networks.layout import layout_of
from wscore.survey.health import health_features
from wscore.survey.lineage import lineage
from wscore.survey.survey import group_by_layout

State = dict[str, torch.Tensor]
ORDERS: dict[str, Callable[[State], list[str]]] = {
    "module": list, "alphabetical": sorted, "reversed": lambda state: list(state)[::-1],
    "random": lambda state: np.random.default_rng(0).permutation(list(state)).tolist(),
}  # fmt: skip


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs)
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def residual() -> nn.Module:
    stages = {f"layer{number}": nn.Sequential(Block(inputs, outputs), Block(outputs, outputs))
              for number, (inputs, outputs) in enumerate(((4, 4), (4, 6), (6, 8)), start=1)}  # fmt: skip
    stem = {"conv1": nn.Conv2d(3, 4, 7, bias=False), "bn1": nn.BatchNorm2d(4)}
    return nn.ModuleDict(stem | stages | {"fc": nn.Linear(8, 5)})


def numbered() -> nn.Module:
    layers = [layer for _ in range(5) for layer in (nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 5))


def two_parts() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    return nn.ModuleDict({"features": features, "classifier": nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 5))})


def unhelpful_names() -> nn.Module:
    return nn.ModuleDict({"zeta": nn.Linear(9, 8), "alpha": nn.Linear(8, 7), "beta": nn.Linear(7, 6)})


def like_keras() -> nn.Module:
    convolutions = {"conv2d": nn.Conv2d(1, 4, 3), "batch_normalization": nn.BatchNorm2d(4), "conv2d_1": nn.Conv2d(4, 4, 3),
                    "batch_normalization_1": nn.BatchNorm2d(4)}  # fmt: skip
    return nn.ModuleDict(
        convolutions | {"dense": nn.Linear(16, 8), "dense_1": nn.Linear(8, 8), "dense_2": nn.Linear(8, 3)}
    )


def of_family(family: str) -> Callable[[], nn.Module]:
    pooling = "none" if family in ("mlp", "residual_mlp", "vit") else "max"
    widths = (8, 16, 16) if family == "vit" else (12, 10)
    network = Architecture(
        family=family, input=(1, 8, 8), classes=10, widths=widths, activation="relu", pooling=pooling
    )
    return lambda: build(network)


NETWORKS = {network.__name__: network for network in (residual, numbered, two_parts, unhelpful_names, like_keras)}
NETWORKS |= {family: of_family(family) for family in FAMILIES if family != "vit"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_follow_each_other_as_in_the_module(name: str, order: str) -> None:
    state = NETWORKS[name]().state_dict()
    given = {key: state[key] for key in ORDERS[order](dict(state))}
    weights = [key for key in state if state[key].is_floating_point()]
    assert [key for key in in_layer_order(given) if state[key].is_floating_point()] == weights


@pytest.mark.parametrize("name", [*NETWORKS, "vit", "recurrent", "transformer"])
def test_the_order_of_tensors_changes_neither_layout_nor_weights(name: str) -> None:
    others = {"vit": of_family("vit"), "recurrent": lambda: nn.LSTM(4, 3), "transformer": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2))}  # fmt: skip
    state = (NETWORKS | others)[name]().state_dict()
    states = {order: {key: state[key] for key in keys(dict(state))} for order, keys in ORDERS.items()}
    (group,) = group_by_layout(states)
    assert (group.vectors == group.vectors[0]).all()


def test_findings_and_lineage_do_not_depend_on_the_order_of_tensors() -> None:
    torch.manual_seed(0)
    first, second = (NETWORKS["resnet"]().state_dict() for _ in range(2))
    expected = lineage(first, second)
    (group,) = group_by_layout({"module": first})
    for keys in ORDERS.values():
        given = {key: first[key] for key in keys(dict(first))}
        assert lineage(given, second) == expected
        assert lineage(given, first).relation == "copy"
        (other,) = group_by_layout({"given": given})
        assert health_features(other, {}).keys() == health_features(group, {}).keys()


def test_a_network_that_is_no_chain_is_ordered_by_names() -> None:
    state = {"b.weight": torch.ones(3, 5), "a10.weight": torch.ones(4, 7), "a2.weight": torch.ones(2, 9)}
    assert list(in_layer_order(state)) == ["a2.weight", "a10.weight", "b.weight"]
    assert layout_of(in_layer_order(state)).tensors[0].layer == 0
