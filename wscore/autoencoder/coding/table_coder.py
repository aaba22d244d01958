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


def encode_numbers(code: Coordinates, stored: Quantised, row: int) -> bytes:
    """Return one of the networks as bytes, as few as the range coder needs."""
    sink = encoder()
    scales = stored.scales[row].tolist()
    widths = np.array(scale_rows(len(scales), known=code.known), np.int64)
    _encode(sink, np.array(scale_differences(scales), np.int64), widths, np.full(len(scales), GAUSS))
    families = stored.families[row].numpy()
    if not code.known and len(families):
        sink.encode(families.astype(np.int32), STREAM.model.Uniform(2))
    one = Quantised(*(part[row : row + 1] for part in stored))
    _encode(sink, one.numbers[0].numpy().astype(np.int64), rows_of(code, one)[0].numpy(), families[code.groups.numpy()])
    return shortest(sink)


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


def _encode(sink: Any, numbers: np.ndarray, rows: np.ndarray, families: np.ndarray) -> None:
    below, key = _split(rows, families)
    half = 1 << below >> 1
    high = (numbers + half) >> below
    order = np.argsort(key, kind="stable")
    reach = _reaches()[key]
    outside = np.abs(high) > reach
    symbols = np.where(outside, 2 * reach + 1, high + reach)[order].astype(np.int32)
    for group, start, end in _runs(key[order]):
        sink.encode(symbols[start:end], _table(group).model)
    far = high[order][outside[order]]
    for shift in (0, 16) if len(far) else ():
        sink.encode((far >> shift & (HALF_WORD - 1)).astype(np.int32), STREAM.model.Uniform(HALF_WORD))
    if below.any():
        order = np.argsort(below, kind="stable")
        low = (numbers + half - (high << below))[order].astype(np.int32)
        for bits, start, end in _runs(below[order]):
            if bits:
                sink.encode(low[start:end], STREAM.model.Uniform(1 << bits))


def _decode(source: Any, rows: np.ndarray, families: np.ndarray) -> np.ndarray:
    below, key = _split(rows, families)
    order = np.argsort(key, kind="stable")
    symbols = [read_words(source, _table(group).model, end - start) for group, start, end in _runs(key[order])]
    sorted_symbols, reach = np.concatenate([np.zeros(0, np.int64), *symbols]), _reaches()[key]
    high = np.zeros(len(rows), np.int64)
    high[order] = sorted_symbols
    far = order[sorted_symbols == 2 * reach[order] + 1]
    high -= reach
    if len(far):
        halves = [read_words(source, STREAM.model.Uniform(HALF_WORD), len(far)) for _ in range(2)]
        high[far] = (halves[0] | halves[1] << 16).astype(np.uint32).astype(np.int32)
    numbers = (high << below) - (1 << below >> 1)
    if below.any():
        order = np.argsort(below, kind="stable")
        for bits, start, end in _runs(below[order]):
            if bits:
                numbers[order[start:end]] += read_words(source, STREAM.model.Uniform(1 << bits), end - start)
    return numbers


def _split(rows: np.ndarray, families: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bits below each number's table, and the number of its table."""
    below = np.maximum(rows - (HIGH - OCTAVE + 1), 0) // OCTAVE
    return below, families * ROWS + rows - OCTAVE * below - LOW


def _table(number: int) -> Table:
    return table(number // ROWS, number % ROWS + LOW)


@lru_cache(maxsize=1)
def _reaches() -> np.ndarray:
    return np.array([_table(number).reach for number in range(len(FAMILIES) * ROWS)])


def _runs(keys: np.ndarray) -> list[tuple[int, int, int]]:
    """Return key, start and end of each run of equal keys."""
    if not len(keys):
        return []
    ends = [*(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(keys)]
    return [(int(keys[start]), start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
