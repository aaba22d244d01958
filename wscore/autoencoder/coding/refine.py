"""Latents fitted to what their network does: the encoder's latent is where the search begins, the decoder stays as it is.

For each network the latent z is moved so that the decoded network answers probe images as the original does:

    minimise  KL(softmax(l / T) || softmax(l^(z) / T))

with the scaled divergence of `behaviour_loss`. Nothing but the latent is kept of it. Most directions of a latent change
the answers little and some very much, which slows gradient descent down by orders of magnitude. Therefore the search runs
in rounds of L-BFGS; before every round but the first, coordinates are changed to those in which the Gauss-Newton matrix
of the network's own objective is the identity. Early rounds look at fewer images, each half as many as the next.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from msgspec import Meta
from torch import Tensor

from wscore.autoencoder.coding.entropy import Code, EntropyCode, RatePrior
from wscore.autoencoder.coding.lbfgs import minimise
from wscore.autoencoder.decode_weights import Answer
from wscore.autoencoder.training.behaviour_loss import behaviour_kl, spread
from wscore.config import Section

#: Raw weights (n, D) of latents (n, K), row by row.
Decode = Callable[[Tensor], Tensor]

AT_ONCE = 4096  # networks x images that are run together
DIFFERENCE = 1e-2  # of latents, in the derivative of the decoder
DECODED = 256  # latents at once while it is measured
DIRECTIONS = 4  # of the logits of an image in which its curvature is measured
EXACT = 1e-4  # of the objective, in nats, below which there is nothing to refine
DAMPING = 1e-3  # added to the curvature, as a share of its mean
NEAR = 0.02  # added likewise where bits count too: latents walk far in directions without curvature


class RefineConfig(Section):
    """How latents are refined (section `refine:`).

    Args:
        steps: evaluations of the objective per network, shared by the rounds; 0 switches refinement off.
        rounds: of the search; each but the first begins with the curvature of every network.
        images: training images that the last round looks at, at most.
        curvature_images: of them that the curvature is measured on; 0 leaves it out.
        temperature: of the divergence, in spreads of the original's logits.
        rate: weight of the bits in the search, where numbers take as many as they are worth; 0 searches as if all took as many.
        seed: of the drawn images.
    """

    steps: Annotated[int, Meta(ge=0)]
    rounds: Annotated[int, Meta(ge=1)]
    images: Annotated[int, Meta(ge=1)]
    curvature_images: Annotated[int, Meta(ge=0)]
    temperature: Annotated[float, Meta(gt=0)]
    rate: Annotated[float, Meta(ge=0)]
    seed: Annotated[int, Meta(ge=0)]


class Problem(NamedTuple):
    """Networks that differ in their weights alone, and how latents become such networks.

    Attributes:
        decode: raw weights of latents.
        answer: logits of weights.
        original: raw weights of the networks.
        images: on which original and decoded networks are compared.
        synthesis: derivative of the weights by the latent where it is known, see `derivative`; else it is measured.
    """

    decode: Decode
    answer: Answer
    original: Float[Tensor, "networks weights"]
    images: Float[Tensor, "images channel height width"]
    synthesis: Float[Tensor, "weights latent"] | None = None

    def alone(self, row: int) -> "Problem":
        """Return the problem of one of the networks."""
        return self._replace(original=self.original[row : row + 1])

    def measured(self, latents: Float[Tensor, "networks latent"]) -> "Problem":
        """Return the problem with its synthesis, measured at the mean latent if it was not known."""
        if self.synthesis is not None:
            return self
        return self._replace(synthesis=derivative(self.decode, latents.mean(0)))


def draw_images(
    images: Float[Tensor, "all channel height width"], config: RefineConfig
) -> Float[Tensor, "images channel height width"]:
    """Return a fixed draw of at most `config.images` images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    return images[order[: config.images]]


def refine(
    problem: Problem, start: Float[Tensor, "networks latent"], config: RefineConfig
) -> Float[Tensor, "networks latent"]:
    """Return refined latents; over all images of the problem none has a higher objective than where it began."""
    if not config.steps or not len(start):
        return start
    expected = _expected(problem)
    whole = _Goal(problem, expected, config)
    if (whole.values(start) < EXACT).all():  # latents of all directions: only their rounding costs anything
        return start
    latents = start
    rounds = min(config.rounds, config.steps)
    for number in range(rounds):
        steps = config.steps // rounds + (number < config.steps % rounds)
        count = max(1, len(problem.images) >> (rounds - 1 - number))
        part = problem._replace(images=problem.images[:count])
        goal = _Goal(part, expected[:, :count], config)
        if number == 0 or not config.curvature_images:
            latents = minimise(goal, latents, steps=steps).points
            continue
        lower = torch.linalg.cholesky(_damped(part, expected, latents, config))  # (n, K, K)
        moved = _Moved(goal, latents, lower)
        latents = moved.place(minimise(moved, torch.zeros_like(latents), steps=steps, first=0.5).points)
    better = whole.values(latents) < whole.values(start)
    return torch.where(better[:, None], latents, start)


def encode_refined(
    problem: Problem, start: Float[Tensor, "networks latent"], code: Code | None, config: RefineConfig,
    kinds: Int64[Tensor, " windows"],
) -> Float[Tensor, "networks latent"]:  # fmt: skip
    """Return refined latents as they come back after being stored.

    Args:
        problem: the networks.
        start: latents of the encoder, of all windows side by side.
        code: how latents are stored; None as floats.
        config: of the search.
        kinds: layout keys of the windows, the same for all networks.
    """
    if code is None or code.exact:
        return refine(problem, start, config)
    if not isinstance(code, EntropyCode) or not weighs_bits(code, config):
        stored: Any = store(problem, refine(problem, start, config), code, config, kinds)
        return code.restore(stored).view_as(start)
    found = []
    for row in range(len(start)):  # one at a time: a curvature takes room
        one = problem.alone(row)
        found.append(search(one, one_pass(one, start[row : row + 1], code, config, kinds), code, config, kinds).latents)
    return torch.cat(found) if found else start


def weighs_bits(code: Code | None, config: RefineConfig) -> bool:
    """Return whether latents are searched by what they answer and by the bits that they take together."""
    return isinstance(code, EntropyCode) and config.rate > 0 and config.steps > 0 and config.curvature_images > 0


def store(
    problem: Problem,
    latents: Float[Tensor, "networks latent"],
    code: Code,
    config: RefineConfig,
    kinds: Int64[Tensor, " windows"],
) -> Any:
    """Return latents as integers as the code restores them, one row per network and window, so that answers change least.

    Rounding follows the curvature of every network's objective; where that turns out worse than plain rounding, this is
    kept instead.

    Args:
        problem: the networks.
        latents: of all their windows, side by side.
        code: how they are stored.
        config: on how many images the curvature is measured.
        kinds: layout keys of the windows, the same for all networks.
    """
    if not config.curvature_images or not len(latents):
        return code.store(latents.reshape(len(latents) * len(kinds), -1), kinds.repeat(len(latents)))
    problem = problem.measured(latents)
    rows = [
        one_pass(problem.alone(row), latents[row : row + 1], code, config, kinds).codes for row in range(len(latents))
    ]
    return type(rows[0])(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


class Rounded(NamedTuple):
    """Latents of one network, rounded by the curvature of what it answers.

    Attributes:
        start: before they were rounded.
        codes: as the code stores them, one row per window.
        latents: as they come back.
        curvature: at `start`.
        value: of the divergence of `latents`.
    """

    start: Float[Tensor, "1 latent"]
    codes: Any
    latents: Float[Tensor, "1 latent"]
    curvature: Float[Tensor, "latent latent"]
    value: float


def one_pass(
    problem: Problem,
    start: Float[Tensor, "1 latent"],
    code: Code,
    config: RefineConfig,
    kinds: Int64[Tensor, " windows"],
    *,
    searched: bool = False,
) -> Rounded:
    """Return the latents of one network rounded by its own curvature there, or plainly where that turns out better.

    Nothing is searched: the network answers some images once, with gradients.

    Args:
        problem: the network.
        start: latents of all its windows, side by side.
        code: how they are stored.
        config: on how many images the curvature is measured.
        kinds: layout keys of the windows.
        searched: whether the latents are where a search ended, bits counted.
    """
    windows, size = len(kinds), start.shape[1] // len(kinds)
    expected = _expected(problem)
    goal = _Goal(problem, expected, config)
    curvature = _damped(problem, expected, start, config)[0]  # (W K, W K)
    blocks = torch.stack([curvature[at : at + size, at : at + size] for at in range(0, len(curvature), size)])
    split, slope = start.view(windows, size), goal(start)[1].view(windows, size) if searched else None
    ways: list[Any] = [code.store_by(split, blocks, kinds, slope), code.store(split, kinds)]
    back: Any = code.restore
    values = [float(goal.values(back(codes).view_as(start))) for codes in ways]
    best = int(values[1] < values[0])
    return Rounded(start, ways[best], back(ways[best]).view_as(start), curvature, values[best])


def search(
    problem: Problem, first: Rounded, code: EntropyCode, config: RefineConfig, kinds: Int64[Tensor, " windows"]
) -> Rounded:
    """Return latents of one network, moved to where few bits keep what it answers, and rounded there; never worse than `first`.

    The search minimises the divergence and what the bits are worth (`EntropyCode.worth`), which is in units of half the mean
    curvature: of all latents between which the answers can hardly tell it finds one that fits with a fine step. Its
    coordinates are those in which the second derivative of that sum at the start is the identity.

    Args:
        problem: the network.
        first: its latents rounded without a search.
        code: how they are stored.
        config: of the search.
        kinds: layout keys of the windows.
    """
    problem, expected = problem.measured(first.start), _expected(problem)
    bits = code.worth(first.start.view(len(kinds), -1), kinds)
    half = first.curvature.diagonal().mean() / 2
    worth = RatePrior(bits.centres.view(1, -1), config.rate * half * bits.weights.view(1, -1))
    form = first.curvature + torch.diag(2 * worth.weights[0] + NEAR * half)
    lower = torch.linalg.cholesky(form)
    latents, rounds = first.start, min(config.rounds, config.steps)
    for number in range(rounds):
        steps = config.steps // rounds + (number < config.steps % rounds)
        count = max(1, len(problem.images) >> (rounds - 1 - number))
        part = problem._replace(images=problem.images[:count])
        moved = _Moved(_Goal(part, expected[:, :count], config, worth), latents, lower[None])
        latents = moved.place(minimise(moved, torch.zeros_like(latents), steps=steps, first=0.5).points)
    found = one_pass(problem, latents, code, config, kinds, searched=True)
    return found if found.value <= first.value else first


class _Goal:
    """Objective of every network and its gradient."""

    def __init__(
        self, problem: Problem, expected: Tensor, config: RefineConfig, worth: RatePrior | None = None
    ) -> None:
        self.problem, self.expected, self.config = problem, expected, config
        self.worth = worth

    def __call__(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = [], []
        for rows in _chunks(len(latents), len(self.problem.images)):
            part = latents[rows].detach().requires_grad_(True)
            with torch.enable_grad():
                value = self._value(part, rows)
                (gradient,) = torch.autograd.grad(value.sum(), part)
            values.append(value.detach())
            gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)

    @torch.no_grad()
    def values(self, latents: Tensor) -> Tensor:
        """Return the objective alone."""
        return torch.cat([self._value(latents[rows], rows) for rows in _chunks(len(latents), len(self.problem.images))])

    def _value(self, latents: Tensor, rows: slice) -> Tensor:
        found = self.problem.answer(self.problem.decode(latents), self.problem.images[None])
        value = behaviour_kl(self.expected[rows], found, self.config.temperature)
        if self.worth is not None:
            value = value + (self.worth.weights[rows] * (latents - self.worth.centres[rows]).square()).sum(1)
        return value


class _Moved:
    """The same objective in other coordinates u: z = centre + L^-T u, where a form of every network is L L^T."""

    def __init__(self, goal: _Goal, centre: Tensor, lower: Tensor) -> None:
        self.goal, self.centre, self.lower = goal, centre, lower

    def place(self, moves: Tensor) -> Tensor:
        return self.centre + torch.linalg.solve_triangular(self.lower.mT, moves[..., None], upper=True)[..., 0]

    def __call__(self, moves: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = self.goal(self.place(moves))
        return values, torch.linalg.solve_triangular(self.lower, gradients[..., None], upper=False)[..., 0]


def _damped(problem: Problem, expected: Tensor, latents: Tensor, config: RefineConfig) -> Tensor:
    curvature = curvatures(problem, expected, latents, config)
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    diagonal += DAMPING * diagonal.mean(1, keepdim=True) + 1e-6
    return curvature


def curvatures(
    problem: Problem, expected: Float[Tensor, "networks images classes"], latents: Tensor, config: RefineConfig
) -> Float[Tensor, "networks latent latent"]:
    """Return the Gauss-Newton matrix of every network's divergence at its latent, on `curvature_images` images.

    G = mean over images of J^T (diag(p) - p p^T) J with the Jacobian J = d(l^ / T) / dz and p = softmax(l^ / T). Jacobians
    of single images come from running one copy of the network per image. That of the decoder is measured by differences at
    the mean latent, which is exact for a linear decoder.
    """
    images = problem.images[: config.curvature_images]
    scale = config.temperature * spread(expected)
    synthesis = (
        derivative(problem.decode, latents.mean(0)) if problem.synthesis is None else problem.synthesis
    )  # (D, K)
    found = []
    for row in range(len(latents)):
        with torch.no_grad():
            weights = problem.decode(latents[row : row + 1])[0]
        product = _jacobian(problem.answer, weights, images, scale[row], config.seed) @ synthesis  # (M I, K)
        found.append(product.mT @ product / len(images))
    return torch.stack(found)


@torch.no_grad()
def derivative(decode: Decode, centre: Float[Tensor, " latent"]) -> Float[Tensor, "weights latent"]:
    """Return the derivative of decoded weights by the latent, from central differences."""
    steps = DIFFERENCE * torch.eye(len(centre), device=centre.device)
    parts = [(decode(centre + part) - decode(centre - part)) / (2 * DIFFERENCE) for part in steps.split(DECODED)]
    return torch.cat(parts).mT.contiguous()


def _jacobian(answer: Answer, weights: Tensor, images: Tensor, scale: Tensor, seed: int) -> Tensor:
    """Return R^T J of one network, where R R^T = diag(p) - p p^T is the curvature of the divergence by the logits.

    R = diag(sqrt(p)) - p sqrt(p)^T: column c is sqrt(p_c) (e_c - p). Of many classes `DIRECTIONS` random mixtures of the columns
    are taken for every image, whose products are right on average.
    """
    copies = weights.expand(len(images), -1).detach().requires_grad_(True)  # (I, D)
    with torch.enable_grad():
        logits = answer(copies, images[:, None])[:, 0] / scale  # (I, C)
    shares = logits.detach().softmax(-1)
    mixtures = _mixtures(len(images), shares.shape[-1], seed).to(shares) * shares.sqrt()  # (M, I, C)
    factors = mixtures - shares * mixtures.sum(-1, keepdim=True)
    rows = [
        torch.autograd.grad(logits, copies, factor, retain_graph=number + 1 < len(factors))[0]
        for number, factor in enumerate(factors)
    ]
    return torch.cat(rows)


def _mixtures(images: int, classes: int, seed: int) -> Tensor:
    """Return vectors e (M, I, C) whose products e e^T sum to the identity over M, on average over images."""
    if classes <= DIRECTIONS:
        return torch.eye(classes)[:, None].expand(-1, images, -1)
    drawn = torch.randn(DIRECTIONS, images, classes, generator=torch.Generator().manual_seed(seed))
    return drawn / DIRECTIONS**0.5


@torch.no_grad()
def _expected(problem: Problem) -> Tensor:
    parts = [
        problem.answer(problem.original[rows], problem.images[None])
        for rows in _chunks(len(problem.original), len(problem.images))
    ]
    return torch.cat(parts)


def _chunks(networks: int, images: int) -> list[slice]:
    count = max(1, AT_ONCE // max(1, images))
    return [slice(start, min(start + count, networks)) for start in range(0, networks, count)]
