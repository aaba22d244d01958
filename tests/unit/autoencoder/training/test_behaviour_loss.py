"""Behaviour losses: values computed by hand, loops as references, and what must not change them."""

import math

import pytest
import torch

from wscore.autoencoder.training.behaviour_loss import (
    CEILING,
    agreement,
    behaviour_kl,
    spread,
)

# Two images and two classes: centred logits are (1, -1) and (-1, 1), their spread is 1.
ORIGINAL = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
TURNED = ORIGINAL.flip(-1)


def random_logits(seed: int, networks: int = 3) -> torch.Tensor:
    return torch.randn(networks, 7, 4, generator=torch.Generator().manual_seed(seed)) * 3


def test_the_spread_is_that_of_centred_logits_over_images() -> None:
    assert spread(ORIGINAL).item() == pytest.approx(1.0)
    assert spread(5 * ORIGINAL + 3).item() == pytest.approx(5.0)
    assert spread(torch.ones(1, 4, 3)).item() == pytest.approx(1e-6)  # answers every image alike


def test_kl_by_hand() -> None:
    # softmax((1, -1)) = (a, 1 - a), a = 1 / (1 + e^-2): KL against the other way round = (2 a - 1) * 2.
    share = 1 / (1 + math.exp(-2))
    assert behaviour_kl(ORIGINAL, TURNED, 1.0).item() == pytest.approx((2 * share - 1) * 2, rel=1e-6)
    assert behaviour_kl(ORIGINAL, ORIGINAL, 1.0).item() == pytest.approx(0, abs=1e-7)


def test_kl_equals_a_loop() -> None:
    first, second = random_logits(0), random_logits(1)
    for number in range(len(first)):
        scale = 0.5 * float(spread(first)[number])
        total = 0.0
        for image in range(first.shape[1]):
            p = (first[number, image] / scale).softmax(-1)
            q = (second[number, image] / scale).softmax(-1)
            total += float((p * (p / q).log()).sum())
        assert behaviour_kl(first, second, 0.5)[number].item() == pytest.approx(total / first.shape[1], rel=1e-4)


def test_scale_and_shift_of_both_change_nothing() -> None:
    first, second, loss = random_logits(0), random_logits(1), behaviour_kl
    shift = torch.randn(3, 7, 1, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(loss(first, second, 0.7), loss(10 * first + shift, 10 * second - shift, 0.7), atol=1e-4)


def test_networks_do_not_touch_each_other() -> None:
    first, second, loss = random_logits(0), random_logits(1), behaviour_kl
    alone = torch.stack([loss(first[[n]], second[[n]], 1.0)[0] for n in range(3)])
    assert torch.allclose(loss(first, second, 1.0), alone)


def test_a_broken_network_costs_the_ceiling_and_pulls_nothing() -> None:
    far = (1e4 * TURNED).requires_grad_(True)
    found = behaviour_kl(ORIGINAL, far, 1.0)
    assert found.item() == CEILING
    found.sum().backward()
    assert far.grad is not None
    assert far.grad.abs().sum() == 0


def test_agreement_counts_answers_and_no_broken_ones() -> None:
    assert agreement(ORIGINAL, ORIGINAL).item() == 1
    assert agreement(ORIGINAL, TURNED).item() == 0
    broken = ORIGINAL.clone()
    broken[0, 0, 1] = torch.nan
    assert agreement(ORIGINAL, broken).item() == 0.5
