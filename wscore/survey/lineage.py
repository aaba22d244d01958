"""Whether one network comes from another: an exact p-value, how they are related, and which came first."""

from typing import Literal

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int

from wscore.encoder.features import layout_and_weights
from wscore.encoder.layer_order import in_layer_order
from wscore.errors import DataError
from wscore.networks.layout import Layout, layout_of
from wscore.survey.age import ages, descent_log_odds
from wscore.survey.independence import Evidence, independence
from wscore.survey.records import Progress, silent
from wscore.survey.unit_groups import restricted, unit_groups
from wscore.symmetry.spec import PermutationSpec
from wscore.zoo.state import state_of

Relation = Literal["copy", "reordered copy", "related", "related and reordered", "none"]
EQUAL = 1e-6  # relative distance up to which two networks are copies
LEVEL = 0.01  # p-value below which a single pair is called related
PAIRS = 64  # compared at once
LARGEST_BLOCK = 1 << 22  # weights of a block of pairs


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """How two networks are related.

    Attributes:
        relation: `copy` and `reordered copy` have the same weights; `none`: no evidence against independent training.
        p_value: of independent training, from both tests.
        same_order: exact p-value of the units at equal positions.
        reordered: approximate p-value of the matched units, whatever their position.
        fixed: units that are matched with the unit at their own position.
        units: that were matched.
        distance: |a - b| / max(|a|, |b|) of the weight matrices, after matching if that is nearer.
        cosine: mean cosine between the incoming weights of matched units.
        ancestor: which network came first; empty without a relation.
        confidence: probability that it did.
        tensors: weight matrices that were compared.
    """

    relation: Relation
    p_value: float
    same_order: float
    reordered: float
    fixed: int
    units: int
    distance: float
    cosine: float
    ancestor: Literal["first", "second", ""]
    confidence: float
    tensors: int


def lineage(first: object, second: object) -> Lineage:
    """Return how two networks, given as modules, state dicts or files, are related: see `wscore.zoo.state.state_of`.

    Tensors that both have under the same name and in the same shape are compared. The smallest possible p-value is one over
    the number of orders of their hidden units.

    Raises:
        DataError: if weights are missing or not finite, or the networks share no layer with hidden units.

    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 4))
    >>> found = lineage(network, network)
    >>> found.relation, found.p_value < 1e-8
    ('copy', True)
    """
    states = [in_layer_order(state_of(network)) for network in (first, second)]
    for state in states:
        layout_and_weights(state)
    spec, layout = shared_groups(layout_of(states[0]), layout_of(states[1]))
    vectors = np.stack([layout.flatten(state) for state in states])
    evidence = compare(spec, layout, vectors, np.array([[0, 1]]))
    odds = float(descent_log_odds(*ages(layout, vectors)[:, None])[0])
    return _lineage(evidence, odds, spec)


def shared_groups(first: Layout, second: Layout) -> tuple[PermutationSpec, Layout]:
    """Return groups and layout of the tensors that two layouts share.

    Raises:
        DataError: if none of them is a layer with hidden units.
    """
    shapes = {spec.name: spec.shape for spec in second.tensors}
    names = [spec.name for spec in first.tensors if shapes.get(spec.name) == spec.shape]
    spec = restricted(unit_groups(first), names)
    if not spec.units:
        raise DataError(
            "the networks share no layer with hidden units", where="lineage", expected="layers of equal names and shapes",
            got=f"{len(names)} shared tensors", fix="rename the tensors of one if it is the same architecture",
        )  # fmt: skip
    return spec, Layout(tensors=tuple(spec for spec in first.tensors if spec.name in names))


def compare(
    spec: PermutationSpec,
    layout: Layout,
    vectors: Float[np.ndarray, "network weights"],
    pairs: Int[np.ndarray, "pair 2"],
    progress: Progress = silent,
) -> Evidence:
    """Return the evidence of pairs of networks of one layout, given by their row numbers; a few pairs at a time."""
    size = max(1, min(PAIRS, LARGEST_BLOCK // max(layout.size, 1)))
    starts = range(0, len(pairs), size)
    shown = progress(starts, total=len(starts), unit="block of pairs")
    blocks = [_compare(spec, layout, vectors, pairs[start : start + size]) for start in shown]
    return Evidence(*(np.concatenate(values) for values in zip(*blocks, strict=True)))


def _compare(spec: PermutationSpec, layout: Layout, vectors: np.ndarray, pairs: np.ndarray) -> Evidence:
    states = [layout.unflatten(torch.from_numpy(vectors[side])) for side in pairs.T]
    return independence(spec, *states)


def _lineage(evidence: Evidence, odds: float, spec: PermutationSpec) -> Lineage:
    values = {name: value.item() for name, value in evidence._asdict().items() if name != "moved"}
    relation = relation_of(evidence, np.array([evidence.p_value[0] < LEVEL]))[0]
    known = relation not in ("none", "copy", "reordered copy")
    return Lineage(
        **values, relation=relation, p_value=float(evidence.p_value[0]), units=sum(spec.units.values()),
        ancestor="" if not known else "first" if odds > 0 else "second",
        confidence=float(1 / (1 + np.exp(-abs(odds)))) if known else 0.0, tensors=len(spec.axes),
    )  # fmt: skip


def relation_of(evidence: Evidence, related: np.ndarray) -> list[Relation]:
    """Return the relation of each pair, given which are related."""
    relations: list[Relation] = []
    for is_related, distance, moved in zip(related, evidence.distance, evidence.moved, strict=True):
        if not is_related:
            relations.append("none")
        elif distance <= EQUAL:
            relations.append("reordered copy" if moved else "copy")
        else:
            relations.append("related and reordered" if moved else "related")
    return relations
