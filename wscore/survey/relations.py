"""Related pairs among many networks, and their trees of descent."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wscore.errors import DataError
from wscore.networks.layout import Layout
from wscore.survey.age import ages, descent_log_odds
from wscore.survey.candidates import MOST_PAIRS, candidate_pairs
from wscore.survey.families import Edge, components, descent, discoveries
from wscore.survey.independence import Evidence
from wscore.survey.lineage import compare, relation_of, shared_groups
from wscore.survey.records import Group, Progress, silent
from wscore.symmetry.spec import PermutationSpec
from wscore.zoo.store import Zoo

RATE = 0.01  # false discovery rate


class Tested(NamedTuple):
    """Pairs of networks that were tested.

    Attributes:
        pairs: numbers of the networks, counted over all groups.
        evidence: of each pair.
        log_odds: that the first is the ancestor of the second.
        tests: pairs that could have been tested.
        alone: networks without another one of comparable layers.
    """

    pairs: Int[np.ndarray, "pair 2"]
    evidence: Evidence
    log_odds: Float[np.ndarray, " pair"]
    tests: int
    alone: tuple[str, ...]


class Relations(NamedTuple):
    """Relations of networks.

    Attributes:
        tested: pairs, with evidence.
        related: which pairs are related at the false discovery rate.
        family: number of the family of each network.
        edges: of the trees.
    """

    tested: Tested
    related: Bool[np.ndarray, " pair"]
    family: Int[np.ndarray, " network"]
    edges: list[Edge]

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row per related pair, the most certain first."""
        order = np.flatnonzero(self.related)
        order = order[np.argsort(self.tested.evidence.p_value[order], kind="stable")]
        evidence = Evidence(*(values[order] for values in self.tested.evidence))
        steps = {frozenset(edge[:2]): edge for edge in self.edges}
        rows = []
        for place, (pair, relation) in enumerate(
            zip(self.tested.pairs[order].tolist(), relation_of(evidence, np.ones(len(order), bool)), strict=True)
        ):
            edge = steps.get(frozenset(pair))
            rows.append({
                "first": names[pair[0]], "second": names[pair[1]], "relation": relation,
                "p_value": float(evidence.p_value[place]), "same_order": float(evidence.same_order[place]),
                "reordered": float(evidence.reordered[place]), "distance": float(evidence.distance[place]),
                "cosine": float(evidence.cosine[place]), "in_tree": edge is not None,
                "ancestor": names[edge.ancestor] if edge else "", "confidence": edge.confidence if edge else None,
            })  # fmt: skip
        return rows


def find_relations(groups: Sequence[Group], *, rate: float = RATE, progress: Progress = silent) -> Relations:
    """Return the relations of all networks.

    Args:
        groups: networks by layout; those of different layouts are compared by the layers that they share.
        rate: expected share of false discoveries among the related pairs.
        progress: wraps loops over layouts and pairs.
    """
    tested = _test(groups, progress)
    related = discoveries(tested.evidence.p_value, tested.tests, rate)
    pairs, count = tested.pairs[related], sum(len(group.names) for group in groups)
    edges = descent(count, pairs, tested.evidence.distance[related], tested.log_odds[related])
    return Relations(tested, related, components(count, pairs), edges)


def zoo_descent(zoo: Zoo) -> list[tuple[int, int]]:
    """Return the steps of descent among the networks of a zoo: row numbers of ancestor and descendant."""
    layouts = zoo.table["layout"].to_numpy()
    members = {key: np.flatnonzero(layouts == key) for key in zoo.layouts}
    groups = [Group(zoo.layouts[key], zoo.weights(rows), rows.astype(str).tolist()) for key, rows in members.items()]
    order = np.concatenate(list(members.values()))
    edges = find_relations(groups).edges
    return [(int(order[edge.ancestor]), int(order[edge.descendant])) for edge in edges]


def _test(groups: Sequence[Group], progress: Progress) -> Tested:
    starts = np.cumsum([0, *(len(group.names) for group in groups)])
    found: list[tuple[np.ndarray, Evidence, np.ndarray]] = []
    tests, comparable = 0, set()
    both = list(itertools.combinations_with_replacement(range(len(groups)), 2))
    for first, second in progress(both, total=len(both), unit="pair of layouts"):
        pairs, total = _pairs(groups[first], groups[second], same=first == second)
        layout = _shared(groups[first].layout, groups[second].layout) if total else None
        if layout is None:
            continue
        tests += total
        comparable |= {first, second}
        spec, shared = layout
        vectors = np.concatenate([_restrict(groups[number], shared) for number in sorted({first, second})])
        evidence = compare(spec, shared, vectors, pairs, progress)
        age = ages(shared, vectors)
        offsets = np.array([starts[first], starts[second] - (0 if first == second else len(groups[first].names))])
        found.append((pairs + offsets, evidence, descent_log_odds(age[pairs[:, 0]], age[pairs[:, 1]])))
    alone = tuple(name for number, group in enumerate(groups) if number not in comparable for name in group.names)
    if not found:
        empty = Evidence(*(np.zeros(0, kind) for kind in (int, float, float, float, float, bool)))
        return Tested(np.zeros((0, 2), int), empty, np.zeros(0), 0, alone)
    pairs, evidences, odds = zip(*found, strict=True)
    joined = Evidence(*(np.concatenate(values) for values in zip(*evidences, strict=True)))
    return Tested(np.concatenate(pairs), joined, np.concatenate(odds), tests, alone)


def _pairs(first: Group, second: Group, *, same: bool) -> tuple[np.ndarray, int]:
    """Return the pairs to test, by rows of the joined networks, and how many there are in all."""
    count, others = len(first.names), len(second.names)
    if same:
        return candidate_pairs(first.layout, first.vectors), count * (count - 1) // 2
    if count * others > MOST_PAIRS:
        return np.zeros((0, 2), int), 0
    rows = np.indices((count, others)).reshape(2, -1).T
    return rows + np.array([0, count]), count * others


def _shared(first: Layout, second: Layout) -> tuple[PermutationSpec, Layout] | None:
    """Return groups and layout of what two layouts share; None if that is less than half of the smaller network."""
    try:
        spec, shared = shared_groups(first, second)
    except DataError:
        return None
    return (spec, shared) if 2 * shared.size >= min(first.size, second.size) else None


def _restrict(group: Group, shared: Layout) -> np.ndarray:
    if len(shared.tensors) == len(group.layout.tensors):
        return group.vectors
    spans = group.layout.slices()
    return np.concatenate([group.vectors[:, spans[spec.name]] for spec in shared.tensors], axis=1)


def parents(edges: Iterable[Edge]) -> Iterator[tuple[int, Edge]]:
    """Yield the edge that leads to each network that has an ancestor."""
    for edge in edges:
        yield edge.descendant, edge
