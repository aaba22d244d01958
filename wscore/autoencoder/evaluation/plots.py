"""Plots of reconstructed networks against their originals: accuracy, agreement by family, errors by kind of tensor."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wscore.plots.style import colour, figure, label, legend_below, panels, save, unavailable

NAMES = {
    "ours": "autoencoder",
    "mean_network": "mean network",
    "pca": "PCA, same size",
    "layout_pca": "PCA per layout, same size",
    "noise": "noise of equal norm",
    "codec_coordinates": "codec coordinates, same size",
    "latent_decoder": "weight encoder and its decoder",
    "typical_network": "a typical training network",
    "dictionary": "sparse dictionary",
    "kind_pca": "PCA per kind of row, same size",
    "top_entries": "largest entries, same count",
}
KEYS = ("model_id", "run_id", "checkpoint", "family", "original", "networks", "kind")
NOTHING = "no held-out network could be run: its architecture is unknown"


def draw_rebuilt_accuracy(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG with one panel per method: accuracy of reconstructed vs original networks, by family.

    Args:
        table: columns family, original and one per method.
        path: of the PNG.
    """
    methods = method_columns(table)
    title = "Accuracy of held-out networks after reconstruction: on the line is best"
    with panels(len(methods), title=title, panel=(3.3, 3.2)) as (canvas, axes):
        for method, panel in zip(methods, axes, strict=False):
            scatter_accuracy(panel, table, method)
            panel.set_title(NAMES.get(method, method))
        if not methods or table.empty:
            unavailable(axes[0], NOTHING)
        else:
            legend_below(canvas, axes[:1])
        save(canvas, path)


def scatter_accuracy(axes: Axes, table: pd.DataFrame, method: str) -> None:
    """Draw reconstructed over original accuracy of one method into a panel, with the diagonal of equal accuracy."""
    axes.plot([0, 1], [0, 1], color=colour("truth"), linewidth=0.8)
    for number, (family, rows) in enumerate(table.groupby("family", sort=True)):
        axes.scatter(rows["original"], rows[method], s=5, alpha=0.6, color=colour(str(family), number), label=family)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    label(axes, x="accuracy of the original", y="accuracy of the reconstructed network")


def draw_agreement_by_family(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the agreement of each method by family.

    Args:
        table: columns family and one per method.
        path: of the PNG.
    """
    with figure(title="Agreement with the original, by family: higher is better", panel=(8.0, 3.6)) as (
        canvas,
        (axes,),
    ):
        bars(axes, table, "family")
        axes.set_ylim(0, 1)
        label(axes, y="agreement (share of test images)")
        save(canvas, path)


def draw_errors(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the relative error of each method by kind of tensor.

    Args:
        table: columns kind and one per method.
        path: of the PNG.
    """
    with figure(title="Error of reconstructed weights, by kind of tensor: lower is better", panel=(8.0, 3.6)) as (
        canvas,
        (axes,),
    ):
        bars(axes, table, "kind", ascending=True)
        axes.set_yscale("log")
        label(axes, y=r"relative error $\|w - \hat w\| / \|w\|$ (raw units)")
        save(canvas, path)


DRAWINGS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "accuracy": draw_rebuilt_accuracy,
    "agreement": draw_agreement_by_family,
    "errors": draw_errors,
}


def bars(axes: Axes, table: pd.DataFrame, groups: str, *, ascending: bool = False) -> None:
    """Draw grouped bars into a panel: one group per row of the table, one colour per method, highest mean first or last."""
    methods = sorted(method_columns(table), key=lambda name: table[name].mean(), reverse=not ascending)
    if not methods or table.empty:
        unavailable(axes, NOTHING)
        return
    width = 0.8 / len(methods)
    places = np.arange(len(table))
    for number, method in enumerate(methods):
        shift = (number - (len(methods) - 1) / 2) * width
        axes.bar(
            places + shift,
            table[method],
            width,
            color=colour(method),
            label=NAMES.get(method, method),
        )
    axes.set_xticks(places, [textwrap.fill(str(name).replace("_", " "), 8) for name in table[groups]])
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))


def method_columns(table: pd.DataFrame) -> list[str]:
    """Return the method columns of a table."""
    return [str(name) for name in table.columns if name not in KEYS]
