"""What is wrong with a network, and which networks must not be split from each other.

Runs that hold the same weights somewhere belong to one group: exact and near duplicates, and networks that share a
whole layer, as those do that were fine-tuned from one network. A split between them would let the training set show
what the test set asks for.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from wscore.networks.layout import Layout

SKETCH = 16  # numbers per network
SMALLEST_LAYER = 64  # weights of a tensor that two networks hardly share by chance
NEIGHBOURS = 16
TRAINED = ("linear", "conv", "other")
Vector = Callable[[int], np.ndarray]


def defect(layout: Layout, vector: Float32[np.ndarray, " weights"], *, limit: float, constant: bool) -> tuple[str, str]:
    """Return (reason, detail) if a network is not fit for a zoo, else empty texts.

    Args:
        layout: of the vector.
        vector: flat weights.
        limit: largest absolute weight.
        constant: whether networks whose weight matrices are all constant are unfit.
    """
    finite = np.isfinite(vector)
    if not finite.all():
        return "not_finite", f"{np.count_nonzero(~finite):,} of {vector.size:,} weights"
    largest = float(np.abs(vector).max())
    if largest > limit:
        return "large_weights", f"{largest:.4g} > {limit:g}"
    if constant and all(np.ptp(part) == 0 for part in _matrices(layout, vector, 2)):
        return "constant", f"all {vector.size:,} weights" if np.ptp(vector) == 0 else "every weight matrix"
    return "", ""


def digest(layout: Layout, vector: Float32[np.ndarray, " weights"]) -> str:
    """Return a hash of a network: equal for equal weights of one layout."""
    return hashlib.sha256(layout.identity.encode() + vector.tobytes()).hexdigest()[:32]


def layer_digests(layout: Layout, vector: Float32[np.ndarray, " weights"]) -> list[str]:
    """Return a hash of each weight tensor that is large enough, and not constant, so that only relatives share it."""
    parts = [part for part in _matrices(layout, vector, SMALLEST_LAYER) if np.ptp(part) > 0]
    return [hashlib.sha256(f"{part.size}/".encode() + part.tobytes()).hexdigest()[:16] for part in parts]


def sketch(vector: Float32[np.ndarray, " weights"]) -> Float32[np.ndarray, " entry"]:
    """Return `SKETCH` numbers whose distances estimate those of the vectors, both scaled to length 1 (count sketch).

    E|s(a) - s(b)|^2 = |a - b|^2, with a relative deviation of sqrt(2 / SKETCH).
    """
    length = float(np.linalg.norm(vector)) or 1.0
    signed = np.zeros(-(-vector.size // SKETCH) * SKETCH, np.float32)
    np.multiply(vector, _signs(vector.size), out=signed[: vector.size])
    return (signed.reshape(-1, SKETCH).sum(0, dtype=np.float64) / length).astype(np.float32)


def near_pairs(
    sketches: Float[np.ndarray, "network entry"], vector: Vector, distance: float
) -> list[tuple[int, int, float]]:
    """Return (first, second, relative distance) of networks of one layout that are nearer than `distance`.

    Neighbours are looked up by their sketches and checked on the vectors: |a - b| / max(|a|, |b|) < distance. Of many
    near neighbours each is compared with the 16 nearest, which is enough to connect them.
    """
    from scipy.spatial import KDTree

    if len(sketches) < 2 or distance <= 0:
        return []
    tree = KDTree(np.asarray(sketches, np.float64))
    found: Any = tree.query(tree.data, k=min(NEIGHBOURS + 1, len(sketches)), distance_upper_bound=2 * distance + 1e-6)
    near, places = found
    rows, columns = np.nonzero(np.isfinite(near))
    others = places[rows, columns]
    pairs = sorted({(min(a, b), max(a, b)) for a, b in zip(rows.tolist(), others.tolist(), strict=True) if a != b})
    close = []
    for first, second in pairs:
        a, b = vector(first).astype(np.float64), vector(second).astype(np.float64)
        apart = float(np.linalg.norm(a - b)) / (max(float(np.linalg.norm(a)), float(np.linalg.norm(b))) or 1.0)
        if apart < distance:
            close.append((first, second, apart))
    return close


def join_groups(runs: Sequence[str], relations: Iterable[tuple[str, str]]) -> list[str]:
    """Return the group of each run: the first in alphabetical order of all runs that are related, also by others."""
    related: dict[str, set[str]] = {run: set() for run in runs}
    for first, second in relations:
        related.setdefault(first, set()).add(second)
        related.setdefault(second, set()).add(first)
    group: dict[str, str] = {}
    for run in sorted(related):
        if run in group:
            continue
        todo = deque([run])
        group[run] = run
        while todo:
            for other in related[todo.popleft()] - group.keys():
                group[other] = run
                todo.append(other)
    return [group[run] for run in runs]


def shared_layers(runs: Sequence[str], digests: Iterable[Iterable[str]]) -> list[tuple[str, str]]:
    """Return pairs of runs that hold an identical layer; each run is paired with the first that holds it."""
    first: dict[str, str] = {}
    pairs = {(first.setdefault(layer, run), run) for run, layers in zip(runs, digests, strict=True) for layer in layers}
    return sorted((a, b) for a, b in pairs if a != b)


def _matrices(layout: Layout, vector: np.ndarray, least: int) -> list[np.ndarray]:
    """Return the weight tensors of at least so many numbers, or, where there are none, the whole vector."""
    pairs = zip(layout.tensors, layout.offsets, strict=True)
    parts = [
        vector[offset : offset + spec.size] for spec, offset in pairs if spec.kind in TRAINED and spec.size >= least
    ]
    return parts or ([vector] if vector.size >= least else [])


@lru_cache(maxsize=8)
def _signs(count: int) -> np.ndarray:
    return (2 * np.random.default_rng(0).integers(0, 2, count, dtype=np.int8) - 1).astype(np.float32)
