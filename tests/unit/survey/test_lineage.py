"""Relatives are found whatever was done to them; independent networks give uniform p-values."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

import wscore
from wscore.errors import DataError
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import layout_of
from wscore.survey.age import ages, descent_log_odds
from wscore.survey.independence import fixed_points_tail
from wscore.survey.lineage import Lineage, compare, lineage
from wscore.survey.unit_groups import restricted, unit_groups
from wscore.symmetry.spec import permute, random_orders
from wscore.symmetry.trace import derive_spec

WIDTHS = {
    "mlp": (12, 10), "cnn": (10, 12), "cnn_bn": (10, 12), "resnet": (10, 8), "residual_mlp": (12, 12, 10),
    "depthwise_cnn": (10, 12), "vit": (8, 16, 16),
}  # fmt: skip
State = dict[str, torch.Tensor]


def network_of(family: str, seed: int = 0, classes: int = 10) -> nn.Module:
    pooling = "none" if family in ("mlp", "residual_mlp", "vit") else "max"
    torch.manual_seed(seed)
    return build(
        Architecture(
            family=family, input=(1, 8, 8), classes=classes, widths=WIDTHS[family], activation="relu", pooling=pooling
        )
    ).eval()


def reordered(network: nn.Module, seed: int = 0) -> State:
    """Return the state dict of a network with its hidden units in another order."""
    spec = derive_spec(network, torch.rand(2, 1, 8, 8))
    stacked = {name: tensor[None] for name, tensor in network.state_dict().items()}
    orders = random_orders(spec, 1, torch.Generator().manual_seed(seed))
    return {name: tensor[0] for name, tensor in permute(spec, stacked, orders).items()}


def compressed(state: State) -> State:
    """Return weights in 8 bits, with the smallest 30% set to zero."""
    changed = {}
    for name, tensor in state.items():
        step = tensor.abs().max() / 127
        rounded = (tensor / step).round() * step if tensor.ndim > 1 else tensor
        small = rounded.abs() <= rounded.abs().double().quantile(0.3) if tensor.ndim > 1 else torch.zeros_like(tensor)
        changed[name] = torch.where(small.bool(), 0.0, rounded) if tensor.is_floating_point() else tensor
    return changed


@pytest.mark.parametrize("family", WIDTHS)
def test_a_network_is_a_copy_of_itself_and_independent_of_another(family: str) -> None:
    same, other = lineage(network_of(family), network_of(family)), lineage(network_of(family), network_of(family, 1))
    assert (same.relation, same.fixed, same.distance) == ("copy", same.units, 0)
    assert same.p_value < 1e-6
    assert other.relation == "none"
    assert other.p_value > 0.01
    assert other.ancestor == ""


@pytest.mark.parametrize("family", [family for family in WIDTHS if family != "vit"])
def test_a_reordered_copy_is_found_after_rounding_pruning_and_noise(family: str) -> None:
    network = network_of(family)
    shuffled = reordered(network)
    assert lineage(network, shuffled).relation == "reordered copy"
    noisy = {name: tensor + 0.1 * tensor.std() * torch.randn(tensor.shape) if tensor.ndim > 1 else tensor
             for name, tensor in compressed(shuffled).items()}  # fmt: skip
    found = lineage(network, noisy)
    assert found.relation == "related and reordered"
    assert found.p_value < 1e-6
    assert found.same_order > 1e-6


def test_another_head_is_no_hindrance() -> None:
    first, second = network_of("mlp"), network_of("mlp", 1, classes=7)
    second.load_state_dict(second.state_dict() | {n: t for n, t in first.state_dict().items() if "head" not in n})
    found = lineage(first, second)
    assert found.relation == "copy"
    assert found.tensors == 2


def test_p_values_of_independent_networks_are_uniform() -> None:
    network = network_of("mlp")
    layout = layout_of(network.state_dict())
    vectors = np.random.default_rng(0).normal(size=(40, layout.size)).astype(np.float32)
    pairs = np.stack(np.triu_indices(40, 1), axis=1)
    evidence = compare(unit_groups(layout), layout, vectors, pairs)
    tail = np.append(fixed_points_tail((12, 10)), 0)
    share = np.random.default_rng(1).random(len(pairs))  # the test has few values: spread each over its step
    assert (
        kstest(tail[evidence.fixed] - share * (tail[evidence.fixed] - tail[evidence.fixed + 1]), "uniform").pvalue
        > 0.05
    )
    assert evidence.reordered.min() > 1e-3


def test_units_without_weights_are_no_evidence() -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in network_of("mlp").state_dict().items()}
    assert lineage(zeros, zeros).same_order > 1e-4


def test_tails_are_those_of_counted_permutations() -> None:
    from itertools import permutations

    fixed = [sum(a == b for a, b in enumerate(order)) for order in permutations(range(5))]
    expected = [np.mean(np.array(fixed) >= count) for count in range(6)]
    np.testing.assert_allclose(fixed_points_tail((5,)), expected, atol=1e-12)
    assert fixed_points_tail((300, 200)).shape == (501,)
    assert (np.diff(fixed_points_tail((300, 200))) <= 0).all()


def test_groups_are_those_of_the_traced_network() -> None:
    for family in ("mlp", "cnn", "resnet", "depthwise_cnn", "residual_mlp"):
        network = network_of(family)
        traced = derive_spec(network, torch.rand(2, 1, 8, 8))
        assert list(unit_groups(layout_of(network.state_dict())).units.values()) == list(traced.units.values())


def test_small_groups_and_missing_tensors_are_left_out() -> None:
    spec = unit_groups(layout_of(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 6), nn.Linear(6, 2)).state_dict()))
    assert list(restricted(spec, list(spec.axes)).units) == ["1.weight"]
    assert not restricted(spec, ["2.weight"]).units


def test_the_descendant_has_larger_or_repeated_weights() -> None:
    network = network_of("mlp")
    layout = layout_of(network.state_dict())
    state = network.state_dict()
    grown = {name: tensor * (1 + tensor.abs()) for name, tensor in state.items()}
    rows = ages(layout, np.stack([layout.flatten(one) for one in (state, grown, compressed(grown))]))
    odds = descent_log_odds(rows[[0, 1, 2]], rows[[1, 2, 0]])
    assert odds[0] > 0
    assert odds[1] > 3
    assert odds[2] < -3
    assert lineage(network, grown).ancestor == "first"
    assert lineage(grown, network).ancestor == "second"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"other.weight": torch.ones(4, 4)}, "share no layer with hidden units"),
        ({"linear1.weight": torch.full((12, 64), torch.nan)}, "linear1.weight: weights are not finite"),
        ({}, "no weights"),
    ],
)
def test_what_cannot_be_compared_is_an_error(second: State, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lineage(network_of("mlp"), second)


def test_it_is_a_public_name() -> None:
    assert isinstance(wscore.lineage(network_of("cnn"), network_of("cnn")), Lineage)


def test_gated_perceptrons_share_one_group_in_any_order() -> None:
    shapes = {"mlp.gate_proj.weight": (12, 8), "mlp.up_proj.weight": (12, 8), "mlp.down_proj.weight": (8, 12),
              "attention.in_proj_weight": (24, 8)}  # fmt: skip
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    order = torch.randperm(12)
    shuffled = {name: state[name][order] if state[name].shape[0] == 12 else state[name] for name in sorted(state)}
    shuffled["mlp.down_proj.weight"] = state["mlp.down_proj.weight"][:, order]
    found = lineage(state, shuffled)
    assert (found.relation, found.units) == ("reordered copy", 12)
