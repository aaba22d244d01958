import math

import pytest
import torch

from wscore.heads.losses import binary_loss, class_loss, known_mean, regression_loss

KNOWN = torch.tensor([True, False, True])


def test_binary_loss_by_hand():
    logits, target = torch.tensor([0.0, 5.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])
    expected = (3.0 * math.log(2) + math.log(1 + math.e)) / 2  # the second is not known
    assert binary_loss(logits, target, KNOWN, positive_weight=3.0).item() == pytest.approx(expected, rel=1e-6)


def test_regression_loss_by_hand():
    prediction, target = torch.tensor([0.5, 7.0, 3.0]), torch.tensor([0.0, 0.0, 0.0])
    assert regression_loss(prediction, target, KNOWN).item() == pytest.approx((0.25 + 9.0) / 2)


def test_class_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, math.log(3)]])
    loss = class_loss(logits, torch.tensor([0.0, 1.0, 1.0]), KNOWN, class_weights=torch.tensor([2.0, 1.0]))
    assert loss.item() == pytest.approx((2 * math.log(2) + math.log(4 / 3)) / 2, rel=1e-6)


def losses(prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> list[torch.Tensor]:
    return [
        binary_loss(prediction[:, 0], target, known, positive_weight=2.0),
        regression_loss(prediction[:, 0], target, known),
        class_loss(prediction, target, known, class_weights=torch.tensor([1.0, 2.0, 0.5])),
    ]


@pytest.mark.parametrize("value", [0.0, 1.0, 2.0, -1e30, math.nan, math.inf])
@pytest.mark.parametrize("number", range(3))
def test_a_missing_target_changes_neither_loss_nor_gradient(number: int, value: float):
    prediction = torch.randn(3, 3)

    def loss_and_gradient(masked: float) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = prediction.clone().requires_grad_()
        loss = losses(leaf, torch.tensor([1.0, masked, 0.0]), KNOWN)[number]
        loss.backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    for changed, reference in zip(loss_and_gradient(value), loss_and_gradient(1.0), strict=True):
        assert torch.equal(changed, reference)


@pytest.mark.parametrize("number", range(3))
def test_a_known_target_does_change_the_loss(number: int):
    prediction = torch.randn(3, 3)
    every = torch.ones(3, dtype=torch.bool)
    first = losses(prediction, torch.tensor([1.0, 0.0, 0.0]), every)[number]
    assert first != losses(prediction, torch.tensor([1.0, 1.0, 0.0]), every)[number]


@pytest.mark.parametrize("number", range(3))
def test_nothing_known_costs_nothing(number: int):
    leaf = torch.randn(3, 3, requires_grad=True)
    loss = losses(leaf, torch.full((3,), math.nan), torch.zeros(3, dtype=torch.bool))[number]
    loss.backward()
    assert loss.item() == 0
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_known_mean_ignores_what_is_not_known():
    assert known_mean(torch.tensor([1.0, math.nan, 4.0]), KNOWN).item() == 2.5
