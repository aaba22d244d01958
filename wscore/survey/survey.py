"""A survey of networks: families, health and predicted accuracy, as tables and one page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from wscore.encoder.layer_order import in_layer_order
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.errors import DataError
from wscore.networks.layout import Layout, layout_of
from wscore.publish.pretrained import PublishedHead
from wscore.report.coordinates import place
from wscore.survey.health import LEAST_FAMILIES, LEAST_NETWORKS, enough_to_learn, health_findings
from wscore.survey.ranking import Ranking, rank
from wscore.survey.records import Finding, Group, Progress, silent
from wscore.survey.relations import RATE, Relations, find_relations, parents

State = Mapping[str, Tensor]
RULES_ALONE = f"rules alone: fewer than {LEAST_NETWORKS} networks, or {LEAST_FAMILIES} unrelated ones"


class Survey(NamedTuple):
    """The result of a survey.

    Attributes:
        networks: one row per network.
        edges: one row per related pair.
        findings: what is wrong with networks.
        summary: counts, rates and what could not be done.
        steps: (ancestor, descendant) as row numbers of `networks`.
        coordinates: of a map, one (x, y) per network.
        layers: first weight matrix of each network.
    """

    networks: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    findings: list[Finding]
    summary: dict[str, Any]
    steps: list[tuple[int, int]]
    coordinates: np.ndarray
    layers: list[np.ndarray | None]


def survey(
    networks: Mapping[str, State],
    *,
    unreadable: Sequence[Finding] = (),
    encoder: WeightEncoder | None = None,
    head: PublishedHead | None = None,
    labels: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress = silent,
) -> Survey:
    """Return what is found about networks.

    Args:
        networks: state dicts with finite weights, by name.
        unreadable: findings about files that are no networks.
        encoder: published encoder; without one there is no ranking, and health looks at weights alone.
        head: published head of accuracy.
        labels: what is known about networks, by name.
        progress: wraps the long loops.

    Raises:
        DataError: if there is no network, or labels name none of them.
    """
    if not networks:
        raise DataError("no network can be read", where="survey", got=f"{len(unreadable)} unreadable files")
    strangers = sorted(set(labels or {}) - set(networks) - {finding.network for finding in unreadable})
    if strangers:
        raise DataError("labels name networks that are not there", where="labels", got=", ".join(strangers[:5]))
    groups = group_by_layout(networks, encoder)
    names = [name for group in groups for name in group.names]
    relations = find_relations(groups, progress=progress)
    ranking = rank(groups, encoder, head, progress)
    findings = [*unreadable, *health_findings(groups, relations.family, ranking.probes, progress)]
    return Survey(
        networks=_rows(groups, relations, ranking, findings, labels or {}),
        edges=relations.rows(names),
        findings=findings,
        summary=_summary(groups, relations, ranking, findings),
        steps=[(edge.ancestor, edge.descendant) for edge in relations.edges],
        coordinates=_coordinates(groups, ranking),
        layers=[_first_layer(group.layout, vector) for group in groups for vector in group.vectors],
    )


def group_by_layout(networks: Mapping[str, State], encoder: WeightEncoder | None = None) -> list[Group]:
    """Return networks by layout; tensors are in the order of the layers, whatever their order in a file."""
    members: dict[str, tuple[Layout, list[np.ndarray], list[str]]] = {}
    for name, state in networks.items():
        ordered = in_layer_order(state)
        ordered = encoder.layouts.ordered(ordered) if encoder is not None else ordered
        layout = layout_of(ordered)
        _, vectors, names = members.setdefault(layout.identity, (layout, [], []))
        vectors.append(layout.flatten(ordered))
        names.append(name)
    return [Group(layout, np.stack(vectors), names) for layout, vectors, names in members.values()]


def _rows(
    groups: Sequence[Group],
    relations: Relations,
    ranking: Ranking,
    findings: Sequence[Finding],
    labels: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    members = [(name, group) for group in groups for name in group.names]
    ancestor = dict(parents(relations.edges))
    sizes = Counter(relations.family.tolist())
    causes: dict[str, list[str]] = {}
    for finding in findings:
        causes.setdefault(finding.network, []).append(finding.cause)
    known = list(dict.fromkeys(column for row in labels.values() for column in row))
    rows = []
    for number, (name, group) in enumerate(members):
        family, edge = int(relations.family[number]), ancestor.get(number)
        rows.append({
            "network": name, "layout": group.layout.identity, "weights": group.layout.size,
            "family": family if sizes[family] > 1 else None, "ancestor": members[edge.ancestor][0] if edge else "",
            "confidence": edge.confidence if edge else None,
            "health": ", ".join(dict.fromkeys(causes.get(name, []))) or "no finding", **ranking.rows[number],
            **{column: labels.get(name, {}).get(column) for column in known},
        })  # fmt: skip
    return rows


def _summary(
    groups: Sequence[Group], relations: Relations, ranking: Ranking, findings: Sequence[Finding]
) -> dict[str, Any]:
    count = sum(len(group.names) for group in groups)
    sizes = np.bincount(relations.family)
    predicted = sum(row["predicted"] is not None for row in ranking.rows)
    tested = relations.tested
    return {
        "networks": count, "layouts": len(groups), "pairs": tested.tests, "pairs tested": len(tested.pairs),
        "related pairs": int(relations.related.sum()), "false discovery rate": RATE,
        "families": int((sizes > 1).sum()), "networks without relatives": int((sizes == 1).sum()),
        "not comparable": list(tested.alone), "networks with a finding": len({finding.network for finding in findings}),
        "findings": dict(Counter(finding.cause for finding in findings)),
        "health": "rules and a classifier" if enough_to_learn(relations.family) else RULES_ALONE,
        "networks with a predicted accuracy": predicted,
    }  # fmt: skip


def _coordinates(groups: Sequence[Group], ranking: Ranking) -> np.ndarray:
    """Return coordinates of networks by their latents; without an encoder, number and spread of their weights."""
    if ranking.latents.shape[1]:
        return place(ranking.latents)
    return np.array(
        [[np.log10(group.layout.size), np.log10(vector.std() + 1e-9)] for group in groups for vector in group.vectors]
    )


def _first_layer(layout: Layout, vector: np.ndarray) -> np.ndarray | None:
    for spec, span in zip(layout.tensors, layout.slices().values(), strict=True):
        if spec.kind in ("linear", "conv"):
            return vector[span].reshape(spec.shape)
    return None
