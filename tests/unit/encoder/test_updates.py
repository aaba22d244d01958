"""Gradient descent keeps sums over the classes and the balance of units; Adam does not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from wscore.encoder.features import named_numbers
from wscore.networks.layout import layout_of

INPUTS, UNITS, CLASSES = 6, 5, 4
Optimizer = Callable[..., torch.optim.Optimizer]


def network(scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(scale)
    return made


def numbers_of(made: nn.Module) -> dict[str, float]:
    layout = layout_of(made.state_dict())
    named = named_numbers(layout, layout.flatten(made.state_dict())[None], {})
    return {name: float(column[0]) for name, column in named.items() if ".update_" in name}


def trained(optimizer: Optimizer, lr: float) -> nn.Module:
    made = network()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(64, INPUTS, generator=generator)
    y = torch.randint(CLASSES, (64,), generator=generator)
    stepping = optimizer(made.parameters(), lr=lr)
    for _ in range(200):
        stepping.zero_grad()
        nn.functional.cross_entropy(made(x), y).backward()
        stepping.step()
    return made


def kept(made: nn.Module) -> np.ndarray:
    numbers, last = numbers_of(made), made[2].weight  # pyright: ignore
    scale = float(last.detach().square().mean().sqrt())
    sums = (scale * 10 ** numbers["linear[-1].update_sum_size"], scale * numbers["linear[-1].update_sum_mean"])
    return np.array([*sums, numbers["pair[-1].update_kept_mean"], 10 ** numbers["pair[-1].update_kept_std"]])


def test_gradient_descent_keeps_what_adam_does_not() -> None:
    before = kept(network())
    np.testing.assert_allclose(kept(trained(torch.optim.SGD, 0.02)), before, rtol=0.02)
    assert (np.abs(kept(trained(torch.optim.Adam, 0.02)) / before - 1) > 0.05).all()


def test_ratios_do_not_depend_on_the_scale_of_all_weights() -> None:
    plain, scaled = numbers_of(network()), numbers_of(network(3.0))
    moved = {name for name in plain if plain[name] != pytest.approx(scaled[name], rel=1e-4, abs=1e-6)}
    parts = {name.partition(".update_")[2] for name in moved}
    assert parts == {"initial", "beyond", "centred", "kept_mean", "kept_std"}


def test_initial_is_0_for_the_default_initialisation_of_torch() -> None:
    torch.manual_seed(0)
    numbers = numbers_of(nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100)))
    assert numbers["linear[-2].update_initial"] == pytest.approx(0, abs=0.01)
    assert numbers["linear[-2].update_beyond"] == pytest.approx(0, abs=1e-3)
