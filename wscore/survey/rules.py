"""Damage that marks of single tensors show with certainty, without other networks to compare with."""

import numpy as np

from wscore.encoder.weight_statistics import tensor_roles
from wscore.networks.layout import Layout
from wscore.survey.damages import MATRICES
from wscore.survey.marks import MARKS, network_marks
from wscore.survey.records import Finding, Group
from wscore.zoo.store import Zoo

CERTAIN = ("dead channels", "zeroed entries", "narrow type", "stale statistics")  # causes that rules decide
UNTOUCHED = 1.36  # Kolmogorov-Smirnov statistic that 95% of fresh matrices do not reach
PRUNED = 0.1  # share of zeros from which they are pruning, which is no damage
ROUNDED = 0.2  # share of repeated weights from which they are rounding
ON_GRID = 0.01  # mean distance from the 8-bit grid below which weights lie on it
Broken = tuple[str, str, str]  # cause, tensor, evidence
Table = dict[str, dict[str, float]]  # marks of each matrix


def rule_findings(group: Group) -> list[Finding]:
    """Return what the marks of each network of a group show."""
    marks = network_marks(group.layout, group.vectors)
    roles = matrix_roles(group.layout)
    findings = []
    for row, name in enumerate(group.names):
        table = {
            tensor: {mark: float(marks[f"{role}.{mark}"][row]) for mark in MARKS} for tensor, role in roles.items()
        }
        broken = _narrow(table) or _zeros(table) or _untrained(table) or _stale(group, row)
        findings += [
            Finding(network=name, cause=cause, tensor=tensor, evidence=evidence, source="rule", score=1.0)
            for cause, tensor, evidence in broken
        ]
    return findings


def zoo_causes(zoo: Zoo) -> list[str]:
    """Return the first cause that a rule finds for each network of a zoo, or `no finding`."""
    causes: dict[str, str] = {}
    for key, layout in zoo.layouts.items():
        rows = np.flatnonzero(zoo.table["layout"].to_numpy() == key)
        group = Group(layout, zoo.weights(rows), zoo.table["model_id"].to_numpy()[rows].tolist())
        for chunk in group.chunks():
            for finding in rule_findings(chunk):
                causes.setdefault(finding.network, finding.cause)
    return [causes.get(name, "no finding") for name in zoo.table["model_id"]]


def matrix_roles(layout: Layout) -> dict[str, str]:
    """Return the role of each weight matrix, such as `linear[-1]` for the last linear layer, by its name."""
    pairs = zip(layout.tensors, tensor_roles(layout), strict=True)
    return {spec.name: f"{kind}[-{place}]" for spec, (kind, place) in pairs if spec.kind in MATRICES and spec.size}


def _untrained(table: Table) -> list[Broken]:
    if len(table) < 2 or any(marks["uniform"] >= UNTOUCHED for marks in table.values()):
        return []
    return [("untrained", "", "the weights of every matrix are uniformly distributed, as at initialisation")]


def _zeros(table: Table) -> list[Broken]:
    broken = []
    for tensor, marks in table.items():
        if marks["dead"]:
            broken.append(("dead channels", tensor, f"{marks['dead']:.0%} of its units have no incoming weights"))
        elif 0 < marks["zeros"] < PRUNED:
            broken.append(("zeroed entries", tensor, f"{marks['zeros']:.2%} of its weights are exactly 0"))
    return broken


def _narrow(table: Table) -> list[Broken]:
    for name in ("float16", "bfloat16"):
        if table and all(marks[name] == 1 for marks in table.values()):
            return [("narrow type", "", f"every weight is a {name} number")]
    if table and all(marks["grid"] < ON_GRID for marks in table.values()):
        return [("narrow type", "", "the weights of every matrix are multiples of 1/127 of the largest one")]
    rounded = {tensor: marks["repeated"] - marks["zeros"] for tensor, marks in table.items()}
    return [
        ("narrow type", tensor, f"{share:.0%} of its weights repeat another one, as after rounding")
        for tensor, share in rounded.items()
        if share > ROUNDED
    ][:1]


def _stale(group: Group, row: int) -> list[Broken]:
    pairs = zip(group.layout.tensors, group.layout.slices().values(), strict=True)
    stale = [spec.name for spec, span in pairs if spec.kind == "running_var" and (group.vectors[row, span] == 1).all()]
    return [("stale statistics", name, "its variances are all 1, as before the first update") for name in stale[:1]]
