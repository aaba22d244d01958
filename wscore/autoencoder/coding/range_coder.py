"""The range coder under both ways of coding numbers: symbols to hardly more bytes than their probabilities ask for, and back."""

from typing import Any

import constriction
import numpy as np

from wscore.errors import DataError

STREAM: Any = getattr(constriction, "stream")  # noqa: B009 - its stubs do not name it
WORD = 4  # bytes


def encoder() -> Any:
    """Return an encoder of symbols."""
    return STREAM.queue.RangeEncoder()


def decoder(payload: bytes) -> Any:
    """Return a decoder of the bytes that `shortest` returned."""
    padded = payload + b"\0" * (-len(payload) % WORD + 2 * WORD)
    return STREAM.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))


def read_words(source: Any, *model: Any) -> np.ndarray:
    """Return the next symbols: of `decoder.decode(*model)`.

    Raises:
        DataError: if no encoder wrote such bytes.
    """
    try:
        return np.asarray(source.decode(*model), np.int64)
    except AssertionError as error:  # constriction's word for bytes that it did not write
        raise DataError("the compressed numbers are damaged") from error


def shortest(sink: Any) -> bytes:
    """Return the fewest bytes which, followed by zeros, lie in the interval that an encoder has reached."""
    place, (low, span) = sink.pos()
    words = sink.get_compressed().astype(">u4").tobytes()
    size = WORD * place + 8  # bytes of the interval's bounds
    value = int.from_bytes((words + b"\0" * size)[:size], "big")
    start = (value >> 64 << 64) + low
    start -= (1 << 64) if start > value else 0
    for cut in range(min(size, 9), -1, -1):
        unit = 1 << 8 * cut
        multiple = -(-start // unit) * unit
        if multiple < min(start + span, 1 << 8 * size):
            return multiple.to_bytes(size, "big")[: size - cut].rstrip(b"\0")
    raise AssertionError("the interval is not empty")
