"""Weight forecasts: training curves, trajectories in their own plane, error and accuracy of the network by horizon."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wscore.plots.style import GREEN, PINK, RED, SKY, YELLOW, colour, figure, label, save, unavailable
from wscore.plots.training import draw_curves, read_history

OURS, COPY, TRUTH = "ours", "copy_last", "truth"
NAMES = {
    OURS: "predictor",
    COPY: "copy last",
    "linear": "linear",
    "damped": "damped linear",
    "ridge_ar": "ridge AR",
    "online_ar1": "online AR(1)",
    "pca_ar": "PCA + AR",
    "lawa": "mean of last 3",
    "ema": "moving average",
    "one_sample": "one sample",
    TRUTH: "true future",
}
COLOURS = {
    "damped": RED,
    "ridge_ar": "#7A4A1E",
    "online_ar1": GREEN,
    "pca_ar": SKY,
    "lawa": PINK,
    "ema": "#6A3D9A",
    "one_sample": YELLOW,
}
SPLITS = {
    "temporal": "later in the runs learned from",
    "unseen_run": "unseen run, same part",
    "unseen_run_all": "unseen run, all of it",
    "unseen_optimizer": "unseen optimiser",
    "unseen_optimizer_all": "unseen optimiser, all of it",
    "unseen_dataset": "unseen data set",
    "unseen_dataset_all": "unseen data set, all of it",
}
LOWEST_SKILL = -1.0


def draw_all(tables: Mapping[str, pd.DataFrame], history: Path, folder: Path) -> None:
    """Write skill.png, accuracy.png, recovery.png, layers.png, paths.png and training.png into a folder.

    Args:
        tables: `summary`, `recovery`, `layers`, `paths` and `base`, with the columns that their drawings name.
        history: CSV of the predictor's training.
        folder: where to.
    """
    draw_skill(tables["summary"], folder / "skill.png")
    draw_accuracy(tables["summary"], folder / "accuracy.png")
    draw_recovery(tables["recovery"], folder / "recovery.png")
    draw_layers(tables["layers"], folder / "layers.png")
    draw_paths(tables["paths"], folder / "paths.png")
    draw_training(tables["base"], history, folder / "training.png")


def draw_skill(summary: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per split: skill of every method by horizon, cut off at -1.

    Args:
        summary: columns split, horizon, method, skill.
        path: of the PNG.
    """
    splits = list(summary.groupby("split", sort=False))
    with figure(columns=len(splits), title="Error by horizon, as skill over copying the last snapshot") as (
        canvas,
        axes,
    ):
        for (split, rows), panel in zip(splits, axes, strict=True):
            by_horizon(panel, rows, "skill")
            panel.axhline(0, color=colour(COPY), linewidth=0.8)
            panel.set_ylim(LOWEST_SKILL, 1.05)
            label(panel, title=SPLITS.get(str(split), str(split)), x="steps ahead", y="skill = 1 - MSE / MSE of copy")
        axes[0].legend(fontsize=7)
        save(canvas, path)


def draw_accuracy(summary: pd.DataFrame, path: Path) -> None:
    """Write a PNG with accuracy and loss of the network loaded with each forecast by horizon, a row per split.

    Args:
        summary: columns split, horizon, method, accuracy, loss.
        path: of the PNG.
    """
    splits = list(summary.groupby("split", sort=False))
    title = "The network loaded with forecast weights"
    with figure(rows=len(splits), columns=2, title=title, panel=(4.6, 3.0)) as (canvas, axes):
        for row, (split, rows) in enumerate(splits):
            left, right = axes[2 * row], axes[2 * row + 1]
            by_horizon(left, rows, "accuracy")
            label(left, title=SPLITS.get(str(split), str(split)), x="steps ahead", y="test accuracy")
            by_horizon(right, rows, "loss")
            right.set_yscale("log")
            label(right, title=SPLITS.get(str(split), str(split)), x="steps ahead", y="test loss (nats)")
        if axes[0].get_legend_handles_labels()[0]:  # nothing is drawn of networks that can't be run
            axes[0].legend(fontsize=7)
        save(canvas, path)


def draw_recovery(recovery: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per split: loss of forecast networks over further steps of training, and copy-last's.

    Args:
        recovery: columns split, method, steps, loss.
        path: of the PNG.
    """
    splits = list(recovery.groupby("split", sort=False)) or [("", recovery)]
    with figure(columns=len(splits), title="Forecast networks, trained on") as (canvas, axes):
        for (split, rows), panel in zip(splits, axes, strict=True):
            lines = dict(list(rows.groupby("method")))
            for method, name in NAMES.items():
                if method in lines:
                    panel.plot(lines[method]["steps"], lines[method]["loss"], label=name, **_line(method))
            if lines:
                panel.set_yscale("log")
                panel.legend(fontsize=7)
                label(panel, title=SPLITS.get(str(split), str(split)), x="optimiser steps", y="test loss (nats)")
            else:
                unavailable(panel, "no network was run")
        save(canvas, path)


def draw_layers(layers: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per split: skill of the predictor for each tensor, one and the most steps ahead.

    Args:
        layers: columns split, method, horizon, tensor, skill.
        path: of the PNG.
    """
    own = pd.DataFrame(layers[(layers["method"] == OURS) & ~layers["split"].str.endswith("_all")])
    splits = list(own.groupby("split", sort=False))
    with figure(columns=len(splits), title="Skill by tensor", panel=(4.2, 4.0)) as (canvas, axes):
        for (split, rows), panel in zip(splits, axes, strict=True):
            shown = sorted(set(rows["horizon"]))[:: max(1, len(set(rows["horizon"])) - 2)]
            tensors = list(dict.fromkeys(rows["tensor"]))
            for number, horizon in enumerate(shown):
                columns = (rows[name].tolist() for name in ("horizon", "tensor", "skill"))
                skills = {
                    name: max(LOWEST_SKILL, skill)
                    for step, name, skill in zip(*columns, strict=True)
                    if step == horizon
                }
                places = np.arange(len(tensors)) + 0.8 * (number - (len(shown) - 1) / 2) / len(shown)
                panel.barh(
                    places, [skills[name] for name in tensors], height=0.7 / len(shown), label=f"{horizon} ahead"
                )
            panel.set_yticks(range(len(tensors)), tensors, fontsize=7)
            panel.invert_yaxis()
            panel.axvline(0, color=colour(COPY), linewidth=0.8)
            label(panel, title=SPLITS.get(str(split), str(split)), x="skill")
        axes[0].legend(fontsize=7)
        save(canvas, path)


def draw_paths(paths: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per run: snapshots and forecasts in the plane of its first two principal components.

    Args:
        paths: columns run, series (`truth` or `ours`), start, epoch, x, y.
        path: of the PNG.
    """
    runs = list(paths.groupby("run", sort=False))
    with figure(columns=len(runs), title="True and forecast trajectory", panel=(4.8, 4.2)) as (canvas, axes):
        for (run, rows), panel in zip(runs, axes, strict=True):
            series = dict(list(rows.groupby("series")))
            truth = series[TRUTH]
            style = {"color": colour(TRUTH), "linewidth": 0.8, "marker": ".", "markersize": 3}
            panel.plot(truth["x"], truth["y"], label="true", **style)
            for number, (_, line) in enumerate(series[OURS].groupby("start")):
                name = "forecast" if number == 0 else None
                panel.plot(line["x"], line["y"], color=colour(OURS), marker="o", markersize=2.5, label=name)
            label(panel, title=str(run), x="first principal component", y="second")
        axes[0].legend()
        save(canvas, path)


def draw_training(base: pd.DataFrame, history: Path, path: Path) -> None:
    """Write a PNG with the loss and accuracy of the recorded runs and the loss of the predictor by epoch.

    Args:
        base: columns run, epoch, train_loss, test_loss, test_accuracy.
        history: CSV of the predictor's training.
        path: of the PNG.
    """
    with figure(columns=3, title="Training") as (canvas, (losses, accuracies, predictor)):
        for number, (_, run) in enumerate(base.groupby("run")):
            for split, name in (("train", "train_loss"), ("validation", "test_loss")):
                shown = name.replace("_", " ") if number == 0 else None
                losses.plot(run["epoch"], run[name], color=colour(split), linewidth=0.9, label=shown)
            accuracies.plot(run["epoch"], run["test_accuracy"], color=colour(OURS), linewidth=0.9)
        losses.set_yscale("log")
        losses.legend()
        label(losses, title="recorded runs", x="epoch", y="loss (nats)")
        label(accuracies, title="recorded runs", x="epoch", y="test accuracy")
        draw_curves(predictor, read_history(history), "loss")
        predictor.legend()
        label(predictor, title="predictor", x="epoch", y="loss")
        save(canvas, path)


def by_horizon(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    """Draw one metric of every method over the horizon into a panel; methods that have none are left out.

    Args:
        axes: of the panel.
        rows: of one split, columns horizon, method and the metric.
        metric: name of a column.
    """
    lines = dict(list(rows[np.isfinite(rows[metric])].groupby("method")))
    for method, name in NAMES.items():
        if method in lines:
            axes.plot(lines[method]["horizon"], lines[method][metric], label=name, **_line(method))
    if lines:
        axes.set_xticks(sorted(set(rows["horizon"])))
    else:
        unavailable(axes, "no network was run")


def _line(method: str) -> dict[str, Any]:
    width, dashes = 2.2 if method == OURS else 1.2, "--" if method == TRUTH else "-"
    return {"color": COLOURS.get(method) or colour(method), "linewidth": width, "linestyle": dashes, "marker": "o"}
