"""Compares the accuracies that imported networks come with to those measured on the images of section `data`."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from wscore.errors import DataError, WscoreWarning, printable
from wscore.io import write_csv
from wscore.networks.datasets import DataConfig, Tasks, kinds_of, load_tasks
from wscore.networks.images import ImagesConfig
from wscore.networks.inference import scores
from wscore.zoo.store import Zoo

STATED = ("test_accuracy", "test_acc", "accuracy", "acc")
MEASURED = "accuracy.csv"
POINT = 0.01
NETWORKS = 64  # measured at most


class StatedAccuracies(NamedTuple):
    """Stated and measured accuracies.

    Attributes:
        table: columns model_id, stated and measured.
        margins: difference of each network that is a warning.
    """

    table: pd.DataFrame
    margins: np.ndarray


def check_accuracies(folder: Path, data: DataConfig | ImagesConfig) -> None:
    """Measure some networks of a zoo that state an accuracy and can be run, and write accuracy.csv beside its rows.

    Warns if one differs by more than a point, or if the images can't be loaded.
    """
    zoo = Zoo(folder)
    column = next((name for name in STATED if name in zoo.table), None)
    described = {text for name in ("architecture", "factory") if name in zoo.table for text in zoo.table[name]} - {""}
    if column is None or not described:
        return
    try:
        tasks = load_tasks(data)
    except DataError as error:
        warnings.warn(f"{column} is not compared to measured accuracies: {error}", WscoreWarning, stacklevel=2)
        return
    comparison = compare_accuracies(zoo, column, tasks, limited=data.max_test is not None)
    if len(comparison.table):
        write_csv(folder / MEASURED, {str(name): values for name, values in comparison.table.items()})
    _warn(comparison, column)


def compare_accuracies(zoo: Zoo, column: str, tasks: Tasks, *, limited: bool) -> StatedAccuracies:
    """Return stated and measured accuracies of at most `NETWORKS` last checkpoints of runs, evenly spaced.

    Args:
        zoo: the networks.
        column: of the stated accuracies, as shares or per cent.
        tasks: images.
        limited: whether they are a part of the test images; four standard errors are then added to the margin of a point.
    """
    stated = np.asarray(pd.to_numeric(zoo.table[column], errors="coerce"), float)
    stated = stated / 100 if np.nanmax(stated, initial=0) > 1 else stated
    known = zoo.last_checkpoints(np.flatnonzero(np.isfinite(stated)))
    kinds = kinds_of(zoo.table, tasks)
    runnable = np.array(
        [row for row in known.tolist() if tasks.way(kinds[row], zoo.layout(row)).answer is not None], int
    )
    rows = runnable[np.unique(np.linspace(0, max(len(runnable) - 1, 0), NETWORKS).astype(int))[: len(runnable)]]
    measured, errors = np.zeros(len(rows)), np.zeros(len(rows))
    for place, row in enumerate(rows.tolist()):
        images = tasks.of(kinds[row].task)
        assert images is not None
        answered = tasks.way(kinds[row], zoo.layout(row)).logits(torch.from_numpy(zoo.weights([row])), images.x_test)
        measured[place] = float(scores(answered, images.y_test).accuracy[0])
        errors[place] = np.sqrt(measured[place] * (1 - measured[place]) / len(images.y_test))
    table = pd.DataFrame({"model_id": zoo.table["model_id"].iloc[rows], "stated": stated[rows], "measured": measured})
    return StatedAccuracies(table, POINT + 4 * errors if limited else np.full(len(rows), POINT))


def _warn(comparison: StatedAccuracies, column: str) -> None:
    stated, measured = (np.asarray(comparison.table[name]) for name in ("stated", "measured"))
    apart = np.abs(stated - measured) > comparison.margins
    if apart.any():
        first = comparison.table.iloc[int(np.argmax(apart))]
        example = f"{printable(first['model_id'])}: {first['stated']:.2%} stated, {first['measured']:.2%} measured"
        message = f"{apart.sum()} of {len(apart)} networks differ from their {column} by more than a point ({example})"
        warnings.warn(f"{message}; see {MEASURED}, data.dataset and data.normalize", WscoreWarning, stacklevel=3)
