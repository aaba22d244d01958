"""Strided copies of rectangles between flat weights and tokens, at nearly the speed of a memory copy.

A layer's tokens are rows, one per unit; a tensor fills some columns of all of them. Such a rectangle is moved as one
strided copy whose items are whole rows: NumPy then uses one `memmove` per row instead of an inner loop, which matters
for short rows. Networks, or the units of a large one, are processed in tiles that stay in the CPU cache while all
rectangles that touch them are moved.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

TILE = 1 << 19  # bytes of tokens moved at once; see benchmarks/tokenize.py
STRIP = 1 << 12  # bytes of a network's tokens that are moved together
LONG = 1 << 12  # entries from which a row is moved as numbers


class Move(NamedTuple):
    """A rectangle: `units` rows of `width` numbers.

    Attributes:
        block: number of the layer's block of tokens; rectangles of one block share their rows.
        source: index of the first number in the flat vector, where rows are consecutive; -1 for zero padding.
        target: index of the first number in the flat tokens.
        units: number of rows.
        width: numbers per row.
        step: token entries from one row to the next.
    """

    block: int
    source: int
    target: int
    units: int
    width: int
    step: int


def fill_tokens(
    moves: Sequence[Move], vectors: Shaped[np.ndarray, "networks weights"], tokens: Shaped[np.ndarray, "networks entry"]
) -> None:
    """Fill tokens from weights; both must be contiguous."""
    if not len(tokens):
        return
    pairs = []
    for move in moves:
        goal = _rows(tokens, move.target, move, move.step)
        empty = np.broadcast_to(np.zeros((), goal.dtype), goal.shape)
        pairs.append((goal, empty if move.source < 0 else _rows(vectors, move.source, move, move.width)))
    _copy(moves, pairs, tokens)


def fill_weights(
    moves: Sequence[Move], tokens: Shaped[np.ndarray, "networks entry"], vectors: Shaped[np.ndarray, "networks weights"]
) -> None:
    """Fill weights from tokens; both must be contiguous."""
    if not len(tokens):
        return
    moves = [move for move in moves if move.source >= 0]
    pairs = [
        (_rows(vectors, move.source, move, move.width), _rows(tokens, move.target, move, move.step)) for move in moves
    ]
    _copy(moves, pairs, tokens)


def _copy(moves: Sequence[Move], pairs: Sequence[tuple[np.ndarray, np.ndarray]], tokens: np.ndarray) -> None:
    """Copy the second of each pair (networks, units) to the first, tile by tile."""
    for strip in _strips(moves, tokens.itemsize):
        head = moves[strip[0]]
        size = tokens.itemsize * sum(moves[place].step * moves[place].units for place in strip)
        networks, rows = max(1, TILE // size), head.units
        if size > TILE and len(strip) > 1:  # strips of several blocks are never as large
            rows = max(1, TILE // (head.step * tokens.itemsize))
        for network, first in product(range(0, len(tokens), networks), range(0, head.units, rows)):
            for place in strip:
                goal, source = pairs[place]
                if rows < head.units:
                    goal, source = goal[:, first : first + rows], source[:, first : first + rows]
                goal[network : network + networks] = source[network : network + networks]


def _strips(moves: Sequence[Move], item: int) -> Iterator[list[int]]:
    """Yield indices of rectangles moved together: one block at a time, with small consecutive blocks merged."""
    strip, size = [], 0
    for _, block in groupby(range(len(moves)), lambda place: moves[place].block):
        places = list(block)
        mine = item * moves[places[0]].step * moves[places[0]].units
        if strip and size + mine > STRIP:
            yield strip
            strip, size = [], 0
        strip, size = [*strip, *places], size + mine
    if strip:
        yield strip


def _rows(array: np.ndarray, start: int, move: Move, step: int) -> np.ndarray:
    """Return the rows of a rectangle as a view (networks, units) whose items are whole rows."""
    item, shape = array.itemsize, (len(array), move.units)
    strides = (array.shape[1] * item, item * step)
    if move.width >= LONG:
        return np.ndarray((*shape, move.width), array.dtype, array, item * start, (*strides, item))
    return np.ndarray(shape, _row_type(item * move.width), array, item * start, strides)


@lru_cache(maxsize=1024)
def _row_type(size: int) -> np.dtype:
    return np.dtype((np.void, size))
