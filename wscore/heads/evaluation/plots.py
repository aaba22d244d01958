"""Plots of property-head results: predicted vs true values, ROC curves, confusion matrices, scores of all methods."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wscore.plots.style import colour, figure, label, legend_below, panels, ranked_bars, save, unavailable

METHODS = {
    "ours": "head",
    "informed": "head, architecture known",
    "mean": "mean or majority",
    "shapes": "shapes only",
    "linear_probe": "latents, linear",
    "untrained": "untrained encoder, linear",
    "shuffled": "shuffled labels, linear",
    "pca": "PCA, linear",
    "hyperparameters": "hyperparameters + boosting",
    "probes": "probe outputs + boosting",
    "spectra": "spectra + boosting",
    "invariants": "statistics and spectra + boosting",
    "statistics": "weight statistics + boosting",
}
SHOWN = tuple(
    name for name in METHODS if name not in ("mean", "shuffled", "spectra", "invariants")
)  # all are in the CSV files
LOWEST = -0.2  # score
COLUMNS = 4  # panels side by side


def draw_points(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of errors over true values: one row per target, head next to baseline; on the line is perfect.

    Args:
        table: columns target, scale (linear or log), true, ours and statistics, in raw units.
        path: of the PNG.
    """
    methods = ("ours", "statistics")
    targets = list(dict.fromkeys(table["target"]))
    title = "Errors on held-out networks: on the line is best"
    with figure(rows=len(targets), columns=len(methods), title=title, panel=(3.2, 3.0)) as (canvas, axes):
        for number, panel in enumerate(axes):
            target, method = targets[number // len(methods)], methods[number % len(methods)]
            if number % len(methods):
                panel.sharey(axes[number - 1])
            error = _scatter(panel, pd.DataFrame(table[table["target"] == target]), method)
            label(panel, title=METHODS[method], x=f"true {_words(target)}", y=error)
        save(canvas, path)


def draw_roc(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG with one panel per label: true vs false positive rate of each method.

    Args:
        table: columns target, method, false_positive_rate, true_positive_rate.
        path: of the PNG.
    """
    groups = list(table.groupby("target", sort=False))
    with panels(len(groups), columns=COLUMNS, title="Building blocks: ROC on held-out networks") as (canvas, axes):
        for panel, (target, curves) in zip(axes, groups, strict=False):
            lines = dict(list(curves.groupby("method")))
            for name in (name for name in SHOWN if name in lines):
                x, y = lines[name]["false_positive_rate"], lines[name]["true_positive_rate"]
                panel.plot(x, y, color=colour(name), label=METHODS[name])
            label(panel, title=_words(target), x="false positive rate", y="true positive rate")
        legend_below(canvas, axes[: len(groups)])
        save(canvas, path)


def draw_names(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a row-normalised confusion matrix of the head's predictions per target.

    Args:
        table: columns target, true and ours.
        path: of the PNG.
    """
    groups = list(table.groupby("target", sort=False))
    with panels(len(groups), columns=COLUMNS, title="Confusion of classes on held-out networks") as (canvas, axes):
        for panel, (target, predicted) in zip(axes, groups, strict=False):
            _confusion(panel, predicted)
            label(panel, title=_words(target), x="predicted", y="true")
        save(canvas, path)


def draw_scores(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per target: its main metric by method, best first.

    Args:
        table: columns target, method, metric, value, main (1 where the metric is the main one of its target).
        path: of the PNG.
    """
    mains = pd.DataFrame(table[(table["main"] == 1) & table["method"].isin(SHOWN)])
    groups = list(mains.groupby("target", sort=False))
    title = "Heads and baselines on held-out networks: 1 is perfect"
    with panels(len(groups), columns=3, title=title, panel=(4.4, 2.5)) as (canvas, axes):
        for panel, (target, rows) in zip(axes, groups, strict=False):
            ranked_bars(panel, dict(zip(rows["method"], rows["value"], strict=True)), METHODS, lowest=LOWEST)
            label(panel, title=_words(target), x=_words(rows["metric"].iloc[0]))
        if not groups:
            unavailable(axes[0], "no target has two values among the held-out networks")
        save(canvas, path)


def draw_importance(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per target: the statistics with the largest gains in the boosted-tree baseline.

    Args:
        table: columns target, statistic and share (of all gains), largest first within a target.
        path: of the PNG.
    """
    groups = list(table.groupby("target", sort=False))
    title = "Weight statistics + boosting: feature importance"
    with panels(len(groups), columns=COLUMNS, title=title, panel=(3.6, 3.0)) as (canvas, axes):
        for panel, (target, shares) in zip(axes, groups, strict=False):
            rising = shares.iloc[::-1]
            panel.barh(rising["statistic"], rising["share"], color=colour("statistics"))
            panel.grid(visible=False, axis="y")
            label(panel, title=_words(target), x="share of the gain")
        save(canvas, path)


DRAWINGS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "points": draw_points,
    "roc": draw_roc,
    "names": draw_names,
    "scores": draw_scores,
    "importance": draw_importance,
}


def _scatter(axes: Axes, rows: pd.DataFrame, method: str) -> str:
    """Draw errors over true values and return their name: differences, or ratios on a logarithmic axis.

    On a logarithmic axis zeros are drawn one decade below the smallest other value.
    """
    truth, predicted = rows["true"].to_numpy(float), rows[method].to_numpy(float)
    low, high = truth.min(), truth.max()
    is_ratio = rows["scale"].iloc[0] == "log" and high > 0
    if is_ratio:
        smallest = truth[truth > 0].min()
        low = smallest / 10 if low <= 0 else low
        truth, predicted = np.maximum(truth, low), np.maximum(predicted, low)
        axes.set(xscale="log", yscale="log")
    axes.axhline(float(is_ratio), color=colour("truth"), linewidth=0.8)
    errors = predicted / truth if is_ratio else predicted - truth
    axes.scatter(truth, errors, s=6, alpha=0.5, color=colour(method), linewidths=0)
    return "predicted / true" if is_ratio else "predicted minus true"


def _confusion(axes: Axes, rows: pd.DataFrame) -> None:
    names = sorted({*rows["true"], *rows["ours"]})
    shares = pd.crosstab(rows["true"], rows["ours"], normalize="index")
    shares = shares.reindex(index=names, columns=names, fill_value=0.0).to_numpy(float)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else "black")


def _words(name: object) -> str:
    return str(name).replace("_", " ")
