"""Networks of a known layout are recognised by shapes and order, whatever their tensors are called."""

import pytest
import torch
from torch import Tensor, nn

from wscore.errors import ModelError
from wscore.networks.known_layouts import KnownLayouts
from wscore.networks.layout import layout_of

NETWORK = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 3))
STATE = NETWORK.state_dict()
KNOWN = KnownLayouts({"one": layout_of(STATE)})


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under names of another program, without its counter."""
    words = {"0": "stem.kernel_a", "1": "stem.norm", "3": "top.1", "4": "top.2"}
    named = ((*name.split("."), tensor) for name, tensor in state.items() if tensor.is_floating_point())
    return {f"{words[module]}.{leaf}": tensor for module, leaf, tensor in named}


@pytest.mark.parametrize("order", [list, sorted])
def test_names_do_not_matter(order: type[list]) -> None:
    other = {name: renamed(STATE)[name] for name in order(renamed(STATE))}
    layout = layout_of(other)
    match = KNOWN.require(layout)
    assert torch.equal(torch.from_numpy(match.flatten(other)), torch.from_numpy(layout_of(STATE).flatten(STATE)))
    back = match.unflatten(torch.from_numpy(match.flatten(other)), layout)
    assert list(back) == list(other)
    assert all(torch.equal(back[name], other[name]) for name in other)


def test_names_without_meaning_are_taken_in_order() -> None:
    plain = {f"t{number}": tensor for number, tensor in enumerate(STATE.values()) if tensor.is_floating_point()}
    assert list(KNOWN.ordered(plain)) == [name for name, tensor in STATE.items() if tensor.is_floating_point()]


def test_tensors_of_another_kind_or_shape_are_not_mixed_up() -> None:
    other = renamed(STATE)
    swapped = {name.replace("mean", "VAR").replace("var", "mean").replace("VAR", "var"): other[name] for name in other}
    assert KNOWN.match(layout_of(swapped)) is None or torch.equal(
        KNOWN.ordered(swapped)["1.running_mean"], swapped["stem.norm.running_mean"]
    )
    with pytest.raises(ModelError, match="was not trained on networks with these shapes"):
        KNOWN.require(layout_of({**STATE, "4.weight": torch.ones(2, 3)}))
