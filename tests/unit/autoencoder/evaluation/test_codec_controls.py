"""Controls of the codec: they fit their bytes, come back from them, and use what they claim to use."""

import pytest
import torch
from torch import Tensor

from wscore.autoencoder.coding.problem import SearchConfig
from wscore.autoencoder.evaluation.codec_controls import (
    FINER,
    LEVELS,
    OFFSETS,
    Networks,
    TensorCode,
    TensorCoder,
    curvature,
    decoded,
    plain,
    search_own,
)
from wscore.autoencoder.training.behaviour_loss import behaviour_kl
from wscore.networks.inference import ModuleAnswer
from wscore.networks.layout import layout_of

ROOM = 36  # bytes for 123 weights


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Perceptrons on images of which only half of the pixels are ever lit."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    layout = layout_of(module.state_dict())
    vectors = 0.5 * torch.randn(2, layout.size)
    images = torch.rand(300, 1, 4, 4)
    images[:, :, :2] = 0
    return Networks(layout, ModuleAnswer(module, layout), vectors, images)


def divergence(networks: Networks, vectors: Tensor) -> float:
    images = networks.images[None]
    return float(behaviour_kl(networks.answer(networks.vectors, images), networks.answer(vectors, images), 0.5).mean())


def test_every_control_fits_its_bytes_and_none_is_worse_than_the_one_before(networks: Networks) -> None:
    room = torch.full((2,), ROOM)
    rounded = curvature(networks, [ROOM, 5 * ROOM])
    config = SearchConfig(steps=150, batch=64, noise=0.0)
    first, second = plain(networks, room), decoded(networks, rounded[0])
    third = decoded(networks, search_own(networks, rounded[0], room, config))
    assert all((coded.sizes <= ROOM).all() for coded in (first, second, third))
    assert all((coded.sizes >= ROOM - 1).all() for coded in (first, second))
    losses = [divergence(networks, coded.vectors) for coded in (first, second, third)]
    assert losses[2] <= losses[1] < 0.5 * losses[0]
    assert divergence(networks, decoded(networks, rounded[1]).vectors) < 0.2 * losses[1]


def test_a_search_takes_finer_steps_where_that_is_better_and_changes_nothing_where_bits_are_many(
    networks: Networks,
) -> None:
    rounded = curvature(networks, [30])[0]
    searched = search_own(networks, rounded, torch.tensor([30, 300]), SearchConfig(steps=100, batch=64, noise=0.0))
    assert searched.step.tolist() == [int(rounded.step[0]) + FINER, int(rounded.step[1])]
    assert not torch.equal(searched.numbers[0], rounded.numbers[0])
    assert torch.equal(searched.numbers[1], rounded.numbers[1])


def test_networks_come_back_from_their_bytes_alone(networks: Networks) -> None:
    coder, random = TensorCoder(networks.layout), torch.Generator().manual_seed(0)
    numbers = (5 * torch.randn(1, networks.layout.size, generator=random)).round()
    offsets = torch.randint(OFFSETS, (coder.count,), generator=random)
    code = TensorCode(7, offsets, coder.levels(numbers)[0], numbers[0].long())
    payload = coder.encode(code)
    back = coder.decode(7, payload)
    assert all(torch.equal(getattr(back, name), getattr(code, name)) for name in ("offsets", "levels", "numbers"))
    assert len(payload) == pytest.approx(float(coder.total(numbers)) / 8, abs=5)


def test_the_table_of_fewest_bits_is_taken(networks: Networks) -> None:
    coder = TensorCoder(networks.layout)
    numbers = torch.zeros(1, networks.layout.size)
    numbers[:, coder.groups == 0] = 300.0
    levels = coder.levels(numbers)[0]
    assert levels[0] >= LEVELS - 3
    assert (levels[1:] == 0).all()
