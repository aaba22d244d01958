"""Families of related networks: which pairs are related at a false discovery rate, and the tree of descent of each family.

The tree is the shortest that spans a family: steps of fine-tuning are nearly orthogonal, so a child is nearer to its parent
than to its siblings. Its root is the network from which most edges lead to the older of two networks (`wscore.survey.age`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

NEAREST = 1e-9  # distance of equal networks: 0 would be no edge


class Edge(NamedTuple):
    """One step of descent.

    Attributes:
        ancestor: number of the older network.
        descendant: number of the younger.
        confidence: probability that the descent is not the other way round.
    """

    ancestor: int
    descendant: int
    confidence: float


def discoveries(p_values: Float[np.ndarray, " pair"], tests: int, rate: float) -> Bool[np.ndarray, " pair"]:
    """Return which pairs are related (Benjamini and Hochberg 1995).

    Args:
        p_values: of the pairs that were tested.
        tests: number of all pairs that could have been tested; those that were not count as p = 1.
        rate: expected share of false discoveries.

    >>> discoveries(np.array([1e-9, 0.004, 0.9]), tests=10, rate=0.01).tolist()
    [True, False, False]
    """
    order = np.argsort(p_values, kind="stable")
    passed = np.flatnonzero(p_values[order] <= rate * np.arange(1, len(order) + 1) / max(tests, 1))
    related = np.zeros(len(p_values), bool)
    related[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return related


def components(count: int, pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, " network"]:
    """Return the number of the family of each network; those without a relative are families of one."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def descent(
    count: int,
    pairs: Int[np.ndarray, "pair 2"],
    distances: Float[np.ndarray, " pair"],
    log_odds: Float[np.ndarray, " pair"],
) -> list[Edge]:
    """Return the edges of the trees of all families.

    Args:
        count: of networks.
        pairs: related networks.
        distances: between them.
        log_odds: that the first of a pair is the ancestor of the second.
    """
    first, second = np.sort(pairs, axis=1).T
    graph = coo_array((np.maximum(distances, NEAREST), (first, second)), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    odds = {(a, b): odds for (a, b), odds in zip(pairs.tolist(), log_odds.tolist(), strict=True)}
    odds |= {(b, a): -value for (a, b), value in odds.items()}
    neighbours: dict[int, list[int]] = {}
    for a, b in zip(tree.row.tolist(), tree.col.tolist(), strict=True):
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    edges: list[Edge] = []
    seen: set[int] = set()
    for start in neighbours:
        if start not in seen:
            steps = _walk(start, neighbours)
            seen.update([start, *(child for _, child in steps)])
            edges += _rooted(start, steps, odds)
    return edges


def _walk(start: int, neighbours: dict[int, list[int]]) -> list[tuple[int, int]]:
    """Return the edges (parent, child) of a tree from a start, parents before their children."""
    steps, todo, seen = [], [start], {start}
    while todo:
        parent = todo.pop()
        for child in neighbours[parent]:
            if child not in seen:
                seen.add(child)
                steps.append((parent, child))
                todo.append(child)
    return steps


def _rooted(start: int, steps: Sequence[tuple[int, int]], odds: dict[tuple[int, int], float]) -> list[Edge]:
    """Return the edges of a tree, each directed as it most probably is under the posterior of the root.

    log P(root) = sum of the log odds of the edges that would lead away from it: moving the root over an edge turns that edge.
    """
    score = {start: 0.0}
    for parent, child in steps:
        score[child] = score[parent] - odds[parent, child]
    top = max(score.values())
    below = {node: float(np.exp(value - top)) for node, value in score.items()}
    total = sum(below.values())
    edges = []
    for parent, child in reversed(steps):  # `below[child]` is complete: all its descendants were added
        share = min(below[child] / total, 1.0)
        edges.append(Edge(child, parent, share) if share > 0.5 else Edge(parent, child, 1 - share))
        below[parent] += below[child]
    return edges
