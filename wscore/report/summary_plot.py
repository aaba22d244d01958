"""Summary picture: compression, property prediction and forecasting, each next to its baselines."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wscore.autoencoder.evaluation.codec_plots import METRICS, RATIO, draw_bars, draw_lines
from wscore.forecasting.evaluation.plots import LOWEST_SKILL, TRUTH, by_horizon
from wscore.heads.evaluation.plots import METHODS
from wscore.plots.style import colour, figure, label, save, unavailable

OURS, FORECASTS = "ours", 5  # and the best other methods that are drawn


class Panel(NamedTuple):
    """One panel of the summary.

    Attributes:
        file: CSV below the folder of plots.
        stage: that writes it.
        title: of the panel.
        draw: draws the table into the panel.
    """

    file: str
    stage: str
    title: str
    draw: Callable[[Axes, pd.DataFrame], None]


def draw_summary(folder: Path, path: Path) -> None:
    """Write a PNG of four panels from the CSV files of the evaluation stages; panels of missing files name the file.

    Args:
        folder: with codec_test/, heads_test/ and predictor_test/.
        path: of the PNG.
    """
    with figure(rows=2, columns=2, title="Held-out networks", panel=(4.6, 3.9)) as (canvas, axes):
        for panel, place in zip(PANELS, axes, strict=True):
            table = _read(Path(folder) / panel.file)
            if table is None:
                unavailable(place, f"{panel.title}: {panel.file} is missing or empty; run `dvc repro {panel.stage}`")
            else:
                panel.draw(place, table)
                place.set_title(panel.title)
        save(canvas, path)


def draw_compressed(axes: Axes, table: pd.DataFrame) -> None:
    """Draw agreement over compression, a line per method (rows of ratio and method)."""
    draw_lines(axes, table, "agreement")
    label(axes, x=RATIO, y=METRICS["agreement"])
    axes.legend(loc="lower left")


def draw_headline(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the agreement of each method at the middle ratio, best first."""
    ratios = sorted(table["ratio"].unique())
    draw_bars(axes, pd.DataFrame(table[table["ratio"] == ratios[len(ratios) // 2]]))


def draw_accuracy(axes: Axes, table: pd.DataFrame) -> None:
    """Draw predictions of heads and weight statistics over the true values (columns true, ours, statistics)."""
    axes.plot(*[[table["true"].min(), table["true"].max()]] * 2, color=colour("truth"), linewidth=0.8)
    for number, name in enumerate(("statistics", "ours")):
        style = {"s": 6, "alpha": 0.5, "linewidths": 0, "color": colour(name, number + 1)}
        axes.scatter(table["true"], table[name], label=METHODS[name], **style)
    label(axes, x=f"true {_words(table['target'].iloc[0])}", y="predicted from the weights")
    axes.legend(markerscale=2, loc="upper left")


def draw_forecast(axes: Axes, table: pd.DataFrame) -> None:
    """Draw skill by horizon of ours and the best methods on later windows (columns split, horizon, method, skill)."""
    first = pd.DataFrame(table[(table["split"] == table["split"].iloc[0]) & (table["method"] != TRUTH)])
    methods, skill = first["method"].to_numpy(str), first["skill"].clip(lower=LOWEST_SKILL).to_numpy(float)
    means = {str(name): float(skill[methods == name].mean()) for name in np.unique(methods)}
    best = sorted(means.keys() - {OURS}, key=lambda name: -means[name])[:FORECASTS]
    by_horizon(axes, pd.DataFrame(first[np.isin(methods, [OURS, *best])]), "skill")
    axes.axhline(0, color=colour("copy_last"), linewidth=0.8)
    axes.set_ylim(LOWEST_SKILL, 1.05)
    label(axes, x="steps ahead", y="skill = 1 - MSE / MSE of copying the last")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


PANELS = (
    Panel("codec_test/rates.csv", "evaluate_codec", "Compressed networks", draw_compressed),
    Panel("codec_test/rates.csv", "evaluate_codec", "Compressed networks and baselines", draw_headline),
    Panel("heads_test/accuracy_points.csv", "evaluate_heads", "Accuracy predicted from weights", draw_accuracy),
    Panel("predictor_test/summary.csv", "evaluate_predictor", "Weight forecast, later in training", draw_forecast),
)


def _read(file: Path) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    table = pd.read_csv(file)
    return None if table.empty else table


def _words(name: object) -> str:
    return str(name).replace("_", " ")
