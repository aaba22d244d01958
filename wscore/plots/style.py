"""Common style of all figures: colour-blind-safe palette, plain axes, headless backend, atomic writes.

with figure(columns=2, title="Weight predictor") as (canvas, axes):
    axes[0].plot(x, y, color=colour("ours"))
    save(canvas, path)
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from wscore.io import write_figure

# Okabe & Ito (2008), "Color Universal Design": distinguishable under all common colour vision deficiencies.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY)
ROLES = {"train": SKY, "validation": BLUE, "truth": "black"}
#: Methods of one kind share a hue: ours, those fitted on data, and references that know nothing; from dark to light.
HUES = {
    "ours": ("#0072B2", "#56A5D8", "#A8D1EE"),
    "learned": ("#A84A00", "#E07B00", "#F5B04D", "#FADFA8"),
    "reference": ("#3D3D3D", "#6B6B6B", "#949494", "#B8B8B8", "#D6D6D6"),
}
#: Hue and shade of each method in all pictures; methods of one picture differ.
METHODS = {
    "ours": ("ours", 0), "search": ("ours", 0), "dictionary": ("ours", 0),
    "single_pass": ("ours", 1), "linear_probe": ("ours", 1), "codec_coordinates": ("ours", 1), "one_sample": ("ours", 1),
    "informed": ("ours", 2), "own_inputs": ("ours", 2),
    "latent_decoder": ("ours", 2), "untrained": ("reference", 4),
    "own_search": ("learned", 0), "statistics": ("learned", 0), "top_entries": ("learned", 0), "ridge_ar": ("learned", 0),
    "curvature": ("learned", 1), "probes": ("learned", 1), "layout_pca": ("learned", 1), "kind_pca": ("learned", 1),
    "online_ar1": ("learned", 1),
    "pca": ("learned", 2), "pca_ar": ("learned", 2),
    "hyperparameters": ("learned", 3), "spectra": ("reference", 3), "invariants": ("reference", 2),
    "plain": ("reference", 0), "typical_network": ("reference", 0), "shapes": ("reference", 0), "damped": ("reference", 0),
    "int8": ("reference", 1), "noise": ("reference", 1), "shuffled": ("reference", 1), "lawa": ("reference", 1),
    "int4": ("reference", 2), "mean": ("reference", 2), "copy_last": ("reference", 2),
    "mean_network": ("reference", 3), "linear": ("reference", 3),
    "ema": ("reference", 4),
}  # fmt: skip
STYLE: dict[Any, object] = {
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.titlesize": 12,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "savefig.dpi": 120,
}
PANEL = (4.2, 3.4)  # inches
LETTERS = 9  # of a title, per inch


def colour(name: str, number: int = 0) -> str:
    """Return the fixed colour of a method or of a role (`train`, `validation`, `truth`).

    Any other name gets entry `number` of the palette.
    """
    if name in METHODS:
        hue, shade = METHODS[name]
        return HUES[hue][shade]
    return ROLES.get(name, PALETTE[number % len(PALETTE)])


@contextmanager
def figure(
    *, rows: int = 1, columns: int = 1, title: str = "", panel: tuple[float, float] = PANEL
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Yield a figure of rows x columns panels and its axes, row by row, in the common style.

    Args:
        rows: rows of panels.
        columns: columns of panels.
        title: text above all panels.
        panel: width and height of one panel in inches.
    """
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(columns * panel[0], rows * panel[1]), layout="constrained")
        axes = np.atleast_1d(canvas.subplots(rows, columns)).ravel().tolist()
        if title:
            canvas.suptitle(textwrap.fill(title, int(LETTERS * columns * panel[0])))
        yield canvas, axes


@contextmanager
def panels(
    count: int, *, columns: int = 3, title: str = "", panel: tuple[float, float] = PANEL
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Yield a figure with a grid of at least `count` panels; unused ones are hidden.

    Args:
        count: panels that are used.
        columns: most panels side by side.
        title: text above all panels.
        panel: width and height of one panel in inches.
    """
    columns = min(columns, max(1, count))
    with figure(rows=max(1, -(-count // columns)), columns=columns, title=title, panel=panel) as (canvas, axes):
        for spare in axes[count:]:
            spare.set_axis_off()
        yield canvas, axes


def label(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Name a panel and its axes; units go in brackets."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def ranked_bars(
    axes: Axes, values: Mapping[str, float], labels: Mapping[str, str], *, lowest: float = 0.0, digits: int = 2
) -> None:
    """Draw a horizontal bar per method with its value, the highest on top.

    Args:
        axes: of the panel.
        values: by method.
        labels: displayed name of each method.
        lowest: bars of smaller values end there.
        digits: decimals of the values.
    """
    names = sorted(values, key=lambda name: values[name])
    lengths = [max(values[name], lowest) for name in names]
    axes.barh([labels.get(name, name) for name in names], lengths, color=[colour(name) for name in names])
    for place, (name, length) in enumerate(zip(names, lengths, strict=True)):
        text = f"{values[name]:.{digits}f}"
        axes.annotate(text, (max(length, 0), place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.16)
    axes.grid(visible=False, axis="y")


def log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers."""
    axes.set_yscale("log")
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks(_Plain())


class _Plain(LogFormatter):
    """Tick labels of a logarithmic axis as plain numbers."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of a tick."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def legend_below(canvas: Figure, axes: Sequence[Axes]) -> None:
    """Put one shared legend below all panels, so that it covers no line."""
    known = {name: line for panel in axes for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    if known:
        canvas.legend(list(known.values()), list(known), loc="outside lower center", ncols=min(6, len(known)))


def unavailable(axes: Axes, reason: str) -> None:
    """Write into an empty panel why there is nothing to plot."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, textwrap.fill(reason, 40), ha="center", va="center", color=GREY, transform=axes.transAxes)


def save(canvas: Figure, path: Path) -> None:
    """Write a figure as PNG atomically, without time stamp or software version: equal figures are equal files."""
    write_figure(path, lambda target: canvas.savefig(target, format="png", metadata={"Software": None}))
