"""Coordinates as whole numbers of one step, which is as fine as the bytes allow.

One step for all coordinates spreads bits over them by reverse water-filling (Cover and Thomas 2006, section 10.3.3): a
number that varies little is nearly always 0 and takes next to no room, one that varies much takes log2(deviation / step)
+ 2 bits.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.coordinates import QUARTER, Coordinates
from wscore.autoencoder.coding.tables import FAMILIES, HIGH, LOW, OCTAVE, WIDEST, bit_tables

FINE = 32  # parts of an octave in which steps are counted
FINEST, COARSEST = -40 * FINE, 40 * FINE
LARGEST = 1 << 28  # number
#: Bits that a squared error of step^2 is worth: a further bit lowers the mean error step^2 / 12 by its derivative 2 ln 2.
PRICE = 2 * math.log(2) / 12
CHUNK = 1 << 20  # numbers that are looked at together
DRAWN = 1 << 18  # numbers by which a step is found; for more it is then corrected
FIRST_ROW, KNOWN_ROW, WIDE_ROW = 20, 8, 40  # of the tables by which scales are coded


class Quantised(NamedTuple):
    """Networks of one layout as whole numbers.

    Attributes:
        numbers: coordinates in steps.
        steps: log2 of the steps, in 1 / 32.
        scales: of each block, see `Coordinates.scales`.
        shifts: of each block, see `Coordinates.shifts`.
        families: tables of each block.
    """

    numbers: Int[Tensor, "n weights"]
    steps: Int[Tensor, " n"]
    scales: Int[Tensor, "n block"]
    shifts: Int[Tensor, "n block"]
    families: Int[Tensor, "n block"]


def dequantise(code: Coordinates, stored: Quantised) -> Float[Tensor, "n weights"]:
    """Return the coordinates that whole numbers stand for."""
    return stored.numbers.float() * units(code, stored)


def units(code: Coordinates, stored: Quantised) -> Float[Tensor, "n weights"]:
    """Return what a number of 1 is as a coordinate."""
    exponents = stored.steps[:, None] / FINE - stored.shifts / OCTAVE  # (n, blocks)
    return exponents.double().exp2().float()[:, code.groups]


def rows_of(code: Coordinates, stored: Quantised) -> Int[Tensor, "n weights"]:
    """Return log2 of the deviation of each number in steps, in eighths."""
    return (code.log_stds + _block_rows(stored)[:, code.groups]).clamp(LOW, WIDEST)


def bits_of(
    numbers: Int[Tensor, "*n weights"], rows: Int[Tensor, "*n weights"], families: Int[Tensor, "*n weights"]
) -> Float[Tensor, "*n weights"]:
    """Return the bits of each number."""
    return TablePrices(rows, families)(numbers.abs())


class TablePrices:
    """Bits of numbers of given rows and families by their absolute values."""

    def __init__(self, rows: Tensor, families: Tensor) -> None:
        tables = bit_tables()
        self.flat, self.most = tables.view(-1), tables.shape[2] - 1
        self.below = (rows - (HIGH - OCTAVE + 1)).clamp_min(0) >> 3  # bits that are kept as they are
        self.half = 1 << self.below >> 1
        self.place = ((families * tables.shape[1] + rows - (self.below << 3) - LOW) * tables.shape[2]).int()
        self.below, self.half = self.below.int(), self.half.int()

    def __call__(self, size: Int[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return the bits of numbers of some absolute values."""
        high = (size + self.half) >> self.below
        return self.flat[self.place + high.clamp_max(self.most)] + self.below


def scale_rows(count: int, *, known: bool) -> list[int]:
    """Return the rows of the tables by which scales are coded, each as its difference from the mean of those before."""
    return [FIRST_ROW if place == 0 else KNOWN_ROW for place in range(count)] if known else [WIDE_ROW] * count


def scale_differences(scales: list[int]) -> list[int]:
    """Return each scale less the rounded mean of those before."""
    return [scale - _mean(scales[:place]) for place, scale in enumerate(scales)]


def scales_of(differences: list[int]) -> list[int]:
    """Return the scales of which these are the differences."""
    scales: list[int] = []
    for difference in differences:
        scales.append(difference + _mean(scales))
    return scales


def _mean(scales: list[int]) -> int:
    return (2 * sum(scales) + len(scales)) // (2 * len(scales)) if scales else 0


def total_bits(code: Coordinates, stored: Quantised) -> Float[Tensor, " n"]:
    """Return the bits of each network but for the header of its file."""
    rows = rows_of(code, stored)
    numbers = bits_of(stored.numbers, rows, stored.families[:, code.groups]).sum(1)
    return numbers.double() + side_bits(code, stored.scales)


def side_bits(code: Coordinates, scales: Int[Tensor, "n block"]) -> Float[Tensor, " n"]:
    """Return the bits of scales and families."""
    rows = torch.tensor(scale_rows(scales.shape[1], known=code.known), dtype=torch.int64)
    found = torch.tensor([scale_differences(own) for own in scales.tolist()], dtype=torch.int64).view(scales.shape)
    families = 0 if code.known else scales.shape[1]
    return bits_of(found, rows.expand_as(found), torch.zeros_like(found)).sum(1).double() + families


def quantise(
    code: Coordinates,
    y: Float[Tensor, "n weights"],
    bits: Float[Tensor, " n"],
    *,
    difference: bool = False,
) -> Quantised:
    """Return networks with the finest step with which they take no more than `bits`; with the coarsest if none does.

    Args:
        code: of their layout.
        y: their coordinates.
        bits: for each of them.
        difference: whether they are differences from other networks.
    """
    scales = code.scales(y)
    shifts, zeros = code.shifts(scales, difference=difference), torch.zeros_like(scales)
    start = Quantised(torch.zeros(len(y), 0, dtype=torch.int32), torch.zeros(len(y)).long(), scales, shifts, zeros)
    shifted = y * (shifts / OCTAVE).exp2()[:, code.groups]
    numbers, room = _Numbers(shifted, code.log_stds, code.groups), bits - side_bits(code, scales)
    found = _search(numbers, start, room)
    if not code.known:
        found = _search(numbers, found._replace(families=_best_families(numbers, found)), room)
    return found._replace(numbers=numbers.rounded(found, keep=True)[0])


class _Numbers(NamedTuple):
    """Coordinates, or a draw of them that stands for all.

    Attributes:
        y: of each network.
        log_stds: of each of them.
        groups: block of each of them.
    """

    y: Float[Tensor, "n drawn"]
    log_stds: Int[Tensor, " drawn"]
    groups: Int[Tensor, " drawn"]

    def drawn(self) -> "_Numbers":
        """Return a fixed draw of at most `DRAWN`."""
        if self.y.shape[1] <= DRAWN:
            return self
        chosen = torch.randint(self.y.shape[1], (DRAWN,), generator=torch.Generator().manual_seed(0))
        return _Numbers(self.y[:, chosen], self.log_stds[chosen], self.groups[chosen])

    def rounded(self, stored: Quantised, *, keep: bool) -> tuple[Tensor, Tensor]:
        """Return the numbers next to y, or one lower where that saves more bits than it costs, and the bits of each network."""
        numbers, used = [], torch.zeros(len(self.y)).double()
        blocks = _block_rows(stored)
        size = (-stored.steps / FINE).double().exp2().float()[:, None]
        width = max(1, CHUNK // max(1, len(self.y)))
        for start in range(0, self.y.shape[1], width):
            y, log_stds, groups = (part[..., start : start + width] for part in self)
            prices = TablePrices((log_stds + blocks[:, groups]).clamp_(LOW, WIDEST), stored.families[:, groups])
            exact = (y * size).abs()
            near = (exact + 0.5).int()
            lower = (near - 1).clamp_min(0)
            near_bits, lower_bits = prices(near), prices(lower)
            # (exact - lower)^2 - (exact - near)^2 where they differ by one
            down = 2 * (exact - near) + 1 < PRICE * (near_bits - lower_bits)
            used += torch.where(down, lower_bits, near_bits).sum(1)
            if keep:
                numbers.append(torch.where(down, lower, near) * y.sign().int())
        return (torch.cat(numbers, 1) if numbers else torch.zeros(self.y.shape, dtype=torch.int32)), used


def _search(all_numbers: _Numbers, start: Quantised, room: Tensor) -> Quantised:
    """Return networks with the finest step with which their numbers fit into `room` bits."""
    drawn = all_numbers.drawn()
    share = drawn.y.shape[1] / max(1, all_numbers.y.shape[1])
    largest = all_numbers.y.abs().amax(1) if share else torch.zeros(len(room))
    low = (FINE * (largest.clamp_min(2.0**-60).log2() - math.log2(LARGEST))).ceil().long().clamp_min(FINEST) - 1
    high = torch.full_like(start.steps, COARSEST)
    while (high - low > 1).any():
        middle = (low + high) // 2
        fits = drawn.rounded(start._replace(steps=middle), keep=False)[1] <= room * share
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    while share < 1 and (over := all_numbers.rounded(start._replace(steps=high), keep=False)[1] > room).any():
        high = torch.where(over, high + 1, high)
        if (high >= COARSEST).all():
            break
    return start._replace(steps=high)


def _block_rows(stored: Quantised) -> Tensor:
    """Return what log2 of deviations in steps is beside `Coordinates.log_stds`, in eighths, for each block."""
    return QUARTER * stored.scales + stored.shifts - (stored.steps * OCTAVE // FINE)[:, None]


def _best_families(numbers: _Numbers, stored: Quantised) -> Tensor:
    """Return the tables with which each block takes fewest bits."""
    drawn, costs = numbers.drawn(), []
    rows = (drawn.log_stds + _block_rows(stored)[:, drawn.groups]).clamp(LOW, WIDEST)
    rounded, _ = drawn.rounded(stored, keep=True)
    for family in FAMILIES:
        bits = bits_of(rounded, rows, torch.full_like(rows, family))
        costs.append(torch.zeros(stored.scales.shape).index_add(1, drawn.groups, bits))
    return torch.stack(costs).argmin(0)


def soft_bits(code: Coordinates, y: Float[Tensor, "n weights"], stored: Quantised) -> Float[Tensor, " n"]:
    """Return the bits that coordinates would take if they were not rounded, differentiable; side information not counted."""
    exponents = stored.shifts / OCTAVE - stored.steps[:, None] / FINE
    t = (y * exponents.exp2()[:, code.groups]).abs()
    deviations = (rows_of(code, stored) / OCTAVE).exp2()
    inside = torch.special.ndtr((0.5 - t) / deviations) - torch.special.ndtr((-0.5 - t) / deviations)
    return -inside.clamp_min(2.0**-16).log2().sum(1)
