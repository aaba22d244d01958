"""Plots fidelity over size: one line per method with variable size, one point per method with fixed size."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from wscore.autoencoder.evaluation.plots import NAMES, NOTHING, autoencoder_method_colour
from wscore.plots.style import figure, label, save, unavailable

PANELS = {
    "agreement": "agreement with the original",
    "accuracy_change": "mean absolute accuracy change",
    "rank_correlation": "rank correlation of accuracies",
}
#: Markers, cycled over the methods: there are more methods than colours.
MARKERS = "osD^vP*X<>phd8H|+"


def draw_curve(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG with one panel per metric over the floats stored per network.

    Args:
        table: one row per latent_bits and method, with stored_floats and the metrics of `PANELS`.
        path: of the PNG.
    """
    codes = table.dropna(subset=["stored_floats", *PANELS])
    with figure(columns=len(PANELS), title="Rate and fidelity of compressed networks", panel=(4.6, 3.8)) as (
        canvas,
        axes,
    ):
        for (metric, name), panel in zip(PANELS.items(), axes, strict=True):
            if codes.empty:
                unavailable(panel, NOTHING)
                continue
            _lines(panel, codes, metric)
            panel.set_xscale("log", base=2)
            label(panel, title=name, x="stored floats per network (log scale)", y=name)
        if not codes.empty:
            axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(canvas, path)


def _lines(axes: Axes, codes: pd.DataFrame, metric: str) -> None:
    for method, rows in codes.groupby("method", sort=False):
        ordered = rows.sort_values(by="stored_floats").drop_duplicates(subset="stored_floats")
        place = list(NAMES).index(str(method)) if method in NAMES else len(NAMES)
        own = str(method).startswith("ours")
        axes.plot(
            ordered["stored_floats"], ordered[metric], marker=MARKERS[place % len(MARKERS)],
            linestyle="-" if own else "--", linewidth=2.0 if own else 1.2,
            label=NAMES.get(str(method), str(method)), color=autoencoder_method_colour(str(method)),
        )  # fmt: skip
