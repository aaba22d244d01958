"""L-BFGS of many problems at once: exact on quadratics, never worse, each problem on its own."""

import torch

from wscore.autoencoder.coding.lbfgs import minimise


def quadratics(count: int, dim: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, dim, dim, generator=generator)
    matrix = root @ root.mT / dim + 0.05 * torch.eye(dim)
    goal = torch.randn(count, dim, generator=generator)

    def objective(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        away = points - goal
        slope = torch.einsum("nij,nj->ni", matrix, away)
        return (away * slope).sum(1) / 2, slope

    return objective, goal


def test_it_finds_the_minimum_of_quadratics() -> None:
    objective, goal = quadratics(5, 6)
    found = minimise(objective, torch.zeros(5, 6), steps=60)
    assert torch.allclose(found.points, goal, atol=1e-3)


def test_it_needs_far_fewer_steps_than_gradient_descent() -> None:
    objective, _ = quadratics(5, 20)
    start = torch.zeros(5, 20)
    found = minimise(objective, start, steps=40).values
    slow = start
    for _ in range(40):
        slow = slow - 0.2 * objective(slow)[1]
    assert (found < 0.1 * objective(slow)[0]).all()


def test_no_problem_ends_higher_than_it_began_even_on_cliffs() -> None:
    def cliff(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value = (points**4).sum(1) - 3 * points.sum(1)
        broken = points.abs().amax(1) > 2
        return torch.where(broken, torch.nan, value), torch.where(broken[:, None], torch.nan, 4 * points**3 - 3)

    start = torch.linspace(-1.9, 1.9, 12).view(4, 3)
    found = minimise(cliff, start, steps=25, first=50.0)
    assert (found.values <= cliff(start)[0]).all()
    assert torch.allclose(found.points, torch.full_like(start, 0.75 ** (1 / 3)), atol=1e-2)


def test_problems_do_not_touch_each_other() -> None:
    objective, _ = quadratics(3, 4)
    together = minimise(objective, torch.zeros(3, 4), steps=9).points

    def first(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, slope = objective(points.expand(3, -1))
        return value[:1], slope[:1]

    assert torch.allclose(minimise(first, torch.zeros(1, 4), steps=9).points[0], together[0], atol=1e-5)


def test_no_steps_leave_the_start() -> None:
    objective, _ = quadratics(2, 3)
    start = torch.ones(2, 3)
    assert torch.equal(minimise(objective, start, steps=0).points, start)
