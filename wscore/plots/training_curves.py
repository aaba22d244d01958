"""Plots training curves from the histories written by the training stages."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wscore.errors import DataError
from wscore.plots.style import colour, label, legend_below, log_axis, panels, save, unavailable

SPLITS = ("train", "validation")


def find_histories(folder: Path) -> dict[str, Path]:
    """Return every history.csv below a folder by the name of its model, such as `heads/accuracy`."""
    found = sorted(Path(folder).rglob("history.csv"))
    return {path.parent.relative_to(folder).as_posix(): path for path in found}


def draw_histories(histories: Mapping[str, Path], path: Path, *, metric: str = "loss") -> None:
    """Write a PNG with a panel per model: one metric by epoch on the training and the validation split.

    Args:
        histories: CSV of each model, with the columns epoch, train_<metric> and validation_<metric>.
        path: of the PNG.
        metric: metric to plot, on a logarithmic axis if it is positive.

    Raises:
        DataError: if a file is missing or lacks a column.
    """
    with panels(len(histories), title="Training", panel=(3.8, 3.0)) as (canvas, axes):
        for (name, history), panel in zip(histories.items(), axes, strict=False):
            draw_curves(panel, read_history(history, metric), metric)
            label(panel, title=name.replace("_", " "), x="epoch", y=metric)
        if histories:
            legend_below(canvas, axes[:1])
        else:
            unavailable(axes[0], "no training history was found")
        save(canvas, path)


def draw_curves(axes: Axes, table: pd.DataFrame, metric: str) -> None:
    """Draw the curves into a panel and mark the lowest value on the validation split, if there is one."""
    columns = {split: f"{split}_{metric}" for split in SPLITS if f"{split}_{metric}" in table}
    for split, column in columns.items():
        axes.plot(table["epoch"], table[column], color=colour(split), label=split)
    values = table.reindex(columns=[f"validation_{metric}"]).to_numpy(float)[:, 0]
    if np.isfinite(values).any():
        best = int(np.nanargmin(values))
        axes.plot(table["epoch"].iloc[best], values[best], "o", color=colour("validation"), label="lowest")
    if (table[list(columns.values())].to_numpy() > 0).all():
        log_axis(axes)


def read_history(history: Path, metric: str = "loss") -> pd.DataFrame:
    """Return a training history, checked for the columns of one metric; that of validation may be missing.

    Raises:
        DataError: if the file is missing or lacks a column.
    """
    if not Path(history).is_file():
        raise DataError("no training history here", where=history, fix="run the stage that trains this model")
    table = pd.read_csv(history)
    wanted = ["epoch", f"train_{metric}"]
    missing = [name for name in wanted if name not in table]
    if missing:
        raise DataError("columns are missing", where=history, expected=wanted, got=list(table.columns))
    return table
