"""Provenance of published models: code, networks and parameters."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wscore.config import read_yaml
from wscore.io import content_hash
from wscore.zoo.store import Zoo

CODE = ("wscore", "stages", "params.yaml")
MODELS, TABLES = "models/published", "data/published"  # of the pipeline


class Provenance(NamedTuple):
    """Provenance on the card of a model.

    Attributes:
        revision: last git commit that changed code or parameters, marked if there are local changes; `unknown` outside
            a clone.
        lock: hash of dvc.lock, of all stages but publishing itself; `unknown` without one.
        zoo: hash of the zoo's content.
        networks: number of rows.
        runs: number of training runs.
        families: architecture families in it; empty if unknown.
        datasets: training data sets of its networks; empty if unknown.
        params: all sections of params.yaml as plain data.
        models: folder of the published models in a clone.
        tables: folder of the published data sets in a clone.
    """

    revision: str
    lock: str
    zoo: str
    networks: int
    runs: int
    families: tuple[str, ...]
    datasets: tuple[str, ...]
    params: Mapping[str, Any]
    models: str = MODELS
    tables: str = TABLES


def gather_provenance(
    zoo: Zoo, params: Mapping[str, Any], *, models: Path = Path(MODELS), tables: Path = Path(TABLES)
) -> Provenance:
    """Return the provenance of models made from a zoo with these parameters, published in these folders of a clone.

    Absolute folders don't appear: cards are the same on all machines.
    """
    table = zoo.table
    return Provenance(
        revision=git_revision(),
        lock=lock_hash(),
        zoo=zoo.identity,
        networks=len(table),
        runs=len(set(table["run_id"])),
        families=_names(table, "family"),
        datasets=_names(table, "dataset"),
        params=params,
        models=MODELS if models.is_absolute() else models.as_posix(),
        tables=TABLES if tables.is_absolute() else tables.as_posix(),
    )


def git_revision(folder: Path = Path()) -> str:
    """Return the last commit that changed code or params.yaml, followed by `with local changes` if they differ from it.

    Not HEAD: a later commit of metrics or text only must not change the published files.
    """
    commit = _git(folder, "log", "-1", "--format=%H", "--", *CODE)
    if not commit:
        return "unknown"
    changed = _git(folder, "status", "--porcelain", "--", *CODE)
    return f"{commit} with local changes" if changed else commit


def lock_hash(folder: Path = Path()) -> str:
    """Return the hash of dvc.lock for all stages but `publish`, whose entry is not written yet."""
    path = folder / "dvc.lock"
    if not path.is_file():
        return "unknown"
    stages = {name: entry for name, entry in read_yaml(path).get("stages", {}).items() if name != "publish"}
    return content_hash(json.dumps(stages, sort_keys=True))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _names(table: Any, column: str) -> tuple[str, ...]:
    if column not in table:
        return ()
    return tuple(sorted({str(name) for name in table[column].dropna()} - {""}))
