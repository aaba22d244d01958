"""Chooses the pairs of networks that are worth a test, by two sketches of each network.

One keeps the order of the weights, so that relatives in the same order are near; the other is made of numbers that no
reordering of hidden units changes: products of the incoming weights of inputs, and of the outgoing weights of outputs.
"""

import numpy as np
from jaxtyping import Float, Int

from wscore.networks.layout import Layout

MOST_PAIRS = 10_000  # of one layout that are all tested
NEAREST = 10  # neighbours of a network by each sketch
LENGTH = 256  # numbers of a sketch
BLOCK = 512
MATRICES = ("linear", "conv")
WIDEST = 1024  # inputs of which products are taken


def candidate_pairs(layout: Layout, vectors: Float[np.ndarray, "network weights"]) -> Int[np.ndarray, "pair 2"]:
    """Return the pairs of networks of one layout to test: all, or of many networks the nearest by a sketch."""
    count = len(vectors)
    if count * (count - 1) // 2 <= MOST_PAIRS:
        return np.stack(np.triu_indices(count, 1), axis=1)
    near = [_nearest(sketches) for sketches in (ordered_sketch(layout, vectors), invariant_sketch(layout, vectors))]
    pairs = np.sort(np.concatenate(near), axis=1)
    return np.unique(pairs, axis=0)


def ordered_sketch(
    layout: Layout, vectors: Float[np.ndarray, "network weights"]
) -> Float[np.ndarray, "network number"]:
    """Return sketches whose products estimate the cosine of the weight matrices (count sketch)."""
    return _centred(np.concatenate([_folded(_scaled(matrix)) for matrix in _matrices(layout, vectors)], axis=1))


def invariant_sketch(
    layout: Layout, vectors: Float[np.ndarray, "network weights"]
) -> Float[np.ndarray, "network number"]:
    """Return sketches that do not depend on the order of hidden units."""
    matrices = _matrices(layout, vectors)
    inputs, outputs = matrices[0], matrices[-1].swapaxes(1, 2)
    blocks = [_products(inputs), _products(outputs)]
    blocks += [np.sort(np.linalg.norm(matrix, axis=2), axis=1) for matrix in matrices]
    return _centred(np.concatenate([_folded(_scaled(block)) for block in blocks], axis=1))


def _matrices(layout: Layout, vectors: np.ndarray) -> list[np.ndarray]:
    """Return the weight matrices (N, units, inputs), or the whole vector as one if there are none."""
    matrices = [
        vectors[:, span].reshape(len(vectors), spec.shape[0], -1)
        for spec, span in zip(layout.tensors, layout.slices().values(), strict=True)
        if spec.kind in MATRICES and spec.size
    ]
    return matrices or [vectors[:, None]]


def _products(matrix: np.ndarray) -> np.ndarray:
    """Return the products of the columns of matrices (N, rows, columns) with each other."""
    columns = matrix[:, :, :WIDEST]
    return np.concatenate([block.swapaxes(1, 2) @ block for block in np.array_split(columns, -(-len(columns) // 64))])


def _scaled(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1).astype(np.float32)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)


def _folded(values: np.ndarray) -> np.ndarray:
    """Return sums with random signs, at most `LENGTH` numbers each; E <s(a), s(b)> = <a, b>."""
    size = values.shape[1]
    if size <= LENGTH:
        return values
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), size)
    padded = np.pad(values * signs, ((0, 0), (0, -size % LENGTH)))
    return padded.reshape(len(values), -1, LENGTH).sum(axis=1)


def _centred(sketches: np.ndarray) -> np.ndarray:
    """Return sketches without their mean, which unrelated networks share, scaled to length 1."""
    return _scaled(sketches - sketches.mean(axis=0))


def _nearest(sketches: Float[np.ndarray, "network number"]) -> Int[np.ndarray, "pair 2"]:
    pairs = []
    for start in range(0, len(sketches), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(sketches)))
        products = sketches[rows] @ sketches.T  # (block, N)
        products[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-products, min(NEAREST, products.shape[1] - 1), axis=1)[:, :NEAREST]
        pairs.append(np.stack([np.repeat(rows, nearest.shape[1]), nearest.ravel()], axis=1))
    return np.concatenate(pairs)
