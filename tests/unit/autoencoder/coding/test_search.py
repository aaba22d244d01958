"""Search: fits its budget, never worse than where it began, better than rounding where numbers can make up for each other."""

import pytest
import torch
from torch import Tensor

from wscore.autoencoder.coding.problem import SearchConfig, SearchProblem
from wscore.autoencoder.coding.search import PRICE, fitted, rounded, search

CONFIG = SearchConfig(steps=200, batch=64, lr=0.1, temperature=0.5, noise=0.0, seed=0)


class Logarithmic:
    """Bits that grow with the magnitude."""

    def bits(self, numbers: Tensor) -> Tensor:
        return 2 * torch.log2(1 + numbers.abs())

    def learn(self, numbers: Tensor) -> None:
        pass


def linear_problem(budget: float, networks: int = 3) -> tuple[SearchProblem, Tensor]:
    """Return networks that are matrices (4 classes x 16 inputs) of numbers, on inputs of three dimensions."""
    random = torch.Generator().manual_seed(0)
    exact = 2 * torch.randn(networks, 64, generator=random)
    images = (torch.randn(200, 3, generator=random) @ torch.randn(3, 16, generator=random)).view(200, 1, 4, 4)
    budgets = torch.full((networks,), budget)
    return SearchProblem(lambda _: linear, lambda x: linear(exact, x[None]), images, Logarithmic(), budgets), exact


def linear(numbers: Tensor, images: Tensor) -> Tensor:
    """Return what matrices (m, 64) answer on images of each, or of all."""
    return images.flatten(2) @ numbers.view(-1, 4, 16).mT


@pytest.mark.parametrize("budget", [40.0, 60.0, 120.0])
def test_results_fit_the_budget_and_beat_rounding(budget: float) -> None:
    problem, exact = linear_problem(budget)
    plain = fitted(problem.prices, exact, problem.budget)
    found = search(problem, exact, CONFIG, plain)
    assert (problem.prices.bits(found.numbers).sum(1) <= budget).all()
    assert torch.equal(found.numbers, found.numbers.round())
    before = search(problem, exact, _without(CONFIG))
    assert found.divergence.mean() < 0.7 * before.divergence.mean()


def _without(config: SearchConfig) -> SearchConfig:
    return SearchConfig(steps=0, batch=config.batch, lr=config.lr, temperature=0.5, noise=0.0, seed=0)


def test_what_is_known_is_never_lost() -> None:
    problem, exact = linear_problem(1e9)
    best = exact.round()
    found = search(problem, torch.zeros_like(exact), _without(CONFIG), best)
    assert torch.equal(found.numbers, best)


def test_networks_do_not_depend_on_their_company() -> None:
    problem, exact = linear_problem(60.0)
    alone = problem._replace(
        originals=lambda x: linear(exact[:1], x[None]),
        budget=problem.budget[:1],
    )
    together = search(problem, exact, _without(CONFIG)).numbers[:1]
    assert torch.equal(search(alone, exact[:1], _without(CONFIG)).numbers, together)


def test_a_lower_neighbour_is_taken_where_it_saves_bits() -> None:
    numbers = torch.tensor([[0.55, 0.95, -7.5]])
    whole, bits = rounded(Logarithmic(), numbers, PRICE)
    assert whole.tolist() == [[0.0, 1.0, -7.0]]
    assert float(bits) == pytest.approx(2 + 6)
