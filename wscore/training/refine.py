"""Latents fitted to what their network does: the encoder's latent is where the search begins, the decoder stays as it is.

For each network the latent z is moved so that the decoded network answers probe images as the original does:

    minimise  KL(softmax(l / T) || softmax(l^(z) / T)) + anchor |z - z_0|^2 / K

with the scaled divergence of `wscore.losses.behaviour`. Nothing but the latent is kept of it. Most directions of a latent change
the answers little and some very much, which slows gradient descent down by orders of magnitude. Therefore the search runs in
rounds of L-BFGS; before every round but the first, coordinates are changed to those in which the Gauss-Newton matrix of the
network's own objective is the identity. Early rounds look at fewer images, each half as many as the next.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from msgspec import Meta
from torch import Tensor

from wscore.config import Section
from wscore.losses.behaviour import behaviour_kl, spread
from wscore.models.entropy_code import Code
from wscore.training.lbfgs import minimise
from wscore.training.rebuild import Answer

#: Raw weights (n, D) of latents (n, K), row by row.
Decode = Callable[[Tensor], Tensor]

AT_ONCE = 4096  # networks x images that are run together
DIFFERENCE = 1e-2  # of latents, in the derivative of the decoder
DECODED = 256  # latents at once while it is measured
EXACT = 1e-4  # of the objective, in nats, below which there is nothing to refine
DAMPING = 1e-3  # added to the curvature, as a share of its mean


class RefineConfig(Section):
    """How latents are refined (section `refine:`).

    Args:
        steps: evaluations of the objective per network, shared by the rounds; 0 switches refinement off.
        rounds: of the search; each but the first begins with the curvature of every network.
        images: training images that the last round looks at, at most.
        curvature_images: of them that the curvature is measured on; 0 leaves it out.
        temperature: of the divergence, in spreads of the original's logits.
        anchor: weight of the squared distance from the encoder's latent.
        seed: of the drawn images.
    """

    steps: Annotated[int, Meta(ge=0)]
    rounds: Annotated[int, Meta(ge=1)]
    images: Annotated[int, Meta(ge=1)]
    curvature_images: Annotated[int, Meta(ge=0)]
    temperature: Annotated[float, Meta(gt=0)]
    anchor: Annotated[float, Meta(ge=0)]
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
    whole = _Goal(problem, expected, start, config)
    if (whole.values(start) < EXACT).all():  # latents of all directions: only their rounding costs anything
        return start
    latents = start
    rounds = min(config.rounds, config.steps)
    for number in range(rounds):
        steps = config.steps // rounds + (number < config.steps % rounds)
        count = max(1, len(problem.images) >> (rounds - 1 - number))
        part = problem._replace(images=problem.images[:count])
        goal = _Goal(part, expected[:, :count], start, config)
        if number == 0 or not config.curvature_images:
            latents = minimise(goal, latents, steps=steps).points
            continue
        axes = _axes(part, expected, latents, config)  # (n, K, K)
        centre = latents
        moved = _Moved(goal, centre, axes)
        latents = moved.place(minimise(moved, torch.zeros_like(centre), steps=steps, first=0.5).points)
    better = whole.values(latents) < whole.values(start)
    return torch.where(better[:, None], latents, start)


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
        kinds: signatures of the windows, the same for all networks.
    """
    windows = len(kinds)
    split = lambda rows: rows.reshape(len(rows) * windows, -1)  # noqa: E731
    plain: Any = code.store(split(latents), kinds.repeat(len(latents)))
    if not config.curvature_images or not len(latents):
        return plain
    expected = _expected(problem)
    if problem.synthesis is None:
        problem = problem._replace(synthesis=derivative(problem.decode, latents.mean(0)))
    careful: list[Any] = []
    for row in range(len(latents)):  # one at a time: a curvature takes room
        one = problem._replace(original=problem.original[row : row + 1])
        whole = _damped(one, expected[row : row + 1], latents[row : row + 1], config)[0]  # (W K, W K)
        size = len(whole) // windows
        blocks = torch.stack([whole[at : at + size, at : at + size] for at in range(0, len(whole), size)])
        careful.append(code.store_by(latents[row].view(windows, size), blocks, kinds))
    found = type(plain)(*(torch.cat(parts) for parts in zip(*careful, strict=True)))
    goal = _Goal(problem, expected, latents, config)
    values = [goal.values(code.restore(codes).reshape(len(latents), -1)) for codes in (found, plain)]
    better = (values[0] <= values[1]).repeat_interleave(windows)
    chosen = (torch.where(better.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(found, plain, strict=True))
    return type(plain)(*chosen)


class _Goal:
    """Objective of every network and its gradient."""

    def __init__(self, problem: Problem, expected: Tensor, start: Tensor, config: RefineConfig) -> None:
        self.problem, self.expected, self.start, self.config = problem, expected, start, config

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
        divergence = behaviour_kl(self.expected[rows], found, self.config.temperature)
        return divergence + self.config.anchor * (latents - self.start[rows]).square().mean(1)


class _Moved:
    """The same objective in other coordinates u: z = centre + axes u."""

    def __init__(self, goal: _Goal, centre: Tensor, axes: Tensor) -> None:
        self.goal, self.centre, self.axes = goal, centre, axes

    def place(self, moves: Tensor) -> Tensor:
        return self.centre + torch.einsum("nkj,nj->nk", self.axes, moves)

    def __call__(self, moves: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = self.goal(self.place(moves))
        return values, torch.einsum("nkj,nk->nj", self.axes, gradients)


def _axes(problem: Problem, expected: Tensor, latents: Tensor, config: RefineConfig) -> Tensor:
    """Return axes L^-T (n, K, K) in which the damped curvature L L^T of every network is the identity."""
    factor = torch.linalg.cholesky(_damped(problem, expected, latents, config))
    unit = torch.eye(latents.shape[1], device=latents.device)
    return torch.linalg.solve_triangular(factor, unit.expand_as(factor), upper=False).mT


def _damped(problem: Problem, expected: Tensor, latents: Tensor, config: RefineConfig) -> Tensor:
    curvature = curvatures(problem, expected, latents, config)
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    diagonal += DAMPING * diagonal.mean(1, keepdim=True) + 2 * config.anchor / latents.shape[1] + 1e-6
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
        product = _jacobian(problem.answer, weights, images, scale[row]) @ synthesis  # (I C, K)
        found.append(product.mT @ product / len(images))
    return torch.stack(found)


@torch.no_grad()
def derivative(decode: Decode, centre: Float[Tensor, " latent"]) -> Float[Tensor, "weights latent"]:
    """Return the derivative of decoded weights by the latent, from central differences."""
    steps = DIFFERENCE * torch.eye(len(centre), device=centre.device)
    parts = [(decode(centre + part) - decode(centre - part)) / (2 * DIFFERENCE) for part in steps.split(DECODED)]
    return torch.cat(parts).mT.contiguous()


def _jacobian(answer: Answer, weights: Tensor, images: Tensor, scale: Tensor) -> Tensor:
    """Return R^T J (I C, D) of one network, where R R^T = diag(p) - p p^T is the curvature of the divergence by the logits.

    R = diag(sqrt(p)) - p sqrt(p)^T: column c is sqrt(p_c) (e_c - p).
    """
    copies = weights.expand(len(images), -1).detach().requires_grad_(True)  # (I, D)
    with torch.enable_grad():
        logits = answer(copies, images[:, None])[:, 0] / scale  # (I, C)
    shares = logits.detach().softmax(-1)
    classes = shares.shape[-1]
    rows = []
    for number in range(classes):
        root = shares[:, number, None].sqrt()
        factor = -root * shares
        factor[:, number] += root[:, 0]
        (row,) = torch.autograd.grad(logits, copies, factor, retain_graph=number + 1 < classes)
        rows.append(row)
    return torch.cat(rows)


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
