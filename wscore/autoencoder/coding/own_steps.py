"""A network coded by itself: one step for each tensor, and numbers that the network's own outputs decide where it can be run.

No zoo is needed, so that networks of any size and kind can be coded. Steps follow the mean curvature of each tensor (reverse
water-filling), or its size where the network is not run; numbers are found by `search` and coded by `adaptive`. With a
reference, a network that the reader has too, they are steps from there.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from wscore.autoencoder.coding import adaptive
from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.gauss_newton import gauss_newton_rows
from wscore.autoencoder.coding.one_step import Frame, too_small
from wscore.autoencoder.coding.problem import Decoder, Originals, SearchConfig
from wscore.autoencoder.coding.search import PRICE, fitted, rounded, search
from wscore.errors import DataError

OCTAVE = 8  # parts in which steps are counted
MEASURED, AT_ONCE = 256, 32  # images on which curvature is measured
SLACK, SPARE = 1.3, 1.03  # bits at the start beside those of the budget, of a search and of rounding to few bits
RICH = 2.0  # bits a weight from which on numbers that are rounded and then lowered lose more than they save
FINEST, COARSEST = -60 * OCTAVE, 60 * OCTAVE
PRIOR = 3.0  # numbers of the matrix's mean that every row and column begins with, as in `adaptive`
LEAST = 1e-3  # mean magnitude
ATTEMPTS, CLOSE = 8, 0.985  # at filling the bytes (estimates of tiny networks err), and the share that is enough
FULL = 0.9  # share of the bytes below which numbers are coded once more, in finer steps: a search leaves many at 0
LARGEST = 2.0**36  # number at the start
CORRECTIONS = 3  # of steps that leave bytes over
CALIBRATED = 20  # times prices are learned until they are measured
Shapes = Sequence[tuple[int, int]]


class OwnCode(NamedTuple):
    """A network as whole numbers.

    Attributes:
        steps: log2 of the step of each tensor, in eighths.
        numbers: coordinates in steps.
    """

    steps: Int[Tensor, " tensors"]
    numbers: Int[Tensor, " weights"]


class MatrixPrices:
    """Bits of numbers in matrices of strong and weak rows and columns, geometric about a mean magnitude of each place.

    Args:
        shapes: of the matrices.
        measured: whether what numbers take is corrected, at times, by what they are packed to.
    """

    def __init__(self, shapes: Shapes, *, measured: bool = True) -> None:
        self.shapes, self.sizes = shapes, [rows * columns for rows, columns in shapes]
        self.head = self.tail = torch.zeros(0)
        self.measured, self.calls, self.scale = measured, 0, 1.0

    def bits(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return the bits of whole numbers."""
        magnitudes = numbers.abs()
        return self.scale * (self.head + magnitudes * self.tail + (magnitudes > 0))

    def learn(self, numbers: Float[Tensor, "n weights"]) -> None:
        """Take the means of rows and columns from numbers of one network, and at times the bits of all from what is packed."""
        parts = numbers.abs().split(self.sizes, 1)
        means = torch.cat([_expected(part, shape) for part, shape in zip(parts, self.shapes, strict=True)], 1)
        self.head, self.tail = torch.log2(1 + means), torch.log2(1 + 1 / means)
        if self.measured and self.calls % CALIBRATED == 0:
            self.scale *= 8 * len(_encoded(self.shapes, numbers[0])) / float(self.bits(numbers).sum().clamp_min(1))
        self.calls += 1


def compress(
    code: Coordinates, originals: Originals, sizes: Int[Tensor, "1"], frame: Frame, config: SearchConfig
) -> tuple[list[bytes], Float[Tensor, "1 weights"]]:
    """Return the file of one network, of at most as many bytes, and the weights that it holds.

    Args:
        code: plain coordinates of the layout.
        originals: the network.
        sizes: bytes.
        frame: makes a file of a step, which is not kept, and numbers.
        config: of the search, where the network can be run.

    Raises:
        ModelError: if the file can't be as small.
    """
    shapes, size, overhead = _shapes(code), int(sizes), len(frame(0, b"")) + 2 * len(code.pieces)
    base = torch.zeros(1, code.size) if originals.base is None else code.forward(originals.base)
    y, runs = code.forward(originals.vectors) - base, originals.answer is not None
    relative = _by_curvature(code, originals, config) if runs else _by_size(code, y.square() + base.square())

    def coded(share: float) -> OwnCode:
        budget, prices = torch.tensor([share * 8.0 * max(size - overhead, 1)]), MatrixPrices(shapes)
        spare = SLACK if runs else 1.0 if budget > RICH * code.size else SPARE
        steps = _affordable(code, shapes, y, relative, budget * spare)
        unit = _units(code, steps)
        points = (y / unit).clamp(-LARGEST, LARGEST)
        if runs:
            result = search(originals.problem(Decoder(code.inverse, unit[None], base), prices, budget), points, config)
            numbers, points = result.numbers, result.points
        else:
            prices.learn(points.round())
            numbers = rounded(prices, points, PRICE)[0]
        return OwnCode(steps, _filled(shapes, numbers, points, prices, size - overhead)[0].long())

    share, used, fits = 1.0, size, []
    for _ in range(ATTEMPTS):
        network = coded(share)
        packed = _encoded(shapes, network.numbers)
        used = overhead + len(packed)
        if used <= size:
            data = frame(0, network.steps.numpy().astype("<i2").tobytes() + packed)
            fits.append((data, _weights(code, network, originals.base)))
        if fits and (used > size or used >= FULL * size or len(fits) > 1):
            break
        share *= CLOSE * max(size - overhead, 1) / max(len(packed), 1)
    if not fits:
        raise too_small(code.size, used)
    data, back = _nearest(fits, originals, config) if runs and len(fits) > 1 else fits[-1]
    return [data], back


def _nearest(fits: Sequence[tuple[bytes, Tensor]], originals: Originals, config: SearchConfig) -> tuple[bytes, Tensor]:
    """Return the file whose network diverges least from the original."""
    judge = originals.judge(config)
    return min(fits, key=lambda pair: float(judge.divergence(pair[1])))


def decompress(
    code: Coordinates, payload: bytes, base: Float[Tensor, "1 weights"] | None
) -> Float[Tensor, "1 weights"]:
    """Return the weights in a file.

    Raises:
        DataError: if its numbers are damaged.
    """
    head = 2 * len(code.pieces)
    if len(payload) < head:
        raise DataError("ends too early", expected=f"at least {head} bytes", got=len(payload))
    steps = torch.from_numpy(np.frombuffer(payload[:head], "<i2").astype(np.int64))
    if not bool((steps.abs() <= COARSEST).all()):
        raise DataError("its steps are damaged", expected=f"{FINEST} to {COARSEST}", got=int(steps.abs().max()))
    matrices = adaptive.decode_matrix(payload[head:], _shapes(code))
    numbers = torch.from_numpy(np.concatenate([matrix.reshape(-1) for matrix in matrices]))
    return _weights(code, OwnCode(steps, numbers), base)


def _shapes(code: Coordinates) -> Shapes:
    """Return the shape of each tensor as a matrix of output units by all else; vectors are one row."""
    specs = [block.parts[0].axes.spec for block in code.structure.blocks]
    return [(spec.shape[0], spec.size // spec.shape[0]) if len(spec.shape) > 1 else (1, spec.size) for spec in specs]


def _expected(magnitudes: Float[Tensor, "n size"], shape: tuple[int, int]) -> Float[Tensor, "n size"]:
    matrix = magnitudes.view(-1, *shape)
    whole = matrix.mean((1, 2), keepdim=True) + LEAST
    row = (matrix.sum(2, keepdim=True) + PRIOR * whole) / (shape[1] + PRIOR)
    column = (matrix.sum(1, keepdim=True) + PRIOR * whole) / (shape[0] + PRIOR)
    return (row * column / whole).flatten(1)


def _encoded(shapes: Shapes, numbers: Shaped[Tensor, " weights"]) -> bytes:
    parts = numbers.long().split([rows * columns for rows, columns in shapes])
    return adaptive.encode_matrix([part.numpy().reshape(shape) for part, shape in zip(parts, shapes, strict=True)])


def _weights(code: Coordinates, own: OwnCode, base: Float[Tensor, "1 weights"] | None) -> Float[Tensor, "1 weights"]:
    y = own.numbers.float() * _units(code, own.steps)
    return code.inverse(y[None] + (0 if base is None else code.forward(base)))


def _filled(shapes: Shapes, numbers: Tensor, points: Tensor, prices: MatrixPrices, size: int) -> Tensor:
    """Return numbers, or others next to `points`, that take at most `size` bytes and hardly fewer; else those of fewest."""
    budget, best, least = prices.bits(numbers).sum(1), numbers, 0
    for _ in range(ATTEMPTS):
        used = len(_encoded(shapes, numbers[0]))
        best, least = (numbers, used) if least < used <= size else (best, least)
        if CLOSE * size <= used <= size:
            break
        budget = budget * (1 + CLOSE) / 2 * max(size, 1) / used
        numbers = fitted(prices, points, budget)
    return best if least else numbers


def _units(code: Coordinates, steps: Int[Tensor, " tensors"]) -> Float[Tensor, " weights"]:
    return (steps / OCTAVE).double().exp2().float()[code.groups]


def _by_curvature(code: Coordinates, originals: Originals, config: SearchConfig) -> Float[Tensor, " tensors"]:
    """Return log2 of the steps with which an error of a step costs the same in every tensor, in eighths."""
    answer, random = originals.answer, torch.Generator().manual_seed(config.seed)
    assert answer is not None, "the network is run"
    run: Callable[[Tensor, Tensor], Tensor] = lambda points, x: answer(code.inverse(points), x)  # noqa: E731
    y, total = code.forward(originals.vectors), torch.zeros(code.size)
    for part in originals.chosen(MEASURED, config.seed).split(AT_ONCE):
        total += gauss_newton_rows(run, y, part, temperature=config.temperature, generator=random)[0].square().sum(0)
    means = _means(code, total)
    return -OCTAVE / 2 * means.clamp_min(means.max() * 1e-6).clamp_min(1e-30).log2()


def _by_size(code: Coordinates, squares: Float[Tensor, "1 weights"]) -> Float[Tensor, " tensors"]:
    """Return log2 of the steps with which squared errors relative to a tensor of n weights cost n^-1/2, in eighths."""
    counts = torch.bincount(code.groups)
    return OCTAVE / 2 * (_means(code, squares[0]).clamp_min(1e-30).log2() + counts.log2() / 2)


def _means(code: Coordinates, values: Float[Tensor, " weights"]) -> Float[Tensor, " tensors"]:
    counts = torch.bincount(code.groups)
    return torch.zeros(len(counts)).index_add(0, code.groups, values) / counts


def _affordable(
    code: Coordinates, shapes: Shapes, y: Float[Tensor, "1 weights"], relative: Float[Tensor, " tensors"],
    bits: Float[Tensor, "1"],
) -> Int[Tensor, " tensors"]:  # fmt: skip
    """Return the finest steps of these proportions with which the network rounded number by number takes about `bits`."""
    prices, low, high = MatrixPrices(shapes, measured=False), FINEST, COARSEST
    while high - low > 1:
        middle = (low + high) // 2
        numbers = y / _units(code, _clamped(relative + middle))
        prices.learn(numbers.round())
        low, high = (low, middle) if rounded(prices, numbers, PRICE)[1] <= bits else (middle, high)
    used = lambda steps: 8.0 * len(_encoded(shapes, _numbers(code, y, steps)[0]))  # noqa: E731
    for _ in range(CORRECTIONS):  # numbers of many bits take fewer than their prices
        coarse = used(_clamped(relative + high))
        if (octaves := int(OCTAVE * (float(bits) - coarse) / code.size)) < 1:
            break
        high -= octaves
    return _mixed(code, _clamped(relative + high), _clamped(relative + high - 1), used, float(bits))


def _mixed(
    code: Coordinates, coarse: Int[Tensor, " tensors"], fine: Int[Tensor, " tensors"],
    used: Callable[[Tensor], float], bits: float,
) -> Int[Tensor, " tensors"]:  # fmt: skip
    """Return coarse steps, and fine ones for as many weights as `bits` pay for: the largest tensors that fit."""
    least, most = used(coarse), used(fine)
    room = code.size * (bits - least) / max(most - least, 1.0)
    sizes, steps = torch.bincount(code.groups), coarse.clone()
    for place in sizes.argsort(descending=True, stable=True).tolist():
        if sizes[place] <= room:
            steps[place], room = fine[place], room - float(sizes[place])
    return steps


def _numbers(code: Coordinates, y: Float[Tensor, "1 weights"], steps: Int[Tensor, " tensors"]) -> Tensor:
    return (y / _units(code, steps)).clamp(-LARGEST, LARGEST).round()


def _clamped(steps: Float[Tensor, " tensors"]) -> Int[Tensor, " tensors"]:
    return steps.round().clamp(FINEST, COARSEST).long()
