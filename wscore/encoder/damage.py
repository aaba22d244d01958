"""Networks that no training produced, made of layouts and weights alone: examples of what lies outside a population."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from wscore.networks.layout import Layout, TensorSpec

Vectors = Float[np.ndarray, "networks weights"]
MATRICES = ("linear", "conv")


def damaged(layout: Layout, vectors: Vectors, random: np.random.Generator) -> dict[str, Vectors]:
    """Return damaged copies of networks (n, D) by kind of damage.

    Args:
        layout: of the networks.
        vectors: their weights.
        random: draws the damage.
    """
    return {kind: damage(layout, vectors, random).astype(np.float32) for kind, damage in DAMAGE.items()}


def _noise(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Replace tensors by Gaussian noise of the same standard deviation."""
    return _each(layout, vectors, lambda values: values.std(1, keepdims=True) * random.standard_normal(values.shape))


def _blurred(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Add Gaussian noise of 0.3 to 1 standard deviations of a tensor."""
    share = random.uniform(0.3, 1, (len(vectors), 1))
    return _each(
        layout,
        vectors,
        lambda values: values + share * values.std(1, keepdims=True) * random.standard_normal(values.shape),
    )


def _shuffled(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Shuffle the entries of every tensor."""
    return _each(layout, vectors, lambda values: random.permuted(values, axis=1))


def _rescaled(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:  # noqa: ARG001
    """Multiply all weights by a factor from 2.5 to 1,000, or divide them by it."""
    sign = random.choice([-1, 1], (len(vectors), 1))
    return vectors * 10.0 ** (sign * random.uniform(0.4, 3, (len(vectors), 1)))


def _untrained(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Replace all weights by a new initialisation, the default of torch."""
    made = [_initial(spec, len(vectors), random) for spec in _with_fan_in(layout)]
    return np.concatenate(made, axis=1)


def _reset_layer(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Replace one weight matrix of each network by a new initialisation."""
    fresh = _untrained(layout, vectors, random)
    return _one_matrix(layout, vectors, fresh, random)


def _swapped_layer(layout: Layout, vectors: Vectors, random: np.random.Generator) -> Vectors:
    """Replace one weight matrix of each network by that of a network half of them further on, hence of another run."""
    return _one_matrix(layout, vectors, np.roll(vectors, len(vectors) // 2, axis=0), random)


DAMAGE: dict[str, Callable[[Layout, Vectors, np.random.Generator], Vectors]] = {
    "noise": _noise, "blurred": _blurred, "shuffled": _shuffled, "rescaled": _rescaled, "untrained": _untrained,
    "reset_layer": _reset_layer, "swapped_layer": _swapped_layer,
}  # fmt: skip


def _each(layout: Layout, vectors: Vectors, change: Callable[[np.ndarray], np.ndarray]) -> Vectors:
    """Change every tensor (n, size); running variances stay positive."""
    changed = vectors.astype(np.float32)
    for spec, span in zip(layout.tensors, layout.slices().values(), strict=True):
        values = change(vectors[:, span])
        changed[:, span] = np.abs(values) if spec.kind == "running_var" else values
    return changed


def _one_matrix(layout: Layout, vectors: Vectors, others: Vectors, random: np.random.Generator) -> Vectors:
    spans = [span for spec, span in zip(layout.tensors, layout.slices().values(), strict=True) if spec.kind in MATRICES]
    changed = vectors.copy()
    for row, number in enumerate(random.integers(len(spans), size=len(vectors)) if spans else ()):
        changed[row, spans[number]] = others[row, spans[number]]
    return changed


def _with_fan_in(layout: Layout) -> list[tuple[TensorSpec, int]]:
    """Return each tensor with the fan-in of its layer, that of the last matrix before it."""
    pairs, fan_in = [], 1
    for spec in layout.tensors:
        fan_in = math.prod(spec.shape[1:]) if spec.kind in MATRICES else fan_in
        pairs.append((spec, fan_in))
    return pairs


def _initial(pair: tuple[TensorSpec, int], count: int, random: np.random.Generator) -> Vectors:
    spec, fan_in = pair
    if spec.kind in ("norm_weight", "running_var"):
        return np.ones((count, spec.size), np.float32)
    if spec.kind in ("norm_bias", "running_mean"):
        return np.zeros((count, spec.size), np.float32)
    bound = 1 / math.sqrt(fan_in)
    return random.uniform(-bound, bound, (count, spec.size)).astype(np.float32)
