"""Whole numbers of one step that keep what networks do: rounded by their own curvature, and searched.

At many bits a weight, rounding by curvature leaves nothing to search; at few, a search finds what rounding in turn can't.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.curvature import MOST, curvatures, factors, round_in_turn
from wscore.autoencoder.coding.problem import Decoder, Originals, SearchConfig, distinct
from wscore.autoencoder.coding.quantise import (
    FINE,
    FINEST,
    LARGEST,
    PRICE,
    Quantised,
    TablePrices,
    rows_of,
    side_bits,
    units,
)
from wscore.autoencoder.coding.search import fitted, search
from wscore.networks.inference import answer_of_rows

FINER = 0.9  # step of a search beside that of rounding: numbers that it lowers pay for it
RICH = 2.5  # bits a weight from which on a search does not pay
CURVED = 128  # training images by which curvature is measured
DAMPING = 0.3  # of a network's own curvature, by that of the zoo
IN_TURN = PRICE / 2  # squared error that a bit is worth where numbers are rounded in turn
LEVELS = 3  # magnitudes whose bits are told apart there
NARROW = (4, 20)  # how much finer or coarser steps are with numbers rounded in turn, in 1 / 32


class FixedPrices:
    """Bits of numbers by the tables of networks, which stay as they are."""

    def __init__(self, code: Coordinates, stored: Quantised) -> None:
        self.tables = TablePrices(rows_of(code, stored), stored.families[:, code.groups])

    def bits(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return the bits of whole numbers."""
        return self.tables(numbers.abs().clamp_max(1 << 30).int())

    def learn(self, numbers: Float[Tensor, "n weights"]) -> None:
        """Leave the tables as they are."""


def tuned(
    code: Coordinates, originals: Originals, rounded: Quantised, bits: Float[Tensor, " n"], config: SearchConfig
) -> Iterator[tuple[Int[Tensor, " some"], Quantised]]:
    """Yield rows of networks, and those networks in other numbers that fit their bits by the tables.

    Args:
        code: coordinates of the layout.
        originals: the networks.
        rounded: the networks number by number.
        bits: for each.
        config: of the search.
    """
    every = torch.arange(len(bits))
    if code.size <= MOST:
        yield every, rounded_in_turn(code, originals, rounded, bits, config)
        every = (bits < RICH * code.size).nonzero()[:, 0]
    if len(every) and config.steps:
        yield every, searched(code, originals.of(every), rounded.take(every), bits[every], config)


def lowered(
    code: Coordinates, stored: Quantised, points: Float[Tensor, "n weights"], bits: Float[Tensor, " n"]
) -> Quantised:
    """Return networks with numbers next to `points`, coordinates in steps, or lowered until they take no more than some bits."""
    room = (bits - side_bits(code, stored.scales)).float()
    return stored._replace(numbers=fitted(FixedPrices(code, stored), points, room).to(stored.numbers.dtype))


def searched(
    code: Coordinates, originals: Originals, rounded: Quantised, bits: Float[Tensor, " n"], config: SearchConfig
) -> Quantised:
    """Return networks whose numbers are searched for, in finer steps than rounded ones."""
    base = _base(code, originals)
    y = code.forward(originals.vectors) - base
    start = rounded._replace(steps=(rounded.steps + round(FINE * math.log2(FINER))).clamp_min(FINEST))
    unit, room = units(code, start), bits - side_bits(code, start.scales)
    inverse = code.quick_inverse if code.size <= MOST else code.inverse
    problem = originals.problem(Decoder(inverse, unit, base), FixedPrices(code, start), room.float())
    return start._replace(numbers=search(problem, y / unit, config).numbers.long())


def rounded_in_turn(
    code: Coordinates, originals: Originals, rounded: Quantised, bits: Float[Tensor, " n"], config: SearchConfig
) -> Quantised:
    """Return networks rounded by their own curvature with the finest steps that fit, else as they are."""
    base, answer = _base(code, originals), originals.answer
    y = code.forward(originals.vectors) - base
    assert answer is not None, "networks are run"
    rows, places = distinct(originals.vectors)
    images = originals.chosen(CURVED, config.seed)
    lower = torch.empty(len(rows), code.size, code.size)
    for place, row in enumerate(rows):
        unit = units(code, rounded)[row]
        alone = answer_of_rows(answer, [row])
        run = lambda numbers, x, unit=unit, alone=alone: alone(code.quick_inverse(base + numbers * unit), x)  # noqa: E731
        matrix = curvatures(run, (y[row] / unit)[None], images, (config.temperature,))[0]
        lower[place] = factors(matrix, DAMPING)[0]
    return _finest(code, y, rounded, bits - side_bits(code, rounded.scales), lower, places)


def _finest(
    code: Coordinates, y: Tensor, rounded: Quantised, room: Tensor, lower: Tensor, places: Int[Tensor, " n"]
) -> Quantised:
    squares = lower.diagonal(dim1=1, dim2=2).square()
    squares = (squares / squares.mean(1, keepdim=True))[places]
    steps, numbers = rounded.steps, rounded.numbers.float()
    low, high = (steps - NARROW[0]).clamp_min(FINEST), steps + NARROW[1]
    while (high - low > 1).any():
        middle = (low + high) // 2
        tried = rounded._replace(steps=middle)
        prices = FixedPrices(code, tried)
        costs = torch.stack([prices.bits(torch.full_like(y, magnitude)) for magnitude in range(LEVELS + 1)])
        bounds = (0.5 + IN_TURN * costs.diff(dim=0) / (2 * squares)).clamp(0, 1)
        new = round_in_turn((y / units(code, tried))[:, None], lower, bounds[:, :, None], places)[:, 0]
        new = new.clamp(-LARGEST, LARGEST)
        fits = prices.bits(new).sum(1) <= room
        steps, numbers = torch.where(fits, middle, steps), torch.where(fits[:, None], new, numbers)
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return rounded._replace(steps=steps, numbers=numbers.long())


def _base(code: Coordinates, originals: Originals) -> Float[Tensor, "1 weights"]:
    return torch.zeros(1, code.size) if originals.base is None else code.forward(originals.base)
