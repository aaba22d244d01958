"""Writes a survey as files: two tables, the findings and one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wscore.errors import DataError
from wscore.io import atomic_folder, write_csv, write_json
from wscore.report.page import write_page
from wscore.survey.page import survey_page
from wscore.survey.survey import Survey

EDGES = (
    "first", "second", "relation", "p_value", "same_order", "reordered", "distance", "cosine", "in_tree", "ancestor",
    "confidence",
)  # fmt: skip


def write_survey(folder: Path, result: Survey, title: str) -> None:
    """Write networks.csv, edges.csv, findings.json and index.html into a new folder, whole or not at all.

    Raises:
        DataError: if the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError("already exists and is not empty", where=folder, fix="choose a new folder")
    with atomic_folder(folder) as temporary:
        write_csv(temporary / "networks.csv", _columns(result.networks, ("network",)))
        write_csv(temporary / "edges.csv", _columns(result.edges, EDGES))
        findings = [msgspec.to_builtins(finding) for finding in result.findings]
        write_json(temporary / "findings.json", {"summary": result.summary, "findings": findings})
        write_page(temporary / "index.html", survey_page(result, title))


def _columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    names = list(rows[0]) if rows else names
    return {name: [row[name] for row in rows] for name in names}
