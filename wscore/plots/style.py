"""Common style of all figures: colour-blind-safe palette, plain axes, headless backend, atomic writes.

with figure(columns=2, title="Weight predictor") as (canvas, axes):
    axes[0].plot(x, y, color=colour("ours"))
    save(canvas, path)
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wscore.io import write_figure

# Okabe & Ito (2008), "Color Universal Design": distinguishable under all common colour vision deficiencies.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, GREY = "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY)
ROLES = {
    "ours": BLUE,
    "dictionary": BLUE,
    "kind_pca": GREEN,
    "top_entries": PINK,
    "mean": GREY,
    "pca": ORANGE,
    "copy_last": GREY,
    "linear": ORANGE,
    "train": SKY,
    "validation": BLUE,
    "truth": "black",
}
#: Methods of one kind share a hue, from dark to light.
SHADES = {
    "ours": ("#0072B2", "#56A5D8", "#A8D1EE"),
    "rivals": ("#C05A00", "#E69F00", "#F5C869", "#FADFA8"),
    "quantisers": ("#4D4D4D", "#7F7F7F", "#A6A6A6", "#CCCCCC"),
}
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


def colour(name: str, number: int = 0) -> str:
    """Return the fixed colour of a role (`ours`, `mean`, `pca`, `copy_last`, `linear`, `train`, `validation`, `truth`).

    Any other name gets entry `number` of the palette, so that one method keeps one colour in all figures that name it.
    """
    return ROLES.get(name, PALETTE[number % len(PALETTE)])


def shade(hue: str, number: int) -> str:
    """Return shade `number` of the hue of `ours`, `rivals` or `quantisers`, the darkest first."""
    return SHADES[hue][number % len(SHADES[hue])]


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
            canvas.suptitle(title)
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


def unavailable(axes: Axes, reason: str) -> None:
    """Write into an empty panel why there is nothing to plot."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, textwrap.fill(reason, 40), ha="center", va="center", color=GREY, transform=axes.transAxes)


def save(canvas: Figure, path: Path) -> None:
    """Write a figure as PNG atomically, without time stamp or software version: equal figures are equal files."""
    write_figure(path, lambda target: canvas.savefig(target, format="png", metadata={"Software": None}))
