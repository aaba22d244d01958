"""Coordinate descent on whole numbers: each in turn takes a neighbour, or 0, where divergence and price of bits fall.

Near the numbers q of a network, the divergence of its outputs from those of the original is, to second order,

    KL(q + d) = KL(q) + g.d + d.H d / 2

with the gradient g and the Gauss-Newton matrix H of the softmax at q, so that steps cost no further run of the network. Squared
steps are damped, as the expansion holds near q alone. A search by gradients leaves numbers that such steps improve: its images
are few at a time, and what is rounded moves by whole numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.coding.curvature import squared
from wscore.autoencoder.coding.problem import Outputs

STRONGEST = 4  # directions of the outputs of each image that the softmax notices most
SWEEPS = 8  # over all numbers
FOLLOW, LARGEST = 8.0, 0.25  # how fast the price of a bit follows the excess of bits, and at most: log

Bits = Callable[[Tensor], Tensor]


class Expansion(NamedTuple):
    """Divergence of networks near some numbers.

    Attributes:
        gradient: g.
        curvature: H.
        damping: of squared steps of each network, by the curvature of each number and by the mean.
    """

    gradient: Float[Tensor, "n weights"]
    curvature: Float[Tensor, "n weights weights"]
    damping: Float[Tensor, " n"]


def curvature_at(
    run: Outputs, numbers: Float[Tensor, " weights"], images: Float[Tensor, "images ..."], scale: Float[Tensor, ""]
) -> Float[Tensor, "weights weights"]:
    """Return the Gauss-Newton matrix H of one network.

    Args:
        run: logits (m, 1, C) of copies of the network (m, D), each on an image of its own (m, 1, ...).
        numbers: of the network.
        images: on which it is run.
        scale: by which logits are divided before the softmax.
    """
    copies = numbers.expand(len(images), -1).clone().requires_grad_(True)
    with torch.enable_grad():
        logits = run(copies, images[:, None])[:, 0]
    shares = torch.nan_to_num((logits.detach() / scale).softmax(-1))
    strengths, directions = torch.linalg.eigh(shares.diag_embed() - shares[:, :, None] * shares[:, None])
    weighted = directions * (strengths.clamp_min(0).sqrt() / scale)[:, None]
    strongest = weighted.unbind(2)[1:][-STRONGEST:]  # the softmax does not notice what all classes have in common
    rows = [torch.autograd.grad(logits, copies, each, retain_graph=True)[0] for each in strongest]
    jacobian = torch.nan_to_num(torch.cat(rows))
    return squared(jacobian) / len(images)


def descended(
    start: Float[Tensor, "n weights"],
    near: Expansion,
    bits: Bits,
    budget: Float[Tensor, " n"],
    rate: Float[Tensor, " n"],
) -> Float[Tensor, "n weights"]:
    """Return whole numbers within a budget that diverge less by the expansion, or the same.

    Args:
        start: whole numbers, at which the expansion holds.
        near: the expansion.
        bits: of numbers.
        budget: bits for each network.
        rate: divergence that a bit is worth at first; follows the bits.
    """
    state, most, rates = _Descent(start, near, bits), budget.numpy(), rate.numpy().copy()
    best, value = start.numpy().T.copy(), np.zeros(len(start))
    for _ in range(SWEEPS):
        state.sweep(rates)
        used, reached = state.prices(state.numbers).sum(0, dtype=np.float64), state.divergence()
        better = (used <= most) & (reached < value)
        best[:, better], value[better] = state.numbers[:, better], reached[better]
        rates *= np.exp(np.clip(FOLLOW * (used / most - 1), -LARGEST, LARGEST))
    return torch.from_numpy(best.T.copy())


class _Descent:
    """Networks side by side; NumPy's small operations are several times faster than torch's."""

    def __init__(self, start: Tensor, near: Expansion, bits: Bits) -> None:
        self.numbers = start.mT.contiguous().numpy().copy()  # (D, n), as all below but for gradients and curvatures
        self.moved = np.zeros_like(self.numbers)
        self.first, self.gradient = near.gradient.numpy(), near.gradient.numpy().copy()  # (n, D)
        self.curvature = near.curvature.numpy()  # (n, D, D)
        diagonal = near.curvature.diagonal(dim1=1, dim2=2)
        self.damping = (near.damping[:, None] * (diagonal + diagonal.mean(1, keepdim=True))).mT.contiguous().numpy()
        self.diagonal = diagonal.mT.contiguous().numpy() + self.damping
        self.bits = bits

    def prices(self, numbers: Float[np.ndarray, "weights n"]) -> Float[np.ndarray, "weights n"]:
        """Return the bits of numbers."""
        return self.bits(torch.from_numpy(numbers).mT.contiguous()).mT.numpy()

    def divergence(self) -> np.ndarray:
        """Return by how much the divergence of each network has changed, damping included."""
        slopes = (self.first + self.gradient).T * self.moved + self.damping * self.moved * self.moved
        return slopes.sum(0, dtype=np.float64) / 2

    def sweep(self, rates: Float[np.ndarray, " n"]) -> None:
        """Let each number in turn take the best of its neighbours, of 0 and of itself, at a price of bits for each network.

        Numbers that all stay where they are at first are left out.
        """
        zero = np.zeros_like(self.numbers)
        ways = np.stack([zero, zero + 1, zero - 1, -self.numbers])  # (4, D, n)
        bits = rates * np.stack([self.prices(self.numbers + way) for way in ways])
        every = self._best(ways, bits, slice(None))
        for place in np.flatnonzero(every.any(1)).tolist():
            step = self._best(ways, bits, place)
            if step.any():
                self._move(place, step)

    def _best(
        self, ways: Float[np.ndarray, "4 weights n"], prices: Float[np.ndarray, "4 weights n"], place: int | slice
    ) -> Float[np.ndarray, "*place n"]:
        """Return the best steps of some numbers, each while all others stay."""
        steps = ways[:, place]
        pull = self.gradient.T[place] + self.damping[place] * self.moved[place]
        costs = steps * (pull + 0.5 * self.diagonal[place] * steps) + prices[:, place]
        return np.take_along_axis(steps, costs.argmin(0)[None], 0)[0]

    def _move(self, place: int, step: Float[np.ndarray, " n"]) -> None:
        rows = step.nonzero()[0]
        self.numbers[place] += step
        self.moved[place] += step
        self.gradient[rows] += step[rows, None] * self.curvature[rows, place]
