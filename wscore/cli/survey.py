"""The command `survey`: what comes from what, what is broken, and what is best in a folder of networks."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from wscore.cli.networks import network_files, read_networks, zoo_folder
from wscore.cli.output import print_json, print_table, progress
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.errors import DataError, WscoreError, WscoreWarning
from wscore.networks.checkpoints import read_network
from wscore.publish.pretrained import PublishedHead, head_parts
from wscore.survey.files import write_survey
from wscore.survey.records import Finding
from wscore.survey.survey import survey as survey_networks

HEAD = "accuracy"
SHOWN = 20  # findings printed
NAMES = ("network", "file", "model_id")  # columns of labels that name a network


def survey(options: argparse.Namespace) -> None:
    """Survey the networks of a folder, and write tables and a page."""
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("already exists and is not empty", where=out, fix="choose a new folder with --out")
    states, unreadable = _read(options.folder, options.limit)
    labels = read_labels(Path(options.labels)) if options.labels else {}
    if options.limit:
        labels = {name: row for name, row in labels.items() if name in states}
    encoder, head = _models(options.model)
    result = survey_networks(
        states, unreadable=unreadable, encoder=encoder, head=head, labels=labels,
        progress=progress,
    )  # fmt: skip
    write_survey(out, result, options.folder)
    if options.json:
        print_json({**result.summary, "out": str(out)})
        return
    print_table([{"": name, "value": _shown(value)} for name, value in result.summary.items()])
    rows = [{"network": finding.network, "cause": finding.cause, "tensor": finding.tensor, "evidence": finding.evidence}
            for finding in result.findings]  # fmt: skip
    if rows:
        print_table(rows[:SHOWN], title=f"\nfindings ({min(len(rows), SHOWN)} of {len(rows)})")
    print_table([{"written": str(out / name)} for name in sorted(path.name for path in out.iterdir())])


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    """Return what a table says of each network, by name.

    Raises:
        DataError: if it can't be read, names no networks, or names one twice.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(NAMES, str))
    except FileNotFoundError as error:
        raise DataError("no such file", where=path) from error
    except (ValueError, OSError) as error:
        raise DataError("is not a readable CSV file", where=path, got=error) from error
    column = next((name for name in NAMES if name in table), None)
    if column is None:
        raise DataError(
            "names no networks", where=path, expected=f"a column {' or '.join(NAMES)}", got=list(table)[:12]
        )
    if table[column].duplicated().any():
        raise DataError("names a network twice", where=path, got=table[column][table[column].duplicated()].iloc[0])
    rows = table.drop(columns=column).astype(object).where(table.drop(columns=column).notna(), None)
    return dict(zip(table[column], rows.to_dict("records"), strict=True))


def _read(text: str, limit: int | None) -> tuple[dict[str, dict[str, Tensor]], list[Finding]]:
    """Return the networks of a folder by name, and a finding for each file that is none."""
    folder = zoo_folder(text)
    files = network_files(folder) if folder.is_dir() else []
    if not files:
        return {network.name: network.state for network in progress(read_networks([text], limit=limit))}, []
    states, unreadable = {}, []
    for file in progress(files[:limit]):
        try:
            states[file] = read_network(folder / file).state
        except WscoreError as error:
            finding = Finding(
                network=file, cause="unreadable", tensor="", evidence=str(error), source="file", score=1.0
            )
            unreadable.append(finding)
    return states, unreadable


def _models(source: str) -> tuple[WeightEncoder | None, PublishedHead | None]:
    """Return the published encoder and head of accuracy, or None with a warning."""
    try:
        encoder = WeightEncoder.from_pretrained(source)
        parts = head_parts(source, [HEAD])
        return encoder, PublishedHead(parts[HEAD], encoder)
    except WscoreError as error:
        warnings.warn(f"no predicted accuracy: {error}", WscoreWarning, stacklevel=2)
        return None, None


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items()) or "none"
    return len(value) if isinstance(value, list) else value
