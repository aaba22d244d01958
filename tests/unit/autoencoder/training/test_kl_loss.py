"""KL from the standard normal: values by hand, and a numerical integral."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from wscore.autoencoder.training.kl_loss import kl_standard_normal


@pytest.mark.parametrize(
    ("mean", "variance", "nats"),
    [
        ([0.0, 0.0], [1.0, 1.0], 0.0),
        ([2.0], [1.0], 2.0),  # 1/2 * 4
        ([0.0], [math.e], (math.e - 2) / 2),  # 1/2 (e - 1 - 1)
        ([1.0, -1.0], [4.0, 0.25], (1 + 3 - math.log(4) + 1 - 0.75 + math.log(4)) / 2),
    ],
)
def test_values_by_hand(mean: list[float], variance: list[float], nats: float) -> None:
    found = kl_standard_normal(torch.tensor([mean]), torch.tensor([variance]).log())
    assert found.shape == (1,)
    assert found.item() == pytest.approx(nats, abs=1e-6)


def test_it_is_that_of_the_distributions_and_never_negative() -> None:
    mean, log_variance = torch.randn(50, 7), 3 * torch.randn(50, 7)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    found = kl_standard_normal(mean, log_variance)
    assert torch.allclose(found, expected, rtol=1e-4)
    assert bool((found >= 0).all())


def test_half_precision_is_computed_in_single() -> None:
    mean = torch.full((1, 4096), 8.0, dtype=torch.float16)
    assert kl_standard_normal(mean, torch.zeros_like(mean)).item() == 4096 * 32
