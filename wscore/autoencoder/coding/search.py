"""Search for the whole numbers that keep what a network does, of all that fit a budget of bits.

The numbers of a code are trained as the weights of a quantised network are: an optimizer moves u, q = round(u) is what the
network runs with, and the gradient by q is taken for that by u (straight-through estimator, Bengio et al. 2013). Adam minimises

    KL(softmax(l / T) || softmax(l^(q) / T)) + lambda bits(q)

over training images, with noise, for many networks at once. The slope of the bits between neighbouring whole numbers stands for
their gradient, and lambda of each network follows its bits: it rises while they are over the budget. q prefers the lower
neighbour where that saves more bits than it costs in squared error. At the end, and at times before, numbers are lowered until
they fit, and the best of what fits is kept, by the divergence on a fixed draw of images. Numbers of networks whose curvature
can be held then go through coordinate descent (`descent`).
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.curvature import MOST
from wscore.autoencoder.coding.descent import Expansion, curvature_at, descended
from wscore.autoencoder.coding.problem import HELD, Outputs, Prices, SearchConfig, SearchProblem
from wscore.autoencoder.training.behaviour_loss import behaviour_kl, spread
from wscore.progress import progress_bar

#: Bits that a squared error of a step is worth: a further bit lowers the mean error 1 / 12 by its derivative 2 ln 2.
PRICE = 2 * math.log(2) / 12
FINEST, COARSEST = 1e-3, 1e9  # prices at which numbers are rounded to the next, and at which nothing is left
HALVINGS = 16  # of the interval in which the price lies
LATE, EVERY = 0.5, 10  # share of the steps after which results are looked at, and how often
GAIN, LARGEST = 1.0, 0.2  # how fast lambda follows the bits: log steps
LEAST_RATE = 0.02  # of the learning rate at the end
BETAS = (0.9, 0.98)  # of Adam
CURVED = 256  # noisy images of their curvature and of their gradients
ROUNDS, DAMPING = 6, 0.3  # of coordinate descent, and damping of the first
BOLDER, SHYER = 0.5, 2.0  # factors of damping after a round that was better, and after one that was not
AT_ONCE = 1 << 26  # numbers of matrices that are held
POOL, PIXELS = 2048, 1 << 26  # noisy images from which batches are drawn, and most numbers of them all


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
    if config.steps and start.shape[1] <= MOST:
        for rows in state.every.split(max(1, AT_ONCE // start.shape[1] ** 2)):
            state.descend(rows)
    return Found(state.best, state.value, state.numbers.detach())


class _Search:
    def __init__(self, problem: SearchProblem, start: Tensor, config: SearchConfig) -> None:
        self.problem, self.config = problem, config
        self.random = torch.Generator().manual_seed(config.seed)
        self.every = torch.arange(len(start))
        self.run = problem.of(self.every.tolist())
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
        outputs = self.run(self.numbers + (whole - self.numbers).detach(), self.pool[drawn][None])
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
    def offer(self, whole: Tensor, rows: Tensor | None = None) -> None:
        """Keep whole numbers, of all networks or of some, where they are the best so far."""
        rows = self.every if rows is None else rows
        value = self._divergence(whole, rows)
        better = value < self.value[rows]
        self.best[rows[better]], self.value[rows[better]] = whole[better], value[better]

    @torch.no_grad()
    def descend(self, rows: Int[Tensor, " some"]) -> None:
        """Keep what rounds of coordinate descent from the best numbers find, each from the better of two."""
        run, images, expected = self.problem.of(rows.tolist()), self.pool[:CURVED], self.answers[rows, :CURVED]
        scales = self.config.temperature * spread(expected)
        curvatures = [
            curvature_at(self.problem.of([row]), self.best[row], images, scale)
            for row, scale in zip(rows.tolist(), scales, strict=True)
        ]
        near = Expansion(scales, torch.stack(curvatures), torch.full((len(rows),), DAMPING))
        for _ in range(ROUNDS):
            start, before = self.best[rows], self.value[rows]
            near = near._replace(gradient=self._gradient(run, start, images, expected))
            rate = self.log_rate[rows].exp()
            self.offer(descended(start, near, partial(self._bits, rows), self.problem.budget[rows], rate), rows)
            damping = near.damping * torch.where(self.value[rows] < before, BOLDER, SHYER)
            near = near._replace(damping=damping)

    def _gradient(self, run: Outputs, numbers: Tensor, images: Tensor, expected: Tensor) -> Tensor:
        numbers = numbers.clone().requires_grad_(True)
        with torch.enable_grad():
            loss = behaviour_kl(expected, run(numbers, images[None]), self.config.temperature).sum()
        return torch.nan_to_num(torch.autograd.grad(loss, numbers)[0])

    def _bits(self, rows: Tensor, numbers: Tensor) -> Tensor:
        """Return the bits of numbers of some networks."""
        return self.problem.prices.bits(self.best.index_copy(0, rows, numbers))[rows]

    def _divergence(self, numbers: Tensor, rows: Tensor | None = None) -> Tensor:
        rows = self.every if rows is None else rows
        outputs = self.problem.of(rows.tolist())(numbers, self.held[None])
        return torch.nan_to_num(behaviour_kl(self.expected[rows], outputs, self.config.temperature), nan=torch.inf)

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
