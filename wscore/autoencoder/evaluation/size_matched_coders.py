"""Size-matched controls: plain quantisation and pruning with a general-purpose compressor at equal bytes.

    quantized     weights as multiples of one step per tensor, the finest steps that fit after compression
    pruned_int8   the largest weights of each tensor in 8 bits, as many as fit; the others become 0
    pruned_int4   the same with 4 bits

Biases, normalisation and running statistics are few and sensitive: they keep 8 bits. Everything is compressed with zstd, one
frame per network; a step or scale per tensor (float16) and the layout index are counted too. If not even the coarsest setting
fits (all weights 0, the rest in 8 bits) nothing is stored and the reconstruction is zero.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from wscore.autoencoder.evaluation.controls import LayoutGroup, Method
from wscore.networks.layout import Layout

Vectors = Float[np.ndarray, "networks weights"]
COARSE = ("linear", "conv")  # kinds of tensors that are quantised coarsely or pruned
LEVELS = 64  # number of settings, searched by bisection
SCALE_BYTES, INDEX_BYTES = 2, 4
ZSTD = pa.Codec("zstd", compression_level=19)


class Compressed:
    """Compresses networks to the bytes used by another method.

    Args:
        coding: coding of weights: key of `CODERS`.
        other: method whose size is the budget.
    """

    def __init__(self, coding: str, other: Method) -> None:
        self.coding, self.other = coding, other

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return the best networks that fit the budget, one by one."""
        budget = self._bytes(group.layout)
        return np.stack([self.squeeze(group.layout, vector, budget)[0] for vector in group.weights])

    def floats(self, layout: Layout) -> float:
        """Return the budget: no network exceeds it, most take a few bytes less."""
        return self._bytes(layout) / 4

    def squeeze(
        self, layout: Layout, vector: Float[np.ndarray, " weights"], budget: float
    ) -> tuple[Float[np.ndarray, " weights"], int]:
        """Return a network (D,) coded with the finest setting that fits `budget` bytes, and its size in bytes."""
        low, high, best = 0, LEVELS, (np.zeros_like(vector), 0)
        while low <= high:
            middle = (low + high) // 2
            restored, payload = self._code(layout, vector, middle / LEVELS)
            size = len(ZSTD.compress(payload, asbytes=True)) + SCALE_BYTES * len(layout.tensors) + INDEX_BYTES
            if size <= budget:
                best, low = (restored, size), middle + 1
            else:
                high = middle - 1
        return best

    def _bytes(self, layout: Layout) -> float:
        floats = self.other.floats(layout)
        assert floats is not None, "the budget is the size of a code"
        return 4 * floats

    def _code(self, layout: Layout, vector: np.ndarray, quality: float) -> tuple[np.ndarray, bytes]:
        """Return the weights and the uncompressed bytes at a quality from 0 (no weight kept) to 1."""
        restored, parts = np.zeros_like(vector), []
        for spec, part in zip(layout.tensors, layout.slices().values(), strict=True):
            coder = CODERS[self.coding] if spec.kind in COARSE else _fine
            restored[part], payload = coder(vector[part], quality)
            parts.append(payload)
        return restored, b"".join(parts)


def _fine(values: np.ndarray, quality: float) -> tuple[np.ndarray, bytes]:  # noqa: ARG001
    return _rounded(values, _scale(values, 127))


def _quantized(values: np.ndarray, quality: float) -> tuple[np.ndarray, bytes]:
    """Use one step for all: from twice the largest weight (nothing kept) down to 1/127 of it, geometrically spaced."""
    step = 2.01 * (1 / (2.01 * 127)) ** quality * np.abs(values).max(initial=0)
    return _rounded(values, np.float16(step))


def _pruned(bits: int) -> Callable[[np.ndarray, float], tuple[np.ndarray, bytes]]:
    largest = 2 ** (bits - 1) - 1

    def code(values: np.ndarray, quality: float) -> tuple[np.ndarray, bytes]:
        kept = np.zeros(values.size, bool)
        kept[np.argsort(-np.abs(values), kind="stable")[: round(quality * values.size)]] = True
        restored, _ = _rounded(values * kept, _scale(values, largest))
        whole = np.rint(values[kept] / max(float(_scale(values, largest)), np.finfo(np.float16).tiny)).astype(np.int64)
        packed = _nibbles(whole) if bits == 4 else whole.astype(np.int8).tobytes()
        return restored, np.packbits(kept).tobytes() + packed

    return code


CODERS: dict[str, Callable[[np.ndarray, float], tuple[np.ndarray, bytes]]] = {
    "quantized": _quantized,
    "pruned_int8": _pruned(8),
    "pruned_int4": _pruned(4),
}


def _scale(values: np.ndarray, largest: int) -> np.float16:
    return np.float16(np.abs(values).max(initial=0) / largest)


def _rounded(values: np.ndarray, step: np.float16) -> tuple[np.ndarray, bytes]:
    """Return the nearest multiples of a step, and their integer multipliers as bytes; zeros if the step is 0."""
    size = float(step)
    if not size or not np.isfinite(size):
        return np.zeros_like(values), bytes(values.size)
    whole = np.clip(np.rint(values / size), -128, 127)
    return (whole * size).astype(values.dtype), whole.astype(np.int8).tobytes()


def _nibbles(whole: np.ndarray) -> bytes:
    """Return small integers (-8..7) packed two to a byte."""
    padded = np.append(whole, 0)[: len(whole) + len(whole) % 2].astype(np.uint8) & 15
    return (padded[::2] << 4 | padded[1::2]).tobytes()
