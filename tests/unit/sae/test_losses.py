"""Penalties against values worked out by hand, and at the places where the usual formulas break."""

import pytest
import torch

from wscore.errors import TrainingError
from wscore.sae.losses import (
    activation_rate,
    hard_step,
    hoyer_sparseness,
    hoyer_sparsity_loss,
    jump_relu,
    kl_divergence,
    kl_divergence_sparsity_loss,
    l0,
    l0_target_loss,
    l1_sparsity_loss,
)

PENALTIES = {"l1": l1_sparsity_loss, "kl": kl_divergence_sparsity_loss, "hoyer": hoyer_sparsity_loss}


def codes(*values: float) -> torch.Tensor:
    return torch.tensor([values], requires_grad=True)


def test_l1_by_hand() -> None:
    z = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    assert l1_sparsity_loss(z).item() == pytest.approx(1.5)
    assert l1_sparsity_loss(z, reduction="sum").item() == pytest.approx(3.0)
    assert l1_sparsity_loss(z, reduction="sum", norms=torch.tensor([2.0, 0.5])).item() == pytest.approx(2.25)


@pytest.mark.parametrize(
    ("target", "rate", "expected"),
    [(0.05, 0.05, 0.0), (0.05, 0.2, 0.093943), (0.05, 0.5, 0.494632), (0.1, 0.2, 0.036690)],
)
def test_kl_by_hand(target: float, rate: float, expected: float) -> None:
    assert kl_divergence(torch.tensor([rate]), target).item() == pytest.approx(expected, abs=2e-6)
    both = kl_divergence(torch.tensor([rate, rate]), target, reduction="sum")
    assert both.item() == pytest.approx(2 * expected, abs=4e-6)


@pytest.mark.parametrize("rate", [0.0, 1e-7, 1 - 1e-6, 1.0])
def test_kl_at_its_ends_is_finite_and_pulls_back(rate: float) -> None:
    p = torch.tensor([rate], requires_grad=True)
    value = kl_divergence(p, 0.05)
    value.backward()
    assert p.grad is not None
    assert value.isfinite()
    assert p.grad.isfinite().all()
    assert (p.grad.item() > 0) == (rate > 0.05)
    assert abs(p.grad.item()) > 1


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_kl_refuses_what_is_no_rate(rate: float) -> None:
    with pytest.raises(TrainingError, match="is not a rate"):
        kl_divergence(torch.tensor([rate]), 0.05)


def test_kl_refuses_bad_targets_and_an_epsilon_that_float32_does_not_know() -> None:
    for target in (0.0, 1.0, -0.5):
        with pytest.raises(TrainingError, match="target is not a rate"):
            kl_divergence_sparsity_loss(torch.ones(2, 3), target)
    with pytest.raises(TrainingError, match="epsilon is too small"):
        kl_divergence_sparsity_loss(torch.ones(2, 3), 0.05, 1e-10)


def test_kl_takes_the_mean_of_a_latent_before_the_logarithm() -> None:
    on_half_the_time = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert kl_divergence_sparsity_loss(on_half_the_time, 1 / 2.2).item() < 1e-5


def test_rate_ignores_scale_and_tells_constant_small_codes_from_rare_ones() -> None:
    z = torch.rand(50, 4)
    assert torch.allclose(activation_rate(z), activation_rate(1000 * z), atol=1e-6)
    always = torch.full((20, 1), 0.05)
    assert activation_rate(always).item() > 0.9  # a mean activation would call this a target of 0.05 reached


def test_hoyer_by_hand() -> None:
    z = codes(3.0, 4.0, 0.0, 0.0)
    loss = hoyer_sparsity_loss(z)
    loss.backward()
    assert z.grad is not None
    assert hoyer_sparseness(z).item() == pytest.approx(0.6)
    assert loss.item() == pytest.approx(0.4)
    assert torch.allclose(z.grad, torch.tensor([[0.032, -0.024, 0.0, 0.0]]), atol=1e-6)


def test_hoyer_of_one_hot_uniform_and_silent_codes() -> None:
    z = torch.stack([torch.eye(5)[2], torch.ones(5), torch.zeros(5)])
    assert torch.allclose(hoyer_sparseness(z), torch.tensor([1.0, 0.0, 1.0]), atol=1e-6)


def test_hoyer_does_not_depend_on_scale() -> None:
    z = torch.rand(6, 9)
    for scale in (1e-4, 1000.0, 1e-30):
        assert torch.allclose(hoyer_sparseness(scale * z), hoyer_sparseness(z), atol=1e-6)


def test_hoyer_needs_two_latents() -> None:
    with pytest.raises(TrainingError, match="two latents"):
        hoyer_sparsity_loss(torch.ones(3, 1))


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_penalties_are_finite_for_silent_constant_and_saturated_codes(
    name: str, value: float, dtype: torch.dtype
) -> None:
    z = torch.full((8, 6), value, dtype=dtype, requires_grad=True)
    loss = PENALTIES[name](z)
    loss.backward()
    assert z.grad is not None
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_half_precision_is_summed_in_float32() -> None:
    z = torch.full((2, 4096), 30.0, dtype=torch.float16)
    assert l1_sparsity_loss(z, reduction="sum").item() == 30 * 4096  # beyond the largest float16


def test_stacked_codes_give_one_penalty_each() -> None:
    z = torch.rand(3, 10, 4)
    for penalty in PENALTIES.values():
        assert torch.allclose(penalty(z), torch.stack([penalty(one) for one in z]), atol=1e-6)


def test_l0_counts_what_is_not_zero() -> None:
    assert l0(torch.tensor([[0.0, 2.0, 1e-30], [0.0, 0.0, 0.0]])).item() == 1.0
    assert l0_target_loss(torch.tensor(3.0), 2.0).item() == pytest.approx(0.25)


def test_jump_relu_and_step_learn_their_thresholds_from_both_sides() -> None:
    values = torch.tensor([[0.4], [0.6], [2.0], [-1.0]], requires_grad=True)
    threshold = torch.tensor([0.5], requires_grad=True)
    jump = jump_relu(values, threshold, 0.4)
    assert jump.detach().flatten().tolist() == pytest.approx([0.0, 0.6, 2.0, 0.0])
    jump.sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0.0, 1.0, 1.0, 0.0]
    assert threshold.grad is not None
    assert threshold.grad.item() == pytest.approx(-0.5 * 2 / 0.4)  # 0.4 and 0.6 are near, one on each side
    threshold.grad = None
    hard_step(values, threshold, 0.4).sum().backward()
    assert threshold.grad.item() == pytest.approx(-2 / 0.4)
