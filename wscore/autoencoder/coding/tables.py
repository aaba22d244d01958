"""Probabilities of whole numbers, the same on every machine.

A number q of a Gaussian or Laplace variable of deviation 2^(row / 8) steps has the probability of the interval q +- 1/2.
Tables are made by additions, multiplications and divisions alone, which IEEE 754 rounds alike everywhere, and end as
multiples of 2^-24. Wide distributions are coded in two parts: q = high 2^k + low, the low bits as they are. Numbers
beyond a table escape it.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from wscore.autoencoder.coding.range_coder import STREAM

GAUSS, LAPLACE = 0, 1
FAMILIES = (GAUSS, LAPLACE)
OCTAVE = 8  # rows to an octave
LOW, HIGH = -6 * OCTAVE, 3 * OCTAVE  # rows with a table of their own
WIDEST = 26 * OCTAVE
REACH = 12  # deviations to which a table goes
ESCAPE = 2.0**-16  # probability of numbers beyond it, and least of all others
ESCAPE_BITS = 48  # that such a number takes: its probability and itself
PRECISION = 1 << 24


class Table(NamedTuple):
    """Probabilities of the symbols -reach .. reach, and at the end of an escape.

    Attributes:
        model: for the range coder.
        reach: largest number.
        bits: of the numbers 0 .. reach, and of an escape.
    """

    model: Any
    reach: int
    bits: Float64[np.ndarray, " number"]


@lru_cache(maxsize=256)
def table(family: int, row: int) -> Table:
    """Return the table of a row from `LOW` to `HIGH`."""
    deviation = _power(row)
    reach = int(np.ceil(REACH * deviation))
    upper = _tail(family, (np.arange(reach + 1) + 0.5) / deviation)  # beyond q + 1/2
    inside = np.concatenate([[1 - 2 * upper[0]], upper[:-1] - upper[1:]])
    counts = np.floor(np.maximum(inside, ESCAPE) * PRECISION)
    both = np.concatenate([counts[:0:-1], counts, [np.floor(ESCAPE * PRECISION)]])
    shares = both / PRECISION
    total = float(both.sum()) / PRECISION
    bits = -np.log2(np.concatenate([counts, [ESCAPE * PRECISION]]) / PRECISION / total)
    bits[-1] = ESCAPE_BITS
    return Table(STREAM.model.Categorical(shares, perfect=False), reach, bits)


@lru_cache(maxsize=1)
def bit_tables() -> Float[Tensor, "family row number"]:
    """Return the bits of |q| for each row from `LOW` to `HIGH`, escapes at the end and beyond the reach."""
    rows = range(LOW, HIGH + 1)
    size = table(GAUSS, HIGH).reach + 2
    bits = torch.full((len(FAMILIES), len(rows), size), float(ESCAPE_BITS))
    for family in FAMILIES:
        for place, row in enumerate(rows):
            known = table(family, row)
            bits[family, place, : known.reach + 1] = torch.from_numpy(known.bits[:-1])
    return bits


def _power(row: int) -> float:
    """Return 2^(row / 8) from square roots and products."""
    root = np.sqrt(np.sqrt(np.sqrt(np.float64(2))))
    value = np.float64(1)
    for _ in range(row % OCTAVE):
        value = value * root
    return float(value * np.float64(2) ** (row // OCTAVE))


def _exponential(x: np.ndarray) -> np.ndarray:
    """Return exp(-x) of x >= 0."""
    part, term, total = x / 1024, np.ones_like(x), np.ones_like(x)
    for order in range(1, 12):
        term = term * part / order
        total = total + term
    for _ in range(10):
        total = total * total
    return 1 / total


def _tail(family: int, x: np.ndarray) -> np.ndarray:
    """Return the probability beyond x > 0 deviations (Gauss: Abramowitz and Stegun 7.1.26)."""
    x = np.minimum(x, 30.0)
    if family == LAPLACE:
        return _exponential(x * np.sqrt(np.float64(2))) / 2
    z = x / np.sqrt(np.float64(2))
    t = 1 / (1 + 0.3275911 * z)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return series * _exponential(z * z) / 2
