"""Coordinates as whole numbers of one step, which is as fine as the bytes allow.

One step for all coordinates spreads bits over them by reverse water-filling (Cover and Thomas 2006, section 10.3.3): a
number that varies little is nearly always 0 and takes next to no room, one that varies much takes log2(deviation / step)
+ 2 bits.
"""

import math
from functools import lru_cache
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
CHUNK = 1 << 15  # numbers that are looked at together
DRAWN = 1 << 18  # numbers by which tables are chosen
NEARLY = 10  # bisections to the step that is expected
TRIES, STEPS = 4, 20  # steps that are tried: near the expected one, then by bisection
FAR, SPAN = 4096, 1 << 14  # log2 of deviations and of steps, in eighths
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

    def take(self, rows: Int[Tensor, " taken"]) -> "Quantised":
        """Return some of the networks."""
        return Quantised(*(part[rows] for part in self))


def dequantise(code: Coordinates, stored: Quantised) -> Float[Tensor, "n weights"]:
    """Return the coordinates that whole numbers stand for."""
    return stored.numbers.float() * units(code, stored)


def units(code: Coordinates, stored: Quantised) -> Float[Tensor, "n weights"]:
    """Return what a number of 1 is as a coordinate."""
    exponents = stored.steps[:, None] / FINE - stored.shifts / OCTAVE  # (n, blocks)
    return exponents.double().exp2().float()[:, code.groups]


def rows_of(code: Coordinates, stored: Quantised) -> Int[Tensor, "n weights"]:
    """Return log2 of the deviation of each number in steps, in eighths."""
    return (code.log_stds + _short(_block_rows(stored))[:, code.groups]).clamp_(LOW, WIDEST)


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
    differences = torch.tensor([scale_differences(row) for row in scales.tolist()], dtype=torch.int64).view(
        scales.shape
    )
    families = 0 if code.known else scales.shape[1]
    return bits_of(differences, rows.expand_as(differences), torch.zeros_like(differences)).sum(1).double() + families


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
    shifted = y * (shifts / OCTAVE).exp2()[:, code.groups] if shifts.any() else y
    spreads = code.log_stds + _short(QUARTER * scales + shifts)[:, code.groups]
    numbers, room = _Numbers(shifted, spreads, code.groups, not code.known), bits - side_bits(code, scales)
    stored = _search(code, numbers, start, room)
    if not code.known:
        stored = _search(code, numbers, stored._replace(families=_best_families(numbers, stored)), room)
    return stored._replace(numbers=numbers.rounded(stored, keep=True)[0])


class _Lookup(NamedTuple):
    """How numbers are rounded and priced; rows start at -`SPAN`.

    Attributes:
        place: of a row's table in `bits`, of the first family.
        below: bits of a number that are kept as they are.
        bits: of |q|, table after table.
        thresholds: a number below the one of its |q| is lowered by 1, which saves more bits than it costs.
    """

    place: Int[Tensor, " row"]
    below: Int[Tensor, " row"]
    bits: Float[Tensor, " number"]
    thresholds: Float[Tensor, " number"]


@lru_cache(maxsize=1)
def _lookup() -> _Lookup:
    tables = bit_tables()
    tables = torch.cat([tables, tables[..., -1:]], 2)  # all numbers beyond
    lowered = torch.full_like(tables, -1.0)
    lowered[..., 1:-1] = torch.arange(1, tables.shape[2] - 1) - 0.5 + PRICE / 2 * tables.diff(dim=2)[..., :-1]
    thresholds = torch.stack([lowered, torch.full_like(tables, -1.0)])  # not where bits are kept as they are
    rows = torch.arange(-SPAN, SPAN + 1).clamp(LOW, WIDEST)
    below = (rows - (HIGH - OCTAVE + 1)).clamp_min(0) >> 3
    place = (below > 0) * len(FAMILIES) * tables.shape[1] + rows - (below << 3) - LOW
    place = place * tables.shape[2]
    return _Lookup(place.int(), below.int(), tables.double().repeat(2, 1, 1).flatten(), thresholds.flatten())


def _at(values: Tensor, places: Int[Tensor, "n drawn"]) -> Tensor:
    """Return values at places (several times faster than by an index in brackets)."""
    return values.index_select(0, places.flatten()).view(places.shape)


class _Numbers(NamedTuple):
    """Coordinates, or a draw of them that stands for all.

    Attributes:
        y: of each network.
        spreads: log2 of the standard deviation of each of them, in eighths.
        groups: block of each of them.
        lowered: whether a number is lowered by 1 where that saves more bits than it costs in squared error. Where statistics of
            roles tell what errors cost, it keeps less of what networks do: all that is small is lost at once.
    """

    y: Float[Tensor, "n drawn"]
    spreads: Int[Tensor, "n drawn"]
    groups: Int[Tensor, " drawn"]
    lowered: bool

    def drawn(self, most: int) -> "_Numbers":
        """Return a fixed draw of at most `most`."""
        if self.y.shape[1] <= most:
            return self
        chosen = torch.randint(self.y.shape[1], (most,), generator=torch.Generator().manual_seed(0))
        return self._replace(y=self.y[:, chosen], spreads=self.spreads[:, chosen], groups=self.groups[chosen])

    def take(self, rows: Int[Tensor, " taken"]) -> "_Numbers":
        """Return those of some networks."""
        return self if len(rows) == len(self.y) else self._replace(y=self.y[rows], spreads=self.spreads[rows])

    def rounded(self, stored: Quantised, *, keep: bool) -> tuple[Tensor, Tensor]:
        """Return the numbers next to y, or some of them lowered, and the bits of each network."""
        numbers, used, lookup, most = [], torch.zeros(len(self.y)).double(), _lookup(), bit_tables().shape[2]
        families = (stored.families * (len(lookup.bits) // 2 // len(FAMILIES))).int()
        mixed = bool(families.any())
        size = (-stored.steps / FINE).double().exp2().float()[:, None]
        first = (SPAN - stored.steps * OCTAVE // FINE).short()[:, None]
        width = max(1, CHUNK // max(1, len(self.y)))
        for start in range(0, self.y.shape[1], width):
            part = slice(start, start + width)
            rows = (self.spreads[:, part] + first).int()
            place, below = _at(lookup.place, rows), _at(lookup.below, rows)
            if mixed:
                place += families[:, self.groups[part]]
            exact = (self.y[:, part] * size).abs()
            near = (exact + 0.5).int()
            place += ((near + (1 << below >> 1)) >> below).clamp_max(most)
            if self.lowered:
                down = (exact < _at(lookup.thresholds, place)).int()
                place, near = place - down, near - down
            used += (_at(lookup.bits, place) + below).sum(1)
            if keep:
                numbers.append(near * self.y[:, part].sign().int())
        return (torch.cat(numbers, 1) if numbers else torch.zeros(self.y.shape, dtype=torch.int32)), used


def _search(code: Coordinates, numbers: _Numbers, start: Quantised, room: Float[Tensor, " n"]) -> Quantised:
    """Return networks with the finest step with which their numbers fit into `room` bits; few steps are tried."""
    expected = _Expected(code, start)
    largest = numbers.y.abs().amax(1) if code.size else torch.zeros(len(room))
    over = (FINE * (largest.clamp_min(2.0**-60).log2() - math.log2(LARGEST))).ceil().long().clamp_min(FINEST) - 1
    best, rows = torch.full_like(over, COARSEST), torch.arange(len(over))
    steps = expected.finest(room, over)
    slope = ((expected.bits(steps - FINE // 4) - expected.bits(steps)) / (FINE // 4)).clamp_min(0.1)
    for turn in range(STEPS):
        tried = start._replace(steps=steps).take(rows)
        excess = numbers.take(rows).rounded(tried, keep=False)[1] - room[rows]
        fits = excess <= 0
        best[rows], over[rows] = torch.where(fits, tried.steps, best[rows]), torch.where(fits, over[rows], tried.steps)
        near, middle = tried.steps + (excess / slope[rows]).ceil().long(), (best[rows] + over[rows] + 1) // 2
        steps[rows] = (near if turn < TRIES else middle).clamp(over[rows] + 1, best[rows])
        rows = rows[steps[rows] < best[rows]]
        if not len(rows):
            break
    return start._replace(steps=best)


class _Expected:
    """Bits that Gaussian numbers of the deviations of networks take, from how many have which deviation.

    Args:
        code: of their layout.
        start: the networks, steps and numbers aside.
    """

    def __init__(self, code: Coordinates, start: Quantised) -> None:
        low = int(code.log_stds.min()) if code.size else 0
        width = int(code.log_stds.max()) - low + 1 if code.size else 1
        blocks = start.scales.shape[1]
        counts = torch.bincount(code.groups * width + code.log_stds - low, minlength=blocks * width)
        self.lowest = LOW - width
        rows = torch.arange(self.lowest, WIDEST + width)
        windows = _entropies()[rows.clamp(LOW, WIDEST) - LOW].unfold(0, width, 1)
        self.table = (counts.view(blocks, width).float() @ windows.mT).view(-1)  # of rows from `lowest` to `WIDEST`
        self.places = torch.arange(blocks) * len(windows)
        self.rows = QUARTER * start.scales + start.shifts + low

    def bits(self, steps: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the bits of networks with some steps."""
        rows = (self.rows - (steps * OCTAVE // FINE)[:, None]).clamp(self.lowest, WIDEST)
        return self.table[self.places + rows - self.lowest].sum(1)

    def finest(self, room: Float[Tensor, " n"], low: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Return the finest steps above `low` with which networks fit into `room` bits, nearly."""
        high = torch.full_like(low, COARSEST)
        for _ in range(NEARLY):  # for each network as often, so that it does not depend on the others
            middle = (low + high) // 2
            fits = self.bits(middle) <= room
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        return high


@lru_cache(maxsize=1)
def _entropies() -> Float[Tensor, " row"]:
    """Return the bits of a Gaussian number in the mean, for rows from `LOW` to `WIDEST`."""
    bits = bit_tables()[0]
    shares = (-bits).exp2() * torch.where(torch.arange(bits.shape[1]) > 0, 2.0, 1.0)
    means = (shares * bits).sum(1)  # of rows up to `HIGH`
    rows = torch.arange(LOW, WIDEST + 1)
    below = (rows - (HIGH - OCTAVE + 1)).clamp_min(0) >> 3
    return means[rows - (below << 3) - LOW] + below


def _block_rows(stored: Quantised) -> Tensor:
    """Return what log2 of deviations in steps is beside `Coordinates.log_stds`, in eighths, for each block."""
    return QUARTER * stored.scales + stored.shifts - (stored.steps * OCTAVE // FINE)[:, None]


def _short(rows: Int[Tensor, "n block"]) -> Int[Tensor, "n block"]:
    """Return logarithms in two bytes each; those of numbers that are far beyond all tables are cut."""
    return rows.clamp(-FAR, FAR).short()


def _best_families(numbers: _Numbers, stored: Quantised) -> Tensor:
    """Return the tables with which each block takes fewest bits."""
    drawn, costs = numbers.drawn(DRAWN), []
    rows = (drawn.spreads - (stored.steps * OCTAVE // FINE)[:, None]).clamp(LOW, WIDEST)
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
