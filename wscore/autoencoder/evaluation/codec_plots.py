"""Plots of the evaluation of the codec: agreement over compression, by method, by family, and on unseen widths."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from wscore.plots.style import colour, figure, label, ranked_bars, save, unavailable

NAMES = {
    "search": "codec, searched with images",
    "own_inputs": "codec, searched with inputs of its own",
    "single_pass": "codec, single pass",
    "own_search": "search without a zoo",
    "curvature": "own curvature (OBS)",
    "plain": "per tensor + range coder",
    "int8": "int8",
    "int4": "int4",
    "mean_network": "mean network",
}
FREE = ("int8", "int4", "mean_network")  # methods of a size of their own
METRICS = {
    "agreement": "agreement with the original",
    "accuracy_change": "mean absolute accuracy change",
    "rank_correlation": "rank correlation of accuracies",
}
RATIO = "compression (bytes in float32 / bytes of the file)"
NOTHING = "no held-out network could be run: its architecture is unknown"


def draw_rates(rates: pd.DataFrame, path: Path) -> None:
    """Write a PNG with one panel per metric over the compression: a line per method with its interval over runs.

    Args:
        rates: one row per ratio and method, with compression_ratio and the metrics of `METRICS`.
        path: of the PNG.
    """
    with figure(columns=len(METRICS), title="Compressed networks of held-out runs", panel=(4.6, 3.8)) as (canvas, axes):
        for (metric, name), panel in zip(METRICS.items(), axes, strict=True):
            if rates.empty:
                unavailable(panel, NOTHING)
                continue
            draw_lines(panel, rates, metric)
            label(panel, title=name, x=RATIO, y=name)
        if not rates.empty:
            axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(canvas, path)


def draw_lines(axes: Axes, rates: pd.DataFrame, metric: str) -> None:
    """Draw a metric over the compression into a panel: a line per method, a point for those of a size of their own."""
    for method in (name for name in NAMES if name in set(rates["method"]) and name != "mean_network"):
        rows = pd.DataFrame(rates[rates["method"] == method]).sort_values(by="compression_ratio")
        if method in FREE:
            rows = rows.iloc[:1]
        axes.plot(rows["compression_ratio"], rows[metric], "o-", color=colour(method), label=NAMES[method])
        if method not in FREE and f"{metric}_low" in rows:
            bounds = rows[f"{metric}_low"], rows[f"{metric}_high"]
            axes.fill_between(rows["compression_ratio"], *bounds, color=colour(method), alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")


def draw_agreement(rates: pd.DataFrame, path: Path) -> None:
    """Write a PNG with one panel per ratio: the agreement of each method as bars, best first.

    Args:
        rates: as of `draw_rates`.
        path: of the PNG.
    """
    ratios = sorted(rates["ratio"].unique()) if len(rates) else [float("nan")]
    with figure(columns=len(ratios), title="Agreement with the original", panel=(4.6, 3.4)) as (canvas, axes):
        for ratio, panel in zip(ratios, axes, strict=True):
            draw_bars(panel, pd.DataFrame(rates[rates["ratio"] == ratio]))
            panel.set_title(f"at {ratio:g}x")
        save(canvas, path)


def draw_bars(axes: Axes, rates: pd.DataFrame) -> None:
    """Draw the agreement at one ratio into a panel, best first; methods of a size of their own name it."""
    if rates.empty:
        unavailable(axes, NOTHING)
        return
    ranked_bars(axes, dict(zip(rates["method"], rates["agreement"], strict=True)), bar_names(rates))
    label(axes, x="agreement (share of test images)")


def bar_names(rates: pd.DataFrame) -> dict[str, str]:
    """Return the displayed names of methods, with the compression of those that have one of their own."""
    ratios = dict(zip(rates["method"], rates["compression_ratio"], strict=True))
    return {name: f"{NAMES[name]} ({ratio:.1f}x)" if name in FREE else NAMES[name] for name, ratio in ratios.items()}


def draw_grouped_bars(table: pd.DataFrame, path: Path, names: Sequence[str], title: str) -> None:
    """Write a PNG with one panel per ratio: the agreement of each method as bars, by another column.

    Args:
        table: columns ratio, another one, and one per method.
        path: of the PNG.
        names: methods shown.
        title: of the figure.
    """
    ratios = sorted(table["ratio"].unique()) if len(table) else [float("nan")]
    with figure(columns=len(ratios), title=title, panel=(4.6, 3.4)) as (canvas, axes):
        for ratio, panel in zip(ratios, axes, strict=True):
            rows = pd.DataFrame(table[table["ratio"] == ratio]).drop(columns="ratio")
            shown = [name for name in names if name in rows]
            if rows.empty:
                unavailable(panel, NOTHING)
                continue
            _grouped(panel, rows, shown)
            label(panel, title=f"at {ratio:g}x", y="agreement (share of test images)")
        if len(table):
            axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(canvas, path)


def _grouped(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    names = sorted(names, key=lambda name: -rows[name].mean())
    width = 0.8 / max(len(names), 1)
    for number, name in enumerate(names):
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(rows))]
        axes.bar(places, rows[name], width, color=colour(name), label=NAMES[name])
    axes.set_xticks(range(len(rows)), [str(value) for value in rows.iloc[:, 0]])
    axes.set_ylim(0, 1)
    axes.grid(visible=False, axis="x")


DRAWINGS: dict[str, Callable[[dict[str, pd.DataFrame], Path], None]] = {
    "rates": lambda tables, path: draw_rates(tables["rates"], path),
    "agreement": lambda tables, path: draw_agreement(tables["rates"], path),
    "families": lambda tables, path: draw_grouped_bars(
        tables["families"], path, list(NAMES)[:5], "Agreement with the original, by family"
    ),
    "unseen": lambda tables, path: draw_grouped_bars(
        tables["unseen"], path, list(NAMES)[:5], "Agreement on widths that no fit saw"
    ),
}
