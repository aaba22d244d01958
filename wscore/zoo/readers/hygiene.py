"""Defects of networks, and groups of networks that must share a split.

Runs with equal weights somewhere belong to one group: exact and near duplicates, and networks that share a whole layer,
such as those fine-tuned from one network. A split between them would leak test networks into the training set.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Float32

from wscore.networks.layout import Layout

SKETCH = 16  # numbers per network
SMALLEST_LAYER = 64  # weights of a tensor that two networks hardly share by chance
NEIGHBOURS = 16
FIXED = re.compile(
    r"pe|inv_freq|freqs|sinusoid\w*|(?:sin|cos)_cached|anchors?|priors?", re.IGNORECASE
)  # names of tables
TRAINED = ("linear", "conv", "other")


def defect(layout: Layout, vector: Float32[np.ndarray, " weights"], *, limit: float, constant: bool) -> tuple[str, str]:
    """Return (reason, detail) if a network is not fit for a zoo, else empty texts.

    Args:
        layout: of the vector.
        vector: flat weights.
        limit: largest absolute weight; running statistics are none.
        constant: whether networks whose weight matrices are all constant are unfit.
    """
    finite = np.isfinite(vector)
    if not finite.all():
        return "not_finite", f"{np.count_nonzero(~finite):,} of {vector.size:,} weights"
    large = _largest(layout, vector) if float(np.abs(vector).max()) > limit else ("", 0.0)
    if large[1] > limit:
        return "large_weights", f"{large[1]:.4g} in {large[0]}; zoo.max_weight is {limit:g}"
    if constant and all(np.ptp(matrix) == 0 for matrix in _matrices(layout, vector, 2)):
        return "constant", f"all {vector.size:,} weights" if np.ptp(vector) == 0 else "every weight matrix"
    return "", ""


def _largest(layout: Layout, vector: np.ndarray) -> tuple[str, float]:
    """Return the name of the tensor with the largest absolute weight, and that weight."""
    sizes = [
        (float(np.abs(vector[offset : offset + spec.size]).max()), spec.name)
        for spec, offset in zip(layout.tensors, layout.offsets, strict=True)
        if spec.size and spec.kind not in ("running_mean", "running_var")
    ]
    size, name = max(sizes, default=(0.0, ""))
    return name, size


def weights_hash(layout: Layout, vector: Float32[np.ndarray, " weights"]) -> str:
    """Return a hash of a network: equal for equal weights of one layout."""
    return hashlib.sha256(layout.identity.encode() + vector.tobytes()).hexdigest()[:32]


def layer_digests(layout: Layout, vector: Float32[np.ndarray, " weights"]) -> list[str]:
    """Return hash and name of each weight tensor that only relatives share: large, not constant, and no fixed table."""
    digests = []
    for spec, offset in zip(layout.tensors, layout.offsets, strict=True):
        values = vector[offset : offset + spec.size]
        if spec.kind not in TRAINED or spec.size < SMALLEST_LAYER or np.ptp(values) == 0:
            continue
        if not is_fixed_table(spec.name, values.reshape(spec.shape)):
            digests.append(f"{_digest(values)} {spec.name}")
    if not digests and not any(spec.kind in TRAINED and spec.size >= SMALLEST_LAYER for spec in layout.tensors):
        comparable = np.ptp(vector) > 0 and vector.size >= SMALLEST_LAYER
        return [f"{_digest(vector)} "] if comparable else []
    return digests


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(f"{values.size}/".encode() + values.tobytes()).hexdigest()[:16]


def is_fixed_table(name: str, values: np.ndarray) -> bool:
    """Return whether a tensor is a table that nothing trains: of sinusoids, of frequencies or of anchors.

    Sinusoids and straight lines over equal steps satisfy x[t - 1] + x[t + 1] = c x[t] in every column, with one c <= 2 for
    each; frequencies are a geometric sequence.
    """
    if FIXED.fullmatch(name.rpartition(".")[2]):
        return True
    table = np.squeeze(values).astype(np.float64)
    if table.ndim == 1 and table.size > 3 and (table > 0).all():
        steps = np.diff(np.log(table))
        return bool(np.ptp(steps) < 1e-4 * max(float(np.abs(steps).max()), 1e-9))
    if table.ndim != 2 or len(table) < 5:
        return False
    inner, sums = table[1:-1], table[:-2] + table[2:]
    factor = (inner * sums).sum(0) / np.maximum(np.square(inner).sum(0), 1e-30)
    error = np.abs(sums - factor * inner).max(0)
    return bool((error <= 1e-4 * np.maximum(np.abs(table).max(0), 1e-6)).all() and (np.abs(factor) <= 2.001).all())


def sketch(vector: Float32[np.ndarray, " weights"]) -> Float32[np.ndarray, " entry"]:
    """Return `SKETCH` numbers whose distances estimate those of the vectors, both scaled to length 1 (count sketch).

    E|s(a) - s(b)|^2 = |a - b|^2, with a relative deviation of sqrt(2 / SKETCH).
    """
    length = float(np.linalg.norm(vector)) or 1.0
    signed = np.zeros(-(-vector.size // SKETCH) * SKETCH, np.float32)
    np.multiply(vector, _signs(vector.size), out=signed[: vector.size])
    return (signed.reshape(-1, SKETCH).sum(0, dtype=np.float64) / length).astype(np.float32)


def near_pairs(
    sketches: Float[np.ndarray, "network entry"],
    vector: Callable[[int], np.ndarray],
    distance: float,
    rounding: Sequence[float],
) -> list[tuple[int, int, float]]:
    """Return (first, second, relative distance) of networks of one layout that are nearer than `distance`.

    Networks of two precisions are near too if the coarser one, whose relative `rounding` this is, may be a copy.
    Neighbours are looked up by their sketches and checked on the vectors: |a - b| / max(|a|, |b|) < distance. Of many
    near neighbours each is compared with the 16 nearest, which is enough to connect them.
    """
    from scipy.spatial import KDTree

    if len(sketches) < 2 or distance <= 0:
        return []
    tree = KDTree(np.asarray(sketches, np.float64))
    widest = max(distance, *rounding) if len(set(rounding)) > 1 else distance
    most = min(NEIGHBOURS + 1, len(sketches))
    near, places = cast(Any, tree.query(tree.data, k=most, distance_upper_bound=2 * widest + 1e-6))
    rows, columns = np.nonzero(np.isfinite(near))
    others = places[rows, columns]
    pairs = sorted({(min(a, b), max(a, b)) for a, b in zip(rows.tolist(), others.tolist(), strict=True) if a != b})
    close = []
    for first, second in pairs:
        a, b = vector(first).astype(np.float64), vector(second).astype(np.float64)
        apart = float(np.linalg.norm(a - b)) / (max(float(np.linalg.norm(a)), float(np.linalg.norm(b))) or 1.0)
        coarser = max(rounding[first], rounding[second]) if rounding[first] != rounding[second] else 0.0
        if apart < max(distance, coarser):
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
    named = ((run, layer.partition(" ")[0]) for run, layers in zip(runs, digests, strict=True) for layer in layers)
    pairs = {(first.setdefault(layer, run), run) for run, layer in named}
    return sorted((a, b) for a, b in pairs if a != b)


def _matrices(layout: Layout, vector: np.ndarray, least: int) -> list[np.ndarray]:
    """Return the weight tensors of at least `least` numbers, or the whole vector if there are none."""
    pairs = zip(layout.tensors, layout.offsets, strict=True)
    matrices = [
        vector[offset : offset + spec.size] for spec, offset in pairs if spec.kind in TRAINED and spec.size >= least
    ]
    return matrices or ([vector] if vector.size >= least else [])


@lru_cache(maxsize=8)
def _signs(count: int) -> np.ndarray:
    return (2 * np.random.default_rng(0).integers(0, 2, count, dtype=np.int8) - 1).astype(np.float32)
