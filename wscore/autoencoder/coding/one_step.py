"""Files of networks whose coordinates are coded with one step and fixed tables, rounded or, where networks are run, searched."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.curvature import CURVED, MOST, curvatures, factors, round_in_turn
from wscore.autoencoder.coding.quantise import (
    COARSEST,
    FINE,
    FINEST,
    LARGEST,
    PRICE,
    Quantised,
    TablePrices,
    dequantise,
    quantise,
    rows_of,
    side_bits,
    units,
)
from wscore.autoencoder.coding.range_coder import decoder
from wscore.autoencoder.coding.search import Originals, SearchConfig, distinct, fitted, search
from wscore.autoencoder.coding.table_coder import decode_numbers, decode_scales, encode_numbers
from wscore.errors import DataError, ModelError

FINER = 0.9  # step of a search beside that of rounding: numbers that it lowers pay for it
DAMPING = 0.3  # of a network's own curvature, by that of the zoo
IN_TURN = PRICE / 2  # squared error that a bit is worth where numbers are rounded in turn
LEVELS = 3  # magnitudes whose bits are told apart there
NARROW = (24, 8)  # how much finer or coarser steps are with numbers rounded in turn, in 1 / 32
ATTEMPTS = 6  # at filling the bytes
Frame = Callable[[int, bytes], bytes]  # step and payload -> file
Coarser = Callable[[Tensor, Tensor], Quantised]  # rows of networks and bits for each -> those networks in fewer bits


def compress(
    code: Coordinates, originals: Originals, sizes: Int[Tensor, " n"], frame: Frame, config: SearchConfig
) -> tuple[list[bytes], Float[Tensor, "n weights"]]:
    """Return files of at most `sizes` bytes, and the weights that they hold.

    Args:
        code: coordinates of the layout.
        originals: the networks.
        sizes: bytes of each.
        frame: makes a file of a step and numbers.
        config: of the search, where networks can be run.

    Raises:
        ModelError: if a file can't be as small.
    """
    base = torch.zeros(1, 1).expand(1, code.size) if originals.base is None else code.forward(originals.base)
    y = code.forward(originals.vectors) - base
    bits = 8.0 * (sizes - len(frame(0, b""))).double()
    again = lambda rows, bits: quantise(code, y[rows], bits)  # noqa: E731
    files, stored = _filled(code, quantise(code, y, bits), again, bits, sizes, frame)
    if any(len(data) > size for data, size in zip(files, sizes.tolist(), strict=True)):
        raise _too_small(code, quantise(code, y, torch.full((len(y),), -1.0).double()), frame)
    back = code.inverse(dequantise(code, stored) + base)
    if originals.answer is None:
        return files, back
    found = _searched(code, originals, base, stored, bits, config)
    new, found = _filled(code, found, partial(_lowered, code, found), bits, sizes, frame)
    moved = code.inverse(dequantise(code, found) + base)
    better = originals.divergence(moved, config) < originals.divergence(back, config)
    kept = [one if use else other for one, other, use in zip(new, files, better.tolist(), strict=True)]
    return kept, torch.where(better[:, None], moved, back)


def decompress(
    code: Coordinates, step: int, payload: bytes, base: Float[Tensor, "1 weights"] | None
) -> Float[Tensor, "1 weights"]:
    """Return the weights in a file.

    Raises:
        DataError: if its numbers are damaged.
    """
    if not FINEST <= step <= COARSEST:
        raise DataError("its step is damaged", expected=f"{FINEST} to {COARSEST}", got=step)
    source = decoder(payload)
    scales, families = decode_scales(source, code)
    empty = torch.zeros(1, 0, dtype=torch.int64)
    stored = Quantised(empty, torch.tensor([step]), scales, code.shifts(scales), families)
    y = dequantise(code, decode_numbers(source, code, stored))
    return code.inverse(y if base is None else y + code.forward(base))


class _Prices:
    """Bits of numbers by the tables of networks, which stay as they are."""

    def __init__(self, code: Coordinates, stored: Quantised) -> None:
        self.tables = TablePrices(rows_of(code, stored), stored.families[:, code.groups])

    def bits(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return the bits of whole numbers."""
        return self.tables(numbers.abs().clamp_max(1 << 30).int())

    def learn(self, numbers: Float[Tensor, "n weights"]) -> None:
        """Leave the tables as they are."""


def _searched(
    code: Coordinates, originals: Originals, base: Tensor, rounded: Quantised, bits: Tensor, config: SearchConfig
) -> Quantised:
    y = code.forward(originals.vectors) - base
    if code.size <= MOST:
        start, points = _rounded_in_turn(code, originals, base, rounded, bits, config)
        known = start.numbers.float()
    else:
        start = rounded._replace(steps=(rounded.steps + round(FINE * math.log2(FINER))).clamp_min(FINEST))
        points, known = y / units(code, start), None
    unit, room = units(code, start), bits - side_bits(code, start.scales)
    decode = lambda numbers: code.inverse(base + numbers * unit)  # noqa: E731
    problem = originals.problem(decode, _Prices(code, start), room.float())
    return start._replace(numbers=search(problem, points, config, known).numbers.long())


def _rounded_in_turn(
    code: Coordinates, originals: Originals, base: Tensor, rounded: Quantised, bits: Tensor, config: SearchConfig
) -> tuple[Quantised, Float[Tensor, "n weights"]]:
    """Return networks rounded by their own curvature with the finest steps that fit, else as they are, and their points."""
    y, answer, lower = code.forward(originals.vectors) - base, originals.answer, []
    assert answer is not None, "networks are run"
    rows, places = distinct(originals.vectors)
    images = originals.chosen(CURVED, config.seed)
    for row in rows:
        unit = units(code, rounded)[row]
        run = lambda numbers, x, unit=unit: answer(code.inverse(base + numbers * unit), x)  # noqa: E731
        matrix = curvatures(run, (y[row] / unit)[None], images, (config.temperature,))[0]
        lower.append(factors(matrix, DAMPING))
    return _finest(code, y, rounded, bits - side_bits(code, rounded.scales), torch.cat(lower), places)


def _finest(
    code: Coordinates, y: Tensor, rounded: Quantised, room: Tensor, lower: Tensor, places: Int[Tensor, " n"]
) -> tuple[Quantised, Float[Tensor, "n weights"]]:
    squares = lower.diagonal(dim1=1, dim2=2).square()
    squares = (squares / squares.mean(1, keepdim=True))[places]
    steps, numbers, points = rounded.steps, rounded.numbers.float(), y / units(code, rounded)
    low, high = (steps - NARROW[0]).clamp_min(FINEST), steps + NARROW[1]
    while (high - low > 1).any():
        middle = (low + high) // 2
        tried = rounded._replace(steps=middle)
        prices = _Prices(code, tried)
        costs = torch.stack([prices.bits(torch.full_like(y, magnitude)) for magnitude in range(LEVELS + 1)])
        bounds = (0.5 + IN_TURN * costs.diff(dim=0) / (2 * squares)).clamp(0, 1)
        new, unrounded = round_in_turn((y / units(code, tried))[:, None], lower, bounds[:, :, None], places)
        new = new[:, 0].clamp(-LARGEST, LARGEST)
        fits = prices.bits(new).sum(1) <= room
        steps, low, high = (
            torch.where(fits, middle, steps),
            torch.where(fits, low, middle),
            torch.where(fits, middle, high),
        )
        numbers, points = (torch.where(fits[:, None], *pair) for pair in ((new, numbers), (unrounded[:, 0], points)))
    return rounded._replace(steps=steps, numbers=numbers.long()), points


def _lowered(code: Coordinates, stored: Quantised, rows: Tensor, bits: Tensor) -> Quantised:
    """Return some networks with numbers lowered until they take no more than some bits."""
    some = Quantised(*(part[rows] for part in stored))
    room = (bits - side_bits(code, some.scales)).float()
    return some._replace(numbers=fitted(_Prices(code, some), some.numbers.float(), room).to(some.numbers.dtype))


def _filled(
    code: Coordinates, stored: Quantised, again: Coarser, bits: Tensor, sizes: Tensor, frame: Frame
) -> tuple[list[bytes], Quantised]:
    """Return files, and networks in fewer bits where those are too large for their bytes, which tables tell but nearly."""
    files, bits = _files(code, stored, frame), bits.clone()
    for _ in range(ATTEMPTS):
        over = (torch.tensor([len(data) for data in files]) - sizes).clamp_min(0)
        if not (rows := over.nonzero()[:, 0]).numel() or bool((stored.steps[rows] >= COARSEST).all()):
            break
        bits[rows] -= 8.0 * over[rows]
        new = again(rows, bits[rows])
        for part, values in zip(stored, new, strict=True):
            part[rows] = values
        for row, data in zip(rows.tolist(), _files(code, new, frame), strict=True):
            files[row] = data
    return files, stored


def _files(code: Coordinates, stored: Quantised, frame: Frame) -> list[bytes]:
    return [frame(*pair) for pair in zip(stored.steps.tolist(), encode_numbers(code, stored), strict=True)]


def _too_small(code: Coordinates, least: Quantised, frame: Frame) -> ModelError:
    size = max(map(len, _files(code, least, frame)))
    return too_small(code.size, size)


def too_small(weights: int, size: int) -> ModelError:
    """Return the error of a network that takes at least so many bytes."""
    most = 4 * weights / size
    return ModelError(
        "the network can't be compressed that far", where="ratio",
        expected=f"at most {int(10 * most) / 10:.1f} ({size} bytes)",
    )  # fmt: skip
