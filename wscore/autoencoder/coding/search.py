"""Search for the whole numbers that keep what a network does, of all that fit a budget of bits.

The numbers of a code are trained as the weights of a quantised network are: an optimizer moves u, q = round(u) is what the
network runs with, and the gradient by q is taken for that by u (straight-through estimator, Bengio et al. 2013). Adam minimises

    KL(softmax(l / T) || softmax(l^(q) / T)) + lambda bits(q)

over training images, with noise, for many networks at once. The slope of the bits between neighbouring whole numbers stands for
their gradient, and lambda of each network follows its bits: it rises while they are over the budget. q prefers the lower
neighbour where that saves more bits than it costs in squared error. At the end, and at times before, numbers are lowered until
they fit, and the best of what fits is kept, by the divergence on a fixed draw of images.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor

from wscore.autoencoder.training.behaviour_loss import behaviour_kl
from wscore.config import Section
from wscore.networks.inference import Answer, answer_of_rows
from wscore.progress import progress_bar

#: Bits that a squared error of a step is worth: a further bit lowers the mean error 1 / 12 by its derivative 2 ln 2.
PRICE = 2 * math.log(2) / 12
FINEST, COARSEST = 1e-3, 1e9  # prices at which numbers are rounded to the next, and at which nothing is left
HALVINGS = 16  # of the interval in which the price lies
LATE, EVERY = 0.5, 10  # share of the steps after which results are looked at, and how often
GAIN, LARGEST = 1.0, 0.2  # how fast lambda follows the bits: log steps
LEAST_RATE = 0.02  # of the learning rate at the end
BETAS = (0.9, 0.98)  # of Adam
HELD = 256  # images by which results are compared
POOL, PIXELS = 2048, 1 << 26  # noisy images from which batches are drawn, and most numbers of them all


class SearchConfig(Section):
    """How numbers are searched.

    Args:
        steps: of the optimizer.
        batch: training images in each.
        lr: of Adam at the start, in steps of the code; falls along a cosine.
        temperature: of the divergence, in spreads of the original's logits.
        noise: standard deviation of what is added to the images.
        seed: of draws.
    """

    steps: Annotated[int, Meta(ge=0)] = 300
    batch: Annotated[int, Meta(ge=1)] = 32
    lr: Annotated[float, Meta(gt=0)] = 0.1
    temperature: Annotated[float, Meta(gt=0)] = 0.5
    noise: Annotated[float, Meta(ge=0)] = 0.05
    seed: Annotated[int, Meta(ge=0)] = 0


@runtime_checkable
class Prices(Protocol):
    """What numbers cost."""

    def bits(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return the bits of whole numbers."""
        ...

    def learn(self, numbers: Float[Tensor, "n weights"]) -> None:
        """Learn from the numbers of the moment, where prices depend on them."""
        ...


class Originals(NamedTuple):
    """Networks of one layout that are to be compressed.

    Attributes:
        vectors: their weights.
        base: weights of a network from which differences are coded; None codes the weights.
        answer: runs all of them; None if they can't be run.
        images: training images that they are run on.
    """

    vectors: Float[Tensor, "n weights"]
    base: Float[Tensor, "1 weights"] | None = None
    answer: Answer | None = None
    images: Float[Tensor, "images ..."] | None = None

    def of(self, rows: Int[Tensor, " some"]) -> "Originals":
        """Return some of the networks."""
        return self._replace(vectors=self.vectors[rows], answer=self._answer_of(rows.tolist()))

    def _answer_of(self, rows: list[int]) -> Answer | None:
        return None if self.answer is None else answer_of_rows(self.answer, rows)

    def chosen(self, count: int, seed: int) -> Float[Tensor, "images ..."]:
        """Return at most so many of the images, drawn by a seed."""
        assert self.images is not None, "networks that are run have images"
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        return self.images[order[:count]]

    def problem(self, decode: Callable[[Tensor], Tensor], prices: "Prices", budget: Tensor) -> "SearchProblem":
        """Return the search for numbers that `decode` turns into weights; equal originals are run once."""
        answer, images = self.answer, self.images
        assert answer is not None, "networks are run"
        assert images is not None, "networks are run"
        rows, places = distinct(self.vectors)
        alone = answer_of_rows(answer, rows)
        return SearchProblem(
            outputs=lambda numbers, x: answer(decode(numbers), x[None]),
            originals=lambda x: alone(self.vectors[rows], x[None])[places],
            images=images,
            prices=prices,
            budget=budget,
        )

    @torch.no_grad()
    def judge(self, config: SearchConfig) -> "Judge":
        """Return what compares networks that came back with these on a fixed draw of images; equal originals are run once."""
        assert self.answer is not None, "networks are run"
        images, (rows, places) = self.chosen(HELD, config.seed)[None], distinct(self.vectors)
        expected = answer_of_rows(self.answer, rows)(self.vectors[rows], images)
        return Judge(self, images, expected, places, config.temperature)


class Judge(NamedTuple):
    """Tells how far networks that came back are from their originals.

    Attributes:
        originals: the networks.
        images: on which they are compared.
        expected: logits of those that differ.
        places: of each network among these.
        temperature: of the divergence.
    """

    originals: Originals
    images: Float[Tensor, "1 images ..."]
    expected: Float[Tensor, "different images classes"]
    places: Int[Tensor, " n"]
    temperature: float

    @torch.no_grad()
    def divergence(
        self, back: Float[Tensor, "some weights"], rows: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, " some"]:
        """Return the divergence of all networks that came back, or of those of some rows."""
        rows = torch.arange(len(self.places)) if rows is None else rows
        answer = self.originals.of(rows).answer
        assert answer is not None, "networks are run"
        divergences = behaviour_kl(self.expected[self.places[rows]], answer(back, self.images), self.temperature)
        return torch.nan_to_num(divergences, nan=torch.inf)


def distinct(vectors: Float[Tensor, "n weights"]) -> tuple[list[int], Int[Tensor, " n"]]:
    """Return rows that differ from one another, and for each row the place among them of its like."""
    if len(vectors) == 1:
        return [0], torch.zeros(1, dtype=torch.int64)
    _, places = vectors.unique(dim=0, return_inverse=True)
    return [int((places == place).nonzero()[0]) for place in range(int(places.max()) + 1)], places


class SearchProblem(NamedTuple):
    """Networks that differ in their weights alone, as functions of numbers.

    Attributes:
        outputs: logits (n, I, C) of networks of numbers (n, D), whole or not, on images; differentiable.
        originals: logits (n, I, C) of the original networks.
        images: training images.
        prices: of numbers.
        budget: bits for each network.
    """

    outputs: Callable[[Tensor, Tensor], Tensor]
    originals: Callable[[Tensor], Tensor]
    images: Float[Tensor, "images ..."]
    prices: Prices
    budget: Float[Tensor, " n"]


class Found(NamedTuple):
    """Result of a search.

    Attributes:
        numbers: whole numbers that fit their budget; where nothing fits, those of fewest bits.
        divergence: of each network, on the images by which results are compared.
        points: where the search ended, not rounded.
    """

    numbers: Float[Tensor, "n weights"]
    divergence: Float[Tensor, " n"]
    points: Float[Tensor, "n weights"]


def search(
    problem: SearchProblem,
    start: Float[Tensor, "n weights"],
    config: SearchConfig,
    known: Float[Tensor, "n weights"] | None = None,
) -> Found:
    """Return whole numbers near `start`, numbers that need be neither whole nor within the budget.

    Args:
        problem: the networks.
        start: where the search begins.
        config: of the search.
        known: whole numbers within the budget; what is found is no worse.
    """
    state = _Search(problem, start, config)
    if known is not None:
        state.offer(known)
    for step in progress_bar(range(config.steps), desc="searching", unit="step"):
        if step >= LATE * config.steps and step % EVERY == 0:
            state.keep()
        state.step(step / config.steps)
    state.keep()
    return Found(state.best, state.value, state.numbers.detach())


class _Search:
    def __init__(self, problem: SearchProblem, start: Tensor, config: SearchConfig) -> None:
        self.problem, self.config = problem, config
        self.random = torch.Generator().manual_seed(config.seed)
        self.held = problem.images[torch.randperm(len(problem.images), generator=self.random)[:HELD]]
        with torch.no_grad():
            self.expected = problem.originals(self.held)
        self.pool, self.answers = self._pool()
        self.numbers = start.detach().clone().requires_grad_(True)
        self.first, self.second, self.steps = torch.zeros_like(start), torch.zeros_like(start), 0
        problem.prices.learn(start.detach().round())
        self.log_rate = self.first_rate = self._first_rate().log()
        self.best, self.value = torch.zeros_like(start), torch.full((len(start),), torch.inf)
        self.keep()

    def step(self, share: float) -> None:
        """Move the numbers once, `share` of the search done."""
        drawn = torch.randint(len(self.pool), (self.config.batch,), generator=self.random)
        with torch.no_grad():
            whole, bits = rounded(self.problem.prices, self.numbers, self._price())
            slopes = _slopes(self.problem.prices, self.numbers)
        outputs = self.problem.outputs(self.numbers + (whole - self.numbers).detach(), self.pool[drawn])
        loss = behaviour_kl(self.answers[:, drawn], outputs, self.config.temperature).sum()
        (gradient,) = torch.autograd.grad(loss, self.numbers)
        rate = self.config.lr * max((1 + math.cos(math.pi * share)) / 2, LEAST_RATE)
        self._move(torch.nan_to_num(gradient) + self.log_rate.exp()[:, None] * slopes, rate)
        excess = bits / self.problem.budget - 1
        self.log_rate = self.log_rate + (GAIN * excess).clamp(-LARGEST, LARGEST)
        self.problem.prices.learn(whole)

    def _price(self) -> Tensor:
        """Return what a bit is worth as numbers are rounded: less where bits are left over."""
        return PRICE * (self.log_rate - self.first_rate).clamp_max(0).exp()[:, None]

    @torch.no_grad()
    def _move(self, gradient: Tensor, rate: float) -> None:
        """Take a step of Adam (its class in torch takes seconds to import)."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = (self.second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(1e-12)
        self.numbers.addcdiv_(self.first, scale, value=-rate / (1 - BETAS[0] ** self.steps))

    @torch.no_grad()
    def keep(self) -> None:
        """Keep the numbers of the moment, lowered to fit, where they are the best so far."""
        self.offer(fitted(self.problem.prices, self.numbers.detach(), self.problem.budget))

    @torch.no_grad()
    def offer(self, whole: Tensor) -> None:
        """Keep whole numbers where they are the best so far."""
        value = self._divergence(whole)
        better = value < self.value
        self.best, self.value = torch.where(better[:, None], whole, self.best), torch.where(better, value, self.value)

    def _divergence(self, numbers: Tensor) -> Tensor:
        return torch.nan_to_num(
            behaviour_kl(self.expected, self.problem.outputs(numbers, self.held), self.config.temperature),
            nan=torch.inf,
        )

    @torch.no_grad()
    def _first_rate(self) -> Tensor:
        """Return what a bit is worth where all numbers are rounded: the mean loss of it per number, times `PRICE` x 6."""
        noise = torch.rand(self.numbers.shape, generator=self.random) - 0.5
        return (12 * PRICE * self._divergence(self.numbers + noise) / self.numbers.shape[1]).clamp_min(1e-12)

    @torch.no_grad()
    def _pool(self) -> tuple[Tensor, Tensor]:
        """Return noisy images, each of the images about as often, and what the originals answer."""
        images = self.problem.images
        count = max(self.config.batch, min(POOL, self.config.steps * self.config.batch, PIXELS // images[0].numel()))
        order = torch.cat([torch.randperm(len(images), generator=self.random) for _ in range(-(-count // len(images)))])
        pool = images[order[:count]]
        pool = pool + self.config.noise * torch.randn(pool.shape, generator=self.random)
        return pool, torch.cat([self.problem.originals(part) for part in pool.split(HELD)], 1)


def rounded(
    prices: Prices, numbers: Float[Tensor, "n weights"], price: float | Float[Tensor, "n 1"], *, far: bool = False
) -> tuple[Float[Tensor, "n weights"], Float[Tensor, " n"]]:
    """Return the whole numbers next to some, or lower ones where that saves bits that are worth it, and their bits.

    Args:
        prices: of numbers.
        numbers: (n, D).
        price: squared error that a bit is worth.
        far: whether half the number, and 0, are looked at besides the neighbour.
    """
    best = numbers.round()
    bits = prices.bits(best)
    cost = (numbers - best).square() + price * bits
    lower = best - best.sign()
    for other in (lower, (best / 2).trunc(), torch.zeros_like(best)) if far else (lower,):
        other_bits = prices.bits(other)
        other_cost = (numbers - other).square() + price * other_bits
        down = other_cost < cost
        best, bits, cost = (
            torch.where(down, new, old) for new, old in ((other, best), (other_bits, bits), (other_cost, cost))
        )
    return best, bits.sum(1)


def fitted(
    prices: Prices, numbers: Float[Tensor, "n weights"], budget: Float[Tensor, " n"]
) -> Float[Tensor, "n weights"]:
    """Return whole numbers within a budget, bits being worth as much as it takes; zeros where nothing fits."""
    low, high = (torch.full((len(numbers), 1), price) for price in (FINEST, COARSEST))
    whole, bits = rounded(prices, numbers, low)
    fits = (bits <= budget)[:, None]
    if fits.all():
        return whole
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        inside = (rounded(prices, numbers, middle, far=True)[1] <= budget)[:, None]
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return torch.where(fits, whole, rounded(prices, numbers, high, far=True)[0])


def _slopes(prices: Prices, numbers: Tensor) -> Tensor:
    """Return by how much the bits differ between the whole numbers on both sides, as a gradient by the numbers."""
    low = numbers.abs().floor()
    return (prices.bits(low + 1) - prices.bits(low)) * numbers.sign()
