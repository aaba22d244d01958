"""The page about one run of the pipeline: results, map of the zoo, failures, training curves, pictures and parameters."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from wscore.errors import DataError
from wscore.report.coordinates import place
from wscore.report.filters import first_layer_images
from wscore.report.page import Curves, NetworkMap, Page, Picture, Section, Table
from wscore.report.table import ARROWS, OURS, Line, TablePart, best_of, gather, sections
from wscore.zoo.store import Zoo

MAPPED = 5000  # most networks of the map
WORST = 10  # networks listed per kind of failure
COLUMNS = ("test_accuracy", "family", "optimizer", "n_weights", "dataset", "activation", "lr", "epoch", "state")
SHOWN = {"test_accuracy": "accuracy", "n_weights": "weights", "lr": "learning rate"}
LIBRARIES = ("wscore", "torch", "numpy", "scikit-learn", "pandas")
HEADLINE = ("task", "metric", "wscore", "from", "to", "best baseline", "its name", "result")
TEXT = (
    "Results on held-out training runs, next to baselines. [from, to] is the 95% bootstrap interval over runs; a result is "
    "open where the best baseline lies inside it."
)
MAP_TEXT = (
    "A dot is a network: its latent of the weight encoder, drawn in two dimensions by t-SNE, which keeps neighbours "
    "together and no distances. Networks of similar weights lie side by side. Lineage: from ancestors to descendants, "
    "found from the weights alone; search for networks to see their arrows."
)
RESULTS_TEXT = (
    "↑ higher is better, ↓ lower is better. The best baseline is the best of those of equal size or information."
)


class Inputs(NamedTuple):
    """Folders of one run of the pipeline.

    Attributes:
        metrics: of all stages.
        plots: of all stages.
        zoo: the networks.
        representations: their latents and splits.
        params: sections of params.yaml.
    """

    metrics: Path
    plots: Path
    zoo: Zoo
    representations: Path
    params: Mapping[str, Any]


class Failures(NamedTuple):
    """Networks on which a method is worst.

    Attributes:
        file: CSV of an evaluation stage, below the folder of plots.
        title: of the table.
        columns: shown, with their displayed names.
        badness: expression of the columns of the CSV; the largest values are shown.
        where: expression that selects rows, or empty.
    """

    file: str
    title: str
    columns: Mapping[str, str]
    badness: str
    where: str = ""


NAME = {"model_id": "network"}
FAILURES = (
    Failures(
        "codec_test/networks.csv",
        "Compressed by the codec, lowest agreement at the highest ratio",
        NAME | {"family": "family", "agreement": "agreement", "accuracy_original": "accuracy", "accuracy": "after"},
        "-agreement",
        "method == 'search' and ratio == ratio.max()",
    ),
    Failures(
        "autoencoder_test/accuracy.csv",
        "Rebuilt by the autoencoder, most accuracy lost",
        NAME | {"family": "family", "original": "accuracy", OURS: "after"},
        f"original - {OURS}",
    ),
    Failures(
        "sae_test/accuracy.csv",
        "Rebuilt from sparse codes, most accuracy lost",
        NAME | {"family": "family", "original": "accuracy", "dictionary": "after"},
        "original - dictionary",
    ),
    Failures(
        "heads_test/accuracy_points.csv",
        "Accuracy predicted from weights, largest errors",
        NAME | {"true": "accuracy", OURS: "predicted", "low": "from", "high": "to"},
        f"abs(true - {OURS})",
    ),
)  # fmt: skip


def pipeline_page(inputs: Inputs, causes: Sequence[str], descent: Sequence[tuple[int, int]]) -> Page:
    """Return the page of a run of the pipeline; results of stages that were not run are left out.

    Args:
        inputs: what the stages wrote.
        causes: damage that shows in the weights of each network of the zoo, or `no finding`.
        descent: row numbers of ancestors and descendants in the zoo.

    Raises:
        DataError: if a file can't be read, or zoo and representations hold different networks.
    """
    parts = [part for part in sections(gather(inputs.metrics)) if part.lines]
    return Page(
        "wscore report",
        TEXT,
        [Table("What wins and what loses", HEADLINE, list(_headline(parts)))],
        zoo_map(inputs.zoo, inputs.representations, causes, descent),
        [
            Section("Failures", "Held-out networks on which the models are worst.", list(_failures(inputs.plots))),
            Section("Training", curves=list(_histories(inputs.plots))),
            Section("All results", RESULTS_TEXT, [_results(part) for part in parts]),
            Section("Pictures", pictures=list(_pictures(inputs.plots))),
            Section("Parameters and versions", tables=[_versions(), _parameters(inputs.params)]),
        ],
    )


def zoo_map(zoo: Zoo, representations: Path, causes: Sequence[str], descent: Sequence[tuple[int, int]]) -> NetworkMap:
    """Return the map of a zoo from the latents of its networks; of more than 5,000, every n-th is shown.

    Raises:
        DataError: if the representations are those of other networks.
    """
    table = pd.read_parquet(Path(representations) / "representations.parquet")
    if table["model_id"].tolist() != zoo.table["model_id"].tolist():
        fix = "run `dvc repro cache_representations`"
        raise DataError("does not hold the networks of the zoo", where=representations, expected=zoo.folder, fix=fix)
    rows = np.unique(np.linspace(0, len(zoo) - 1, min(len(zoo), MAPPED)).astype(int))
    x, y = place(np.stack(table["latent"].tolist())[rows]).T
    known = zoo.table.iloc[rows]
    columns = {SHOWN.get(name, name): known[name].tolist() for name in COLUMNS if name in known}
    columns["split"] = table["split"].iloc[rows].tolist()
    columns["finding"] = [causes[row] for row in rows]
    images = first_layer_images(first_layers(zoo, rows))
    places = {row: place for place, row in enumerate(rows.tolist())}
    edges = [(places[first], places[last]) for first, last in descent if {first, last} <= places.keys()]
    return NetworkMap(known["model_id"].tolist(), x, y, columns, known["run_id"].tolist(), edges, images, MAP_TEXT)


def first_layers(zoo: Zoo, rows: np.ndarray) -> list[np.ndarray | None]:
    """Return the first tensor of at least two axes of each network in the given ascending rows, or None."""
    wanted, found = set(rows.tolist()), []
    for row, vector in zoo.stream():
        if row in wanted:
            layout = zoo.layout(row)
            spec = next((spec for spec in layout.tensors if len(spec.shape) > 1), None)
            found.append(None if spec is None else vector[layout.slices()[spec.name]].reshape(spec.shape).copy())
    return found


def _headline(parts: list[TablePart]) -> Iterator[list[Any]]:
    for part in parts:
        for line in (line for line in part.lines if line.metric.better != "neither" and line.metric.headline):
            rival = best_of(line, part.rivals)
            best, name = (None, None) if rival is None else (line.values[rival], part.controls[rival])
            label = line.metric.label + ARROWS[line.metric.better]
            bounds = line.interval or (None, None)
            yield [part.title, label, line.values.get(OURS), *bounds, best, name, _result(line, best)]


def _result(line: Line, best: float | None) -> str | None:
    ours = line.values.get(OURS)
    if ours is None or best is None:
        return None
    low, high = line.interval or (ours, ours)
    if low <= best <= high:
        return "open"
    return "wins" if (low > best) == (line.metric.better == "higher") else "loses"


def _results(part: TablePart) -> Table:
    names = [OURS, *part.controls]
    rows = [[line.metric.label + ARROWS[line.metric.better], *map(line.values.get, names)] for line in part.lines]
    return Table(part.title, ["metric", "wscore", *part.controls.values()], rows)


def _failures(plots: Path) -> Iterator[Table]:
    for failures in FAILURES:
        file = plots / failures.file
        table = pd.read_csv(file) if file.is_file() else pd.DataFrame()
        if len(table) and failures.where:
            table = table.query(failures.where)
        if len(table):
            order = table.eval(failures.badness).sort_values(ascending=False).index[:WORST]
            rows = table.loc[order, list(failures.columns)].to_numpy(object).tolist()
            yield Table(failures.title, list(failures.columns.values()), rows)


def _histories(plots: Path) -> Iterator[Curves]:
    for file in sorted(plots.rglob("history.csv")):
        table = pd.read_csv(file)
        splits = [name for name in ("train", "validation") if f"{name}_loss" in table]
        epochs = table["epoch"].tolist()
        lines = {name: (epochs, table[f"{name}_loss"].tolist()) for name in splits}
        yield Curves(file.parent.relative_to(plots).as_posix(), "epoch", "loss", lines)


def _pictures(plots: Path) -> Iterator[Picture]:
    files = sorted(plots.rglob("*.png"), key=lambda file: (file.parent.name != "evaluate", file))
    for file in files:
        yield Picture(file.relative_to(plots).with_suffix("").as_posix().replace("_", " "), file)


def _versions() -> Table:
    rows = [["Python", platform.python_version()], *([name, version(name)] for name in LIBRARIES)]
    return Table("Versions", ["library", "version"], rows)


def _parameters(params: Mapping[str, Any]) -> Table:
    return Table("Parameters (params.yaml)", ["parameter", "value"], list(_leaves(params)))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield [f"{prefix}{name}", str(value)]
