"""Whole numbers as bytes, and back, by the fixed tables of `tables`."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wscore.autoencoder.coding.coordinates import MOST, Coordinates
from wscore.autoencoder.coding.quantise import Quantised, rows_of, scale_differences, scale_rows, scales_of
from wscore.autoencoder.coding.range_coder import STREAM, encoder, read_words, shortest
from wscore.autoencoder.coding.tables import FAMILIES, GAUSS, HIGH, LOW, OCTAVE, Table, table
from wscore.errors import DataError

HALF_WORD = 1 << 16
ROWS = HIGH - LOW + 1


def encode_numbers(code: Coordinates, stored: Quantised) -> list[bytes]:
    """Return each of the networks as bytes, as few as the range coder needs."""
    families = stored.families.numpy().astype(np.int16)
    scales = _Symbols(*_scale_numbers(code, stored.scales))
    numbers = _Symbols(stored.numbers.numpy(), rows_of(code, stored).numpy(), families[:, code.groups.numpy()])
    files = []
    for row, chosen in enumerate(families):
        sink = encoder()
        scales.encode(sink, row)
        if not code.known and len(chosen):
            sink.encode(chosen.astype(np.int32), STREAM.model.Uniform(len(FAMILIES)))
        numbers.encode(sink, row)
        files.append(shortest(sink))
    return files


def _scale_numbers(code: Coordinates, scales: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scales (n, blocks) as the numbers that are coded, their rows and families."""
    differences = np.array([scale_differences(own) for own in scales.tolist()], np.int64).reshape(scales.shape)
    rows = np.array(scale_rows(scales.shape[1], known=code.known), np.int16)
    return differences, np.broadcast_to(rows, scales.shape), np.full(scales.shape, GAUSS, np.int16)


def decode_scales(source: Any, code: Coordinates) -> tuple[Tensor, Tensor]:
    """Return scales and families (1, blocks) of a network."""
    widths = np.array(scale_rows(len(code.pieces), known=code.known), np.int64)
    scales = scales_of(_decode(source, widths, np.full(len(widths), GAUSS)).tolist())
    if max(map(abs, scales), default=0) > MOST:
        raise DataError(
            "the compressed numbers are damaged", expected=f"scales up to {MOST}", got=max(map(abs, scales))
        )
    families = np.zeros(len(scales), np.int64)
    if not code.known and scales:
        families = read_words(source, STREAM.model.Uniform(2), len(scales))
    return torch.tensor([scales], dtype=torch.int64).view(1, -1), torch.from_numpy(families)[None]


def decode_numbers(source: Any, code: Coordinates, stored: Quantised) -> Quantised:
    """Return a network whose numbers are read, with the step, scales, shifts and families of `stored`."""
    families = stored.families[0].numpy()[code.groups.numpy()]
    numbers = _decode(source, rows_of(code, stored)[0].numpy(), families)
    return stored._replace(numbers=torch.from_numpy(numbers)[None])


class _Symbols:
    """Whole numbers of networks in the order in which they are coded: table by table, then what is beyond and below tables.

    Args:
        numbers: (n, size).
        rows: log2 of their deviations, in eighths.
        families: of their tables.
    """

    def __init__(self, numbers: np.ndarray, rows: np.ndarray, families: np.ndarray) -> None:
        below, keys = _split(rows, families)
        self.wide = bool(below.any())
        high = (numbers + _half(below)) >> below if self.wide else numbers
        order = keys.argsort(axis=1, kind="stable")
        self.keys, self.high = (np.take_along_axis(values, order, 1) for values in (keys, high))
        del order  # eight bytes each
        reach = _reaches()[self.keys]
        self.outside = np.abs(self.high) > reach
        symbols = self.high + reach
        symbols[self.outside] = 2 * reach[self.outside] + 1
        self.symbols = symbols.astype(np.int32, copy=False)
        self.below, self.low = (below, numbers + _half(below) - (high << below)) if self.wide else (below, high)

    def encode(self, sink: Any, row: int) -> None:
        """Encode those of one network."""
        for key, start, end in _runs(self.keys[row]):
            sink.encode(self.symbols[row, start:end], _models()[key])
        far = self.high[row][self.outside[row]]
        for shift in (0, 16) if len(far) else ():
            sink.encode((far >> shift & (HALF_WORD - 1)).astype(np.int32), STREAM.model.Uniform(HALF_WORD))
        if self.wide:
            order = self.below[row].argsort(kind="stable")
            low = self.low[row][order].astype(np.int32)
            for bits, start, end in _runs(self.below[row][order]):
                if bits:
                    sink.encode(low[start:end], STREAM.model.Uniform(1 << bits))


def _decode(source: Any, rows: np.ndarray, families: np.ndarray) -> np.ndarray:
    below, keys = _split(rows, families)
    order = keys.argsort(kind="stable")
    keys, symbols = keys[order], np.empty(len(rows), np.int32)
    for key, start, end in _runs(keys):
        symbols[start:end] = read_words(source, _models()[key], end - start)
    reach = _reaches()[keys]
    outside = symbols > 2 * reach
    symbols -= reach
    if outside.any():
        low, high = (read_words(source, STREAM.model.Uniform(HALF_WORD), int(outside.sum())) for _ in range(2))
        symbols[outside] = (low | high << 16).astype(np.uint32).astype(np.int32)
    numbers = np.empty_like(symbols)
    numbers[order] = symbols
    if below.any():
        numbers = (numbers << below) - _half(below)
        order = below.argsort(kind="stable")
        for bits, start, end in _runs(below[order]):
            if bits:
                numbers[order[start:end]] += read_words(source, STREAM.model.Uniform(1 << bits), end - start)
    return numbers


def _split(rows: np.ndarray, families: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bits below each number's table, and the number of its table (16 bits, which sort fast)."""
    below = np.maximum(rows - (HIGH - OCTAVE + 1), 0) // OCTAVE
    return below, (families * ROWS + rows - OCTAVE * below - LOW).astype(np.uint16)


def _half(below: np.ndarray) -> np.ndarray:
    """Return half of 2^below, in four bytes each."""
    return np.int32(1) << below.astype(np.int32) >> np.int32(1)


@lru_cache(maxsize=1)
def _tables() -> tuple[Table, ...]:
    return tuple(table(family, row) for family in FAMILIES for row in range(LOW, HIGH + 1))


@lru_cache(maxsize=1)
def _models() -> tuple[Any, ...]:
    return tuple(own.model for own in _tables())


@lru_cache(maxsize=1)
def _reaches() -> np.ndarray:
    return np.array([own.reach for own in _tables()], np.int32)


def _runs(keys: np.ndarray) -> list[tuple[int, int, int]]:
    """Return key, start and end of each run of equal keys."""
    if not len(keys):
        return []
    ends = [*(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(keys)]
    return [(int(keys[start]), start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
