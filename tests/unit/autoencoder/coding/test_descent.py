"""Coordinate descent: exact where the divergence is quadratic, within its budget, and never worse than where it began."""

import pytest
import torch
from torch import Tensor

from wscore.autoencoder.coding.descent import Expansion, curvature_at, descended
from wscore.autoencoder.training.behaviour_loss import behaviour_kl, spread

NETWORKS, SIZE = 3, 12


def magnitudes(numbers: Tensor) -> Tensor:
    return numbers.abs()


def quadratic(damping: float = 0.0) -> tuple[Expansion, Tensor]:
    """Return expansions at numbers whose squared distance from others counts, and these others."""
    random = torch.Generator().manual_seed(0)
    roots = torch.randn(NETWORKS, 4 * SIZE, SIZE, generator=random)
    curvature, aims = roots.mT @ roots / SIZE, torch.randn(NETWORKS, SIZE, generator=random)
    gradient = -(curvature @ aims[..., None])[..., 0]  # at 0
    return Expansion(gradient, curvature, torch.full((NETWORKS,), damping)), aims


def cost(near: Expansion, numbers: Tensor) -> Tensor:
    squares = torch.einsum("nd,nde,ne->n", numbers, near.curvature, numbers) / 2
    return (near.gradient * numbers).sum(1) + squares


def test_free_bits_lead_to_a_minimum_among_neighbours() -> None:
    near, _ = quadratic()
    start = torch.zeros(NETWORKS, SIZE)
    best = descended(start, near, magnitudes, torch.full((NETWORKS,), 1e6), torch.zeros(NETWORKS))
    assert torch.equal(best, best.round())
    for place in range(SIZE):
        for way in (-1, 1):
            other = best.clone()
            other[:, place] += way
            assert (cost(near, other) >= cost(near, best) - 1e-4).all()


@pytest.mark.parametrize("budget", [4.0, 10.0])
def test_numbers_fit_their_budget_and_are_no_worse(budget: float) -> None:
    near, _ = quadratic()
    start = torch.zeros(NETWORKS, SIZE)
    best = descended(start, near, magnitudes, torch.full((NETWORKS,), budget), torch.full((NETWORKS,), 2.0))
    assert (best.abs().sum(1) <= budget).all()
    assert (cost(near, best) < 0).all()


def test_damped_steps_are_shorter() -> None:
    budgets, free = torch.full((NETWORKS,), 1e6), torch.zeros(NETWORKS)
    bold, shy = (
        descended(torch.zeros(NETWORKS, SIZE), quadratic(damping)[0], magnitudes, budgets, free).abs().sum()
        for damping in (0.0, 10.0)
    )
    assert shy < bold / 2


def test_the_curvature_is_the_second_derivative_where_outputs_agree() -> None:
    random = torch.Generator().manual_seed(1)
    weights, images = torch.randn(1, 15, generator=random), torch.randn(20, 5, generator=random)
    run = lambda numbers, x: x @ numbers.view(-1, 3, 5).mT  # noqa: E731
    expected = run(weights, images[None])
    loss = lambda numbers: behaviour_kl(expected, run(numbers[None], images[None]), 0.5).sum()  # noqa: E731
    exact = torch.autograd.functional.hessian(loss, weights[0])
    measured = curvature_at(run, weights[0], images, 0.5 * spread(expected)[0])
    assert torch.allclose(measured, torch.as_tensor(exact), atol=1e-4)
