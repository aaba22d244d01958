"""Signs of tanh networks: allowed flips keep the function, others are refused, flipped and shuffled networks are found."""

import pytest
import torch

from wscore.errors import ModelError
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import StackedAnswer, logits
from wscore.networks.layout import layout_of
from wscore.symmetry.matching import match_weights
from wscore.symmetry.scaling import ScalingSpec, scale, sides
from wscore.symmetry.signs import derive_signs, flip, match_signed
from wscore.symmetry.spec import PermutationSpec, permute, random_orders
from wscore.symmetry.trace import derive_spec

FAMILIES = {"mlp": (9, 7), "cnn": (4, 5), "cnn_bn": (4, 5), "resnet": (5, 6), "equal": (5, 5), "residual_mlp": (6, 5)}
COPIES = 3


def described(name: str, activation: str = "tanh", pooling: str = "avg") -> Architecture:
    family = "resnet" if name == "equal" else name
    return Architecture(
        family=family, input=(1, 8, 8), classes=10, widths=FAMILIES[name], activation=activation,
        pooling="none" if "mlp" in name else pooling,
    )  # fmt: skip


def prepared(architecture: Architecture):
    network, example = build(architecture).eval(), torch.rand(4, *architecture.input)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.3 * torch.rand(tensor.shape) if "running" in name or tensor.ndim == 1 else 0.0)
    spec = derive_spec(network, example)
    flips = derive_signs(network, spec, example)
    state = {name: tensor[None].repeat(COPIES, *[1] * tensor.ndim) for name, tensor in network.state_dict().items()}
    return network, spec, flips, state


def random_signs(spec: ScalingSpec | PermutationSpec) -> dict[str, torch.Tensor]:
    return {group: torch.randint(0, 2, (COPIES, units)).double() * 2 - 1 for group, units in spec.units.items()}


def outputs(architecture: Architecture, state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    layout = layout_of({name: tensor[0] for name, tensor in state.items()})
    vectors = [torch.from_numpy(layout.flatten({k: v[n] for k, v in state.items()})) for n in range(COPIES)]
    return logits(StackedAnswer(architecture, layout), torch.stack(vectors), images)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_flipped_networks_compute_the_same_and_flipping_twice_changes_nothing(name: str) -> None:
    architecture = described(name)
    _, spec, flips, state = prepared(architecture)
    assert flips is not None
    assert set(flips.units) == set(spec.units)
    signs, images = random_signs(flips), torch.rand(20, 1, 8, 8)
    moved = flip(flips, state, signs)
    assert torch.allclose(outputs(architecture, state, images), outputs(architecture, moved, images), atol=1e-4)
    assert not torch.equal(moved["head.weight"], state["head.weight"])
    again = flip(flips, moved, signs)
    assert all(torch.equal(again[tensor], state[tensor]) for tensor in state)


def test_by_hand() -> None:
    """Unit 1 of two: row 1 of the weights into it, its bias and column 1 of the head change sign."""
    network = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    spec = derive_spec(network, torch.rand(3, 1))
    flips = derive_signs(network, spec, torch.rand(3, 1))
    assert flips is not None
    values = {"0.weight": [[1.0], [2.0]], "0.bias": [3.0, 4.0], "2.weight": [[5.0, 6.0]], "2.bias": [7.0]}
    state = {name: torch.tensor(value)[None] for name, value in values.items()}
    (group,) = flips.units
    found = flip(flips, state, {group: torch.tensor([[1.0, -1.0]])})
    expected = {"0.weight": [[1.0], [-2.0]], "0.bias": [3.0, -4.0], "2.weight": [[5.0, -6.0]], "2.bias": [7.0]}
    assert {name: tensor[0].tolist() for name, tensor in found.items()} == expected


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("name", ["mlp", "cnn_bn"])
def test_flips_are_refused_where_the_activation_is_not_odd(name: str, activation: str) -> None:
    architecture = described(name, activation)
    network, spec, flips, state = prepared(architecture)
    assert flips is None
    none = ScalingSpec({}, {}, {})
    with pytest.raises(ModelError, match=r"may not change sign.*not odd.*derive_signs"):
        flip(none, state, random_signs(spec))
    forced, images = scale(sides(network, spec), state, random_signs(spec)), torch.rand(20, 1, 8, 8)
    assert not torch.allclose(outputs(architecture, state, images), outputs(architecture, forced, images), atol=0.01)


def test_units_of_which_the_largest_is_taken_keep_their_sign() -> None:
    _, spec, flips, _ = prepared(described("cnn", pooling="max"))
    assert len(spec.units) == 2
    assert flips is None
    _, spec, flips, state = prepared(described("resnet", pooling="max"))
    assert flips is not None
    assert len(flips.units) == 1 < len(spec.units)  # inside of the block nothing is pooled
    pooled = next(group for group in spec.units if group not in flips.units)
    with pytest.raises(ModelError, match=pooled):
        flip(flips, state, {pooled: torch.ones(COPIES, spec.units[pooled])})


def test_a_sign_is_one_or_minus_one() -> None:
    _, _, flips, state = prepared(described("mlp"))
    assert flips is not None
    with pytest.raises(ModelError, match=r"no sign.*1 or -1.*0\.5"):
        flip(flips, state, {group: torch.full((COPIES, units), 0.5) for group, units in flips.units.items()})


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_shuffled_network_with_other_signs_is_found_again(name: str) -> None:
    _, spec, flips, state = prepared(described(name))
    assert flips is not None
    reference = {tensor: values[0] for tensor, values in state.items()}
    orders = random_orders(spec, COPIES, torch.Generator().manual_seed(3))
    moved = flip(flips, permute(spec, state, orders), random_signs(flips))
    found = match_signed(spec, flips, reference, moved)
    back = flip(flips, permute(spec, moved, found.orders), found.signs)
    distance = lambda other: sum(float((other[k] - state[k]).square().sum()) for k in state if "num_" not in k)  # noqa: E731
    ordered = permute(spec, moved, match_weights(spec, reference, moved))
    assert distance(back) < 0.05 * distance(ordered)


def test_without_flips_the_orders_are_those_of_weight_matching() -> None:
    _, spec, _, state = prepared(described("cnn_bn"))
    noisy = {k: v + 0.3 * torch.randn(v.shape) if v.is_floating_point() else v for k, v in state.items()}
    reference = {tensor: values[0] for tensor, values in state.items()}
    found, expected = match_signed(spec, None, reference, noisy), match_weights(spec, reference, noisy)
    assert all(torch.equal(found.orders[group], expected[group]) for group in spec.units)
    assert all(bool((sign == 1).all()) for sign in found.signs.values())
