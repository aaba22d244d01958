"""Plots of weight forecasts: training curves, trajectories in PCA space, error and network accuracy by horizon."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wscore.forecasting.evaluation.tables import near_steps
from wscore.plots.style import HUES, PANEL, colour, figure, label, legend_below, log_axis, panels, save, unavailable
from wscore.plots.training_curves import draw_curves, read_history

OURS, COPY, TRUTH = "ours", "copy_last", "truth"
NAMES = {
    OURS: "predictor",
    COPY: "copy last",
    "linear": "linear",
    "damped": "damped linear",
    "ridge_ar": "ridge AR",
    "online_ar1": "online AR(1)",
    "pca_ar": "PCA + AR",
    "lawa": "mean of last 3 (LAWA)",
    "ema": "moving average",
    "one_sample": "one sample",
    TRUTH: "true future",
}
SHOWN = (
    OURS,
    "ridge_ar",
    "online_ar1",
    "pca_ar",
    "damped",
    "lawa",
    COPY,
    "one_sample",
    TRUTH,
)  # all are in the CSV files
MARKERS = {"damped": "s", "lawa": "^", "linear": "v", "ema": "D"}
SPLITS = {
    "temporal": "later in the training runs",
    "unseen_run": "unseen run, same part",
    "unseen_run_all": "unseen run, all of it",
    "unseen_optimizer": "unseen optimizer",
    "unseen_optimizer_all": "unseen optimizer, all of it",
    "unseen_dataset": "unseen data set",
    "unseen_dataset_all": "unseen data set, all of it",
}
LOWEST_SKILL = -1.0


def draw_all(tables: Mapping[str, pd.DataFrame], history: Path, folder: Path) -> None:
    """Write skill.png, accuracy.png, recovery.png, layers.png, paths.png, training.png and, with bands, bands.png.

    Args:
        tables: `summary`, `recovery`, `layers`, `paths`, `base` and, if forecasts have bands, `bands`, with the columns
            listed at each plot function.
        history: CSV of the predictor's training.
        folder: output folder.
    """
    draw_skill(tables["summary"], folder / "skill.png")
    draw_forecast_accuracy(tables["summary"], folder / "accuracy.png")
    draw_recovery(tables["recovery"], folder / "recovery.png")
    draw_layers(tables["layers"], folder / "layers.png")
    draw_paths(tables["paths"], folder / "paths.png")
    draw_predictor_training(tables["base"], history, folder / "training.png")
    if "bands" in tables:
        draw_bands(tables["bands"], folder / "bands.png")


def draw_skill(summary: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per split: skill of every method by horizon, clipped at -1.

    Args:
        summary: columns split, horizon, method, skill.
        path: of the PNG.
    """
    splits = list(summary.groupby("split", sort=False))
    title = "Error by horizon: skill = 1 - MSE / MSE of copying the last snapshot"
    with panels(len(splits), title=title) as (canvas, axes):
        for (split, rows), panel in zip(splits, axes, strict=False):
            by_horizon(panel, pd.DataFrame(rows[rows["method"] != TRUTH]), "skill")  # always 1
            panel.axhline(0, color=colour(COPY), linewidth=0.8)
            panel.set_ylim(LOWEST_SKILL, 1.05)
            label(panel, title=split_name(str(split)), x="steps ahead", y="skill, drawn from -1")
            lowest = rows.loc[rows["method"] == OURS, "skill"].min()
            if lowest < LOWEST_SKILL:
                panel.text(0.02, 0.02, f"predictor: down to {lowest:.3g}", transform=panel.transAxes, fontsize=8)
        legend_below(canvas, axes)
        save(canvas, path)


def draw_forecast_accuracy(summary: pd.DataFrame, path: Path) -> None:
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
            label(left, title=split_name(str(split)), x="steps ahead", y="test accuracy")
            by_horizon(right, rows, "loss")
            log_axis(right)
            label(right, title=split_name(str(split)), x="steps ahead", y="test loss (nats)")
        legend_below(canvas, axes)
        save(canvas, path)


def draw_recovery(recovery: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per split: test loss after further training from forecasts and from copy-last.

    Args:
        recovery: columns split, method, steps, loss.
        path: of the PNG.
    """
    splits = list(recovery.groupby("split", sort=False)) or [("", recovery)]
    with panels(len(splits), title="Forecast networks, trained on") as (canvas, axes):
        for (split, rows), panel in zip(splits, axes, strict=False):
            lines = dict(list(rows.groupby("method")))
            for method in (name for name in SHOWN if name in lines):
                panel.plot(lines[method]["steps"], lines[method]["loss"], label=NAMES[method], **_line(method))
            if lines:
                log_axis(panel)
                panel.set_xticks(sorted(set(rows["steps"])))
                label(panel, title=split_name(str(split)), x="optimiser steps", y="test loss (nats)")
            else:
                unavailable(panel, "no network was run")
        legend_below(canvas, axes)
        save(canvas, path)


def draw_layers(layers: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per split: per-tensor skill at the first and the last regular horizon.

    Args:
        layers: columns split, method, horizon, tensor, skill.
        path: of the PNG.
    """
    ours = pd.DataFrame(layers[(layers["method"] == OURS) & ~layers["split"].str.endswith("_all")])
    splits = list(ours.groupby("split", sort=False))
    height = max(PANEL[1], 0.3 * len(set(layers["tensor"])))
    with panels(len(splits), title="Skill by tensor", panel=(4.2, height)) as (canvas, axes):
        for (split, rows), panel in zip(splits, axes, strict=False):
            near = near_steps(set(rows["horizon"]))
            shown = sorted({near[0], near[-1]})
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
                    places,
                    [skills[name] for name in tensors],
                    height=0.7 / len(shown),
                    color=HUES[OURS][number],
                    label=f"{horizon} ahead",
                )
            panel.set_yticks(range(len(tensors)), tensors, fontsize=7)
            panel.invert_yaxis()
            panel.axvline(0, color=colour(COPY), linewidth=0.8)
            label(panel, title=split_name(str(split)), x="skill, drawn from -1")
        legend_below(canvas, axes)
        save(canvas, path)


def draw_paths(paths: pd.DataFrame, path: Path) -> None:
    """Write a PNG with a panel per run: snapshots and forecasts in the plane of its first two principal components.

    Args:
        paths: columns run, series (`truth` or `ours`), start, epoch, x, y.
        path: of the PNG.
    """
    runs = list(paths.groupby("run", sort=False))
    with panels(len(runs), title="True and forecast trajectory", panel=(4.8, 4.2)) as (canvas, axes):
        for (run, rows), panel in zip(runs, axes, strict=False):
            series = dict(list(rows.groupby("series")))
            truth = series[TRUTH]
            style = {"color": colour(TRUTH), "linewidth": 0.8, "marker": ".", "markersize": 3}
            panel.plot(truth["x"], truth["y"], label="true", **style)
            panel.plot(truth["x"][:1], truth["y"][:1], "o", color=colour(TRUTH), markerfacecolor="white", label="start")
            for number, (_, line) in enumerate(series[OURS].groupby("start")):
                name = "forecast" if number == 0 else None
                panel.plot(line["x"], line["y"], color=colour(OURS), marker="o", markersize=2.5, label=name)
            label(panel, title=str(run), x="first principal component", y="second")
        legend_below(canvas, axes)
        save(canvas, path)


def draw_bands(bands: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the coverage and the width of the forecast bands.

    Args:
        bands: columns split, horizon, aimed, covered, width.
        path: of the PNG.
    """
    with figure(columns=2, title="Bands of the forecast") as (canvas, (held, widths)):
        for number, (split, rows) in enumerate(bands.groupby("split", sort=False)):
            for panel, column in ((held, "covered"), (widths, "width")):
                style: dict[str, Any] = {"marker": "o", "color": colour("", number), "label": split_name(str(split))}
                panel.plot(*_gapped(rows, column), **style)
        held.axhline(float(bands["aimed"].iloc[0]), color="black", linestyle="--", linewidth=0.8, label="aimed at")
        held.set_ylim(0, 1.05)
        for panel in (held, widths):
            panel.set_xticks(sorted(set(bands["horizon"])))
        label(held, title="weights in the band", x="steps ahead", y="share of the true weights")
        label(widths, title="width", x="steps ahead", y="RMS width / RMS true change")
        legend_below(canvas, [held])
        save(canvas, path)


def draw_predictor_training(base: pd.DataFrame, history: Path, path: Path) -> None:
    """Write a PNG with the loss and accuracy of the recorded runs and the loss of the predictor by epoch.

    Args:
        base: columns run, dataset, optimizer, epoch, train_loss, test_loss, test_accuracy.
        history: CSV of the predictor's training.
        path: of the PNG.
    """
    with figure(columns=3, title="Training") as (canvas, (losses, accuracies, predictor)):
        kinds = base["dataset"] + ", " + base["optimizer"]
        for number, (kind, runs) in enumerate(base.groupby(kinds, sort=False)):
            for place, (_, run) in enumerate(runs.groupby("run")):
                style = {"color": colour("", number), "linewidth": 0.9}
                name = str(kind) if place == 0 else None
                losses.plot(run["epoch"], run["train_loss"], linestyle=":", **style)
                losses.plot(run["epoch"], run["test_loss"], **style)
                accuracies.plot(run["epoch"], run["test_accuracy"], label=name, **style)
        label(losses, title="recorded runs, dotted: training loss", x="epoch", y="loss (nats)")
        label(accuracies, title="recorded runs", x="epoch", y="test accuracy")
        if np.isfinite(base[["train_loss", "test_loss"]].to_numpy(float)).any():
            log_axis(losses)
        else:
            unavailable(losses, "no losses recorded")
        legend_below(canvas, [accuracies])
        if not np.isfinite(base["test_accuracy"]).any():
            unavailable(accuracies, "no accuracies recorded")
        draw_curves(predictor, read_history(history), "loss")
        predictor.legend()
        label(predictor, title="predictor", x="epoch", y="loss")
        save(canvas, path)


def split_name(split: str) -> str:
    """Return the label of a set of windows, such as `unseen_run_sgd_all` (one optimiser, all windows)."""
    if split in SPLITS:
        return SPLITS[split]
    whole = split.removesuffix("_all")
    source = next((name for name in SPLITS if whole.startswith(f"{name}_")), None)
    if source is None:
        return split
    rest = ", all of it" if whole != split else ""
    return f"{SPLITS[source].partition(',')[0]}, {whole.removeprefix(f'{source}_')}{rest}"


def by_horizon(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    """Draw one metric over the horizon, one line per method; methods without the metric are omitted.

    The far step is not connected to the others: it is measured on fewer windows.

    Args:
        axes: of the panel.
        rows: of one split, columns horizon, method and the metric.
        metric: name of a column.
    """
    lines = dict(list(rows[np.isfinite(rows[metric])].groupby("method")))
    for method in SHOWN:
        if method in lines:
            axes.plot(*_gapped(pd.DataFrame(lines[method]), metric), label=NAMES[method], **_line(method))
    if lines:
        axes.set_xticks(sorted(set(rows["horizon"])))
    else:
        unavailable(axes, "no network was run")


def _gapped(rows: pd.DataFrame, metric: str) -> tuple[list[float], list[float]]:
    """Return horizons and a metric, with a gap before the far step."""
    horizons, values = (rows[name].astype(float).tolist() for name in ("horizon", metric))
    near = len(near_steps(rows["horizon"]))
    gap = [np.nan] if near < len(horizons) else []
    return horizons[:near] + gap + horizons[near:], values[:near] + gap + values[near:]


def _line(method: str) -> dict[str, Any]:
    width, dashes = 2.2 if method == OURS else 1.2, "--" if method == TRUTH else "-"
    style = {"color": colour(method), "linewidth": width, "linestyle": dashes}
    return {**style, "marker": MARKERS.get(method, "o"), "zorder": 3 if method == OURS else 2}
