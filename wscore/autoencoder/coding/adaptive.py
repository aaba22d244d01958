"""Whole numbers of matrices, coded without any statistics sent beforehand: encoder and decoder learn them as they go.

A trained layer has strong and weak rows and columns: units that are hardly used, inputs that are always 0. A matrix is coded in
ten passes over interleaved positions, the first ones short. What is known by then predicts the magnitude of each number:

    m(r, c) = mean |q| of row r  x  mean |q| of column c  /  mean |q| of the matrix

each mean shrunk towards that of the matrix. The prediction, to a quarter of an octave, selects a table of magnitudes that is
counted from the numbers coded so far, of all matrices; it starts as a geometric distribution of that mean. Signs cost a bit.
All sums are of whole numbers and all else is one IEEE 754 operation at a time, so that every machine makes the same tables.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from wscore.autoencoder.coding.range_coder import STREAM, decoder, encoder, read_words, shortest
from wscore.errors import DataError

CATEGORICAL, FAIR = STREAM.model.Categorical(perfect=False), STREAM.model.Uniform(2)
ESCAPE = 15  # magnitudes from here on are coded as this symbol and an Exp-Golomb code
LEVELS, LOWEST, QUARTER = 40, -28, 4  # of predictions: 2^(-28/4) and up, in quarters of an octave
START = 16.0  # numbers that the tables count as before the first one
SHRINK = 3.0  # numbers of the matrix's mean that every row and column begins with
SPILL = 0.4  # of a count that goes to the tables on both sides
LARGEST_BITS = 40  # of a magnitude
PASSES = 10
EARLY = np.array([0, 1, 1, *[2] * 13])  # passes of one position in sixteen, itself by sixteenths
LATE = np.array([0, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 8, 8, 8, 9, 9])  # passes of all others, by sixteenths

Matrix = Int64[np.ndarray, "_ _"]  # one of several, each with its own axes


def encode_matrix(matrices: Sequence[Matrix]) -> bytes:
    """Return matrices of whole numbers, one after the other, as bytes."""
    sink, tables = encoder(), _Tables()
    for matrix in matrices:
        context = _Context(matrix.shape)
        for rows, columns in _passes(matrix.shape):
            numbers = matrix[rows, columns]
            magnitudes, levels = np.abs(numbers), context.levels(rows, columns)
            symbols = np.minimum(magnitudes, ESCAPE)
            sink.encode(symbols.astype(np.int32), CATEGORICAL, tables.shares(levels))
            _put(sink, numbers[magnitudes > 0] < 0)
            for rest in (magnitudes[magnitudes >= ESCAPE] - ESCAPE).tolist():
                _put(sink, _golomb(rest))
            tables.learn(levels, symbols)
            context.learn(rows, columns, magnitudes)
    return shortest(sink)


def decode_matrix(payload: bytes, shapes: Sequence[tuple[int, int]]) -> list[Matrix]:
    """Return the matrices in bytes, given their shapes.

    Raises:
        DataError: if the bytes can't be of such matrices.
    """
    source, tables = decoder(payload), _Tables()
    return [_decode(source, tables, shape) for shape in shapes]


def _decode(source: Any, tables: "_Tables", shape: tuple[int, int]) -> Matrix:
    matrix, context = np.zeros(shape, np.int64), _Context(shape)
    for rows, columns in _passes(shape):
        levels = context.levels(rows, columns)
        symbols = read_words(source, CATEGORICAL, tables.shares(levels))
        magnitudes, used = symbols.copy(), symbols > 0
        signs = 1 - 2 * read_words(source, FAIR, int(used.sum()))
        for place in np.flatnonzero(symbols == ESCAPE):
            magnitudes[place] += _ungolomb(source)
        matrix[rows[used], columns[used]] = signs * magnitudes[used]
        tables.learn(levels, symbols)
        context.learn(rows, columns, magnitudes)
    return matrix


class _Tables:
    """Counts of magnitudes for each level of prediction."""

    def __init__(self) -> None:
        self.counts = START * _geometric()

    def shares(self, levels: Int64[np.ndarray, " number"]) -> np.ndarray:
        return (self.counts / self.counts.sum(1, keepdims=True)).astype(np.float32)[levels]

    def learn(self, levels: Int64[np.ndarray, " number"], symbols: Int64[np.ndarray, " number"]) -> None:
        new = np.bincount(levels * (ESCAPE + 1) + symbols, minlength=self.counts.size).reshape(self.counts.shape)
        self.counts += new
        self.counts[1:] += SPILL * new[:-1]
        self.counts[:-1] += SPILL * new[1:]


class _Context:
    """Sums of the magnitudes known so far in each row and column of a matrix."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.sums = [np.zeros(size, np.int64) for size in shape]
        self.counts = [np.zeros(size, np.int64) for size in shape]

    def levels(self, rows: np.ndarray, columns: np.ndarray) -> Int64[np.ndarray, " number"]:
        whole = (self.sums[0].sum() + 0.5) / (self.counts[0].sum() + 1.0)
        row, column = ((s + SHRINK * whole) / (n + SHRINK) for s, n in zip(self.sums, self.counts, strict=True))
        return np.searchsorted(_edges(), row[rows] * column[columns] / whole)

    def learn(self, rows: np.ndarray, columns: np.ndarray, magnitudes: Int64[np.ndarray, " number"]) -> None:
        for axis, places in enumerate((rows, columns)):
            np.add.at(self.sums[axis], places, magnitudes)
            np.add.at(self.counts[axis], places, 1)


def _passes(shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows and columns of each pass; long rows and columns have some numbers of each."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    late = LATE[(column + 5 * row + 3 * (row // 16)) * 11 % 16]
    place = np.where(late == 0, EARLY[(row + column // 16) % 16], late)
    places = [np.nonzero(place == number) for number in range(PASSES)]
    return [(rows, columns) for rows, columns in places if len(rows)]


def _power(quarters: int) -> float:
    """Return 2^(quarters / 4), alike on every machine."""
    root = np.sqrt(np.sqrt(np.float64(2)))
    value = np.ldexp(np.float64(1), quarters // QUARTER)
    for _ in range(quarters % QUARTER):
        value = value * root
    return float(value)


@lru_cache(maxsize=1)
def _edges() -> Float64[np.ndarray, " edge"]:
    """Return where one level of prediction ends and the next begins."""
    half = np.sqrt(np.sqrt(np.sqrt(np.float64(2))))
    return np.array([_power(LOWEST + level) * half for level in range(LEVELS - 1)])


@lru_cache(maxsize=1)
def _geometric() -> Float64[np.ndarray, "level symbol"]:
    """Return geometric distributions of magnitudes with the means of the levels."""
    mean = np.array([_power(LOWEST + level) for level in range(LEVELS)])
    share, rest = 1 / (1 + mean), mean / (1 + mean)
    columns = [share]
    for _ in range(ESCAPE - 1):
        columns.append(columns[-1] * rest)
    tail = columns[-1] * mean
    return np.maximum(np.stack([*columns, tail], 1), 1e-9)


def _put(sink: Any, bits: Any) -> None:
    if len(bits):
        sink.encode(np.asarray(bits, np.int32), FAIR)


def _golomb(number: int) -> list[int]:
    """Return the Exp-Golomb code of a number: its length in unary, then its bits below the first."""
    length = (number + 1).bit_length() - 1
    return [1] * length + [0] + [(number + 1) >> place & 1 for place in reversed(range(length))]


def _ungolomb(source: Any) -> int:
    length = 0
    while read_words(source, FAIR):
        length += 1
        if length > LARGEST_BITS:
            raise DataError("the compressed numbers are damaged", expected=f"numbers below 2^{LARGEST_BITS}")
    return int("1" + "".join(str(read_words(source, FAIR)) for _ in range(length)), 2) - 1
