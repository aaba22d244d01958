"""The page of a survey: headline, families, findings, ranking, and a map of the networks."""

from collections.abc import Sequence
from typing import Any

from wscore.report.filters import first_layer_images
from wscore.report.page import NetworkMap, Page, Section, Table
from wscore.survey.survey import Survey

MOST_ROWS = 200  # of a table; the files hold all
FIRST = ("health", "family", "predicted")  # columns by which the map is coloured first
HIDDEN = ("network", "confidence", "low", "high")


def survey_page(result: Survey, title: str) -> Page:
    """Return the page of a survey of the networks of `title`."""
    summary = result.summary
    text = (
        f"{summary['networks']:,} networks; layouts: {summary['layouts']:,}; families: {summary['families']:,}; "
        f"networks with a finding: {summary['networks with a finding']:,}."
    )
    facts = [[name, _text(value)] for name, value in summary.items()]
    headline = [Table("What was done and found", ("", "value"), facts)]
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
        text="Principal components of the latents, or of size and spread of the weights without an encoder. "
        "Arrows lead from an ancestor to its descendant.",
    )  # fmt: skip


def _lineage(result: Survey) -> Section:
    text = (
        "Related pairs, the most certain first. p_value: of independent training (same_order is exact, reordered an "
        f"approximation); at a false discovery rate of {result.summary['false discovery rate']:.0%}. Lower distance: nearer."
    )
    return Section("Lineage", text, [_table("related pairs", result.edges)])


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


def _text(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items()) or "none"
    return len(value) if isinstance(value, list) else value
