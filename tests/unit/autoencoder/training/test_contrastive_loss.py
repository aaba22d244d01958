import math

import pytest
import torch

from wscore.autoencoder.training.contrastive_loss import nt_xent
from wscore.errors import TrainingError

FIRST = torch.tensor([[1.0, 0.0], [0.0, 2.0]])


def test_by_hand():
    """Views (1,0), (0,1), (1,0), (0,1): each sees its partner at cosine 1 and the two views of the other at 0."""
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 2))
    assert nt_xent(FIRST, 3 * FIRST, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_equal_views_of_all_networks_cost_the_logarithm_of_the_choices():
    same = torch.ones(4, 3)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(7), rel=1e-6)


def test_it_is_smallest_where_views_match():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 8, generator=generator)
    assert nt_xent(latents, latents, 0.1) < nt_xent(latents, latents.roll(1, 0), 0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_and_autocast_are_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 16, 32, generator=generator).to(dtype)
    exact = nt_xent(first.double(), second.double(), 0.05).item()
    assert nt_xent(first, second, 0.05).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = nt_xent(first, second, 0.05)
    assert cast.dtype == torch.float32
    assert cast.item() == pytest.approx(exact, rel=1e-5)


def test_small_temperatures_do_not_overflow():
    latents = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = nt_xent(latents, latents + 0.1, 1e-4)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(latents.grad).all()


def test_zero_latents_have_finite_gradients():
    latents = torch.zeros(3, 4, requires_grad=True)
    nt_xent(latents, latents, 0.1).backward()
    assert torch.isfinite(latents.grad).all()


def test_gradients_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (first, second))


@pytest.mark.parametrize("count", [0, 1])
def test_a_lone_network_is_refused(count):
    with pytest.raises(TrainingError, match=f"expected 2 networks or more; got {count}"):
        nt_xent(torch.ones(count, 3), torch.ones(count, 3), 0.1)
