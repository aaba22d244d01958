"""The page of a survey: headline, families, findings, ranking, and a map of the networks."""

from collections.abc import Sequence
from typing import Any

from wscore.report.filters import first_layer_images
from wscore.report.page import NetworkMap, Page, Section, Table
from wscore.survey.survey import Survey

MOST_ROWS = 200  # of a table; the files hold all
FIRST = ("health", "family", "predicted")  # columns by which the map is coloured first
PAIR = {
    "first": "first", "second": "second", "relation": "relation", "p_value": "p-value", "ancestor": "ancestor",
    "confidence": "confidence", "distance": "distance", "cosine": "cosine", "same_order": "same order", "reordered": "reordered",
}  # fmt: skip
HIDDEN = ("network", "confidence", "low", "high")


def survey_page(result: Survey, title: str) -> Page:
    """Return the page of a survey of the networks of `title`."""
    summary = result.summary
    text = (
        f"{summary['networks']:,} networks; layouts: {summary['layouts']:,}; families: {summary['families']:,}; "
        f"networks with a finding: {summary['networks with a finding']:,}."
    )
    causes = [list(pair) for pair in summary["findings"].items()] or [["none", 0]]
    facts = {name: len(value) if isinstance(value, list) else value for name, value in summary.items()}
    facts = [[name, value] for name, value in facts.items() if name != "findings"]
    headline = [Table("What was done", ("", "value"), facts), Table("What was found", ("finding", "networks"), causes)]
    return Page(
        f"Survey of {title}", text, headline, _map(result), [_lineage(result), _health(result), _ranking(result)]
    )


def _map(result: Survey) -> NetworkMap:
    rows = result.networks
    names = [name for name in rows[0] if name not in HIDDEN]
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return NetworkMap(
        names=[row["network"] for row in rows], x=result.coordinates[:, 0], y=result.coordinates[:, 1],
        columns={name: [row[name] for row in rows] for name in names}, edges=result.steps,
        filters=first_layer_images(result.layers),
        text="Latents of the weight encoder in two dimensions by t-SNE: networks of similar weights lie side by side. "
        "Without an encoder: number and spread of the weights. Arrows lead from an ancestor to its descendant.",
    )  # fmt: skip


def _lineage(result: Survey) -> Section:
    text = (
        "Related pairs, the most certain first; lower p-values and distances: more alike. The p-value is that of independent "
        "training; same order is exact, reordered an approximation. False discovery rate: "
        f"{result.summary['false discovery rate']:.0%}."
    )
    rows = [{title: row[name] for name, title in PAIR.items()} for row in result.edges]
    return Section("Lineage", text, [_table("related pairs", rows)])


def _health(result: Survey) -> Section:
    names = ("network", "cause", "tensor", "evidence", "source", "score")
    rows = [{name: getattr(finding, name) for name in names} for finding in result.findings]
    return Section(
        "Health", "What is wrong, and what shows it; a score near 1 is more certain.", [_table("findings", rows)]
    )


def _ranking(result: Survey) -> Section:
    known = [row for row in result.networks if row["predicted"] is not None]
    known.sort(key=lambda row: -row["predicted"])
    names = ("network", "predicted", "low", "high", "inside", "health")
    text = "Predicted accuracy with its prediction interval; higher is better. Networks of an unknown population have none."
    return Section("Ranking", text, [_table("best first", [{name: row[name] for name in names} for row in known])])


def _table(caption: str, rows: Sequence[dict[str, Any]]) -> Table:
    shown = f"{caption}: {min(len(rows), MOST_ROWS):,} of {len(rows):,}"
    columns = list(rows[0]) if rows else ["none"]
    return Table(shown, columns, [[row[name] for name in columns] for row in rows[:MOST_ROWS]])
