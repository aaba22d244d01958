"""A network is taken in whatever form it is at hand, and what is none is refused by what it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wscore.errors import DataError
from wscore.zoo.state import history_of, state_of
from wscore.zoo.store import Zoo


def linear(fill: float) -> nn.Module:
    network = nn.Linear(2, 1)
    nn.init.constant_(network.weight, fill)
    nn.init.constant_(network.bias, fill)
    return network


@pytest.mark.parametrize(
    "form",
    [
        lambda _: linear(2.0),
        lambda state: state,
        lambda state: {name: tensor.detach().numpy() for name, tensor in state.items()},
        lambda state: {"model": state, "epoch": 3},
    ],
)
def test_all_forms_are_the_same_network(form: Callable[[dict[str, Tensor]], Any]) -> None:
    state = linear(2.0).state_dict()
    found = state_of(form(state))
    assert list(found) == ["weight", "bias"]
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", [str, Path])
def test_files_are_named_by_text_or_path(kind: type, tmp_path: Path) -> None:
    torch.save(linear(3.0).state_dict(), tmp_path / "net.pt")
    assert float(state_of(kind(tmp_path / "net.pt"))["bias"]) == 3.0
    with pytest.raises(DataError, match=r"other\.pt: no such file; expected a module"):
        state_of(kind(tmp_path / "other.pt"))


def test_networks_of_a_zoo_are_taken_by_row_or_id(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    last = zoo[-1]
    assert torch.equal(state_of(f"{tiny_zoo}#{zoo.table['model_id'].iloc[-1]}")["head.bias"], last["head.bias"])
    assert sum(1 for _ in zoo) == len(zoo)
    with pytest.raises(DataError, match="no such network in the zoo"):
        state_of(f"{tiny_zoo}#nobody")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.ones(3, 2), r"a tensor \(3, 2\)"), (np.ones(4), r"an array \(4,\)"), ([1, 2], "a list of 2"), (None, "None"),
        (3, "a int"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_named(value: object, got: str) -> None:
    with pytest.raises(DataError, match=f"network: is not a network; expected a module, .*; got {got}"):
        state_of(value)


def test_a_history_is_a_list_of_networks() -> None:
    assert len(history_of(linear(float(k)) for k in range(3))) == 3
    for value in (None, linear(1.0), linear(1.0).state_dict(), torch.ones(3, 2), 5):
        with pytest.raises(DataError, match="is no history of a network; expected a list of networks, oldest first"):
            history_of(value)
