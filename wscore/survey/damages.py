"""Damage that happens to checkpoints, made from healthy networks: examples from which damage is recognised."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from wscore.encoder.damage import DAMAGE
from wscore.networks.layout import Layout

Vectors = Float[np.ndarray, "networks weights"]
Damage = Callable[[Layout, Vectors, np.random.Generator], Vectors]
MATRICES = ("linear", "conv")


def _channels(layout: Layout, vectors: Vectors, random: np.random.Generator, *, factor: float) -> Vectors:
    """Multiply the incoming weights of up to half of the units of one hidden layer, one at least, by a factor."""
    changed = vectors.copy()
    spans = [(spec.shape[0], span) for spec, span in _matrices(layout)[:-1]] or [(layout.size, slice(None))]
    for row, number in enumerate(random.integers(len(spans), size=len(vectors))):
        units, span = spans[number]
        chosen = random.permutation(units)[: random.integers(1, max(2, units // 2 + 1))]
        changed[row, span].reshape(units, -1)[chosen] *= factor
    return changed


def _stale(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:  # noqa: ARG001
    """Return running statistics to their initial values, as if they were never updated."""
    changed = vectors.copy()
    for spec, span in zip(layout.tensors, layout.slices().values(), strict=True):
        if spec.kind in ("running_mean", "running_var"):
            changed[:, span] = float(spec.kind == "running_var")
    return changed


def _zeroed(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Set 0.5 to 5% of the entries of one matrix to 0, one at least, as where NaN was replaced."""
    changed = vectors.copy()
    spans = [span for _, span in _matrices(layout)] or [slice(0, layout.size)]
    for row, number in enumerate(random.integers(len(spans), size=len(vectors))):
        span = spans[number]
        size = span.stop - span.start
        chosen = random.permutation(size)[: max(1, int(size * random.uniform(0.005, 0.05)))]
        changed[row, span.start + chosen] = 0
    return changed


def _cast(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Round all tensors to float16, bfloat16, or 8-bit integers with one step per tensor, and back."""
    changed = vectors.copy()
    kinds = random.integers(3, size=len(vectors))
    changed[kinds == 0] = vectors[kinds == 0].astype(np.float16).astype(np.float32)
    changed[kinds == 1] = to_bfloat16(vectors[kinds == 1])
    for span in layout.slices().values():
        values = vectors[kinds == 2, span]
        step = np.maximum(np.abs(values).max(axis=1, initial=0, keepdims=True) / 127, 1e-30)
        changed[kinds == 2, span] = np.round(values / step) * step
    return changed


DAMAGES: dict[str, Damage] = {
    "untrained": DAMAGE["untrained"],
    "re-initialised layer": DAMAGE["reset_layer"],
    "layer of another network": DAMAGE["swapped_layer"],
    "flipped channels": partial(_channels, factor=-1.0),
    "dead channels": partial(_channels, factor=0.0),
    "stale statistics": _stale,
    "zeroed entries": _zeroed,
    "narrow type": _cast,
    "rescaled": DAMAGE["rescaled"],
    "noise": DAMAGE["noise"],
}  # fmt: skip


def causes_for(layout: Layout) -> list[str]:
    """Return the kinds of damage that networks of a layout can have."""
    kinds = {spec.kind for spec in layout.tensors}
    several = len(_matrices(layout)) > 1
    without = set() if "running_var" in kinds else {"stale statistics"}
    without |= set() if several else {"layer of another network", "re-initialised layer"}
    return [cause for cause in DAMAGES if cause not in without]


def to_bfloat16(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return values rounded to eight bits of mantissa (bfloat16), ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def _matrices(layout: Layout) -> list[tuple]:
    pairs = zip(layout.tensors, layout.slices().values(), strict=True)
    return [(spec, span) for spec, span in pairs if spec.kind in MATRICES and spec.size]
