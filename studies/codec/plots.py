"""Agreement over compression: one line per method, with intervals over runs."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from wscore.plots.style import PALETTE, figure, label, save

NAMES = {
    "search": "codec, searched with training images",
    "single_pass": "codec, networks not run",
    "own_search": "search without a zoo",
    "curvature": "own curvature (OBS) + range coder",
    "plain": "per tensor + range coder",
    "int8": "8 bits",
    "int4": "4 bits",
    "mean_network": "mean network",
}
METRICS = {
    "agreement": "agreement",
    "accuracy_change": "mean absolute accuracy change",
    "rank_correlation": "rank correlation",
}
FREE = ("int8", "int4", "mean_network")  # methods of a size of their own
INTRODUCTION = """# Codec against codes that know no zoo

Written by `make codec`. {networks:.0f} networks, each of a test run of its own, on test images; {other_networks:.0f} of unseen
widths. In brackets 95% intervals over runs. All methods but the last three have the same bytes per file.

The fitted codec takes {decoder_bytes:,.0f} bytes and pays from {pays_from:.0f} networks at {ratio:g}x: codec and files together
are then smaller than the networks in float32.
"""


def draw_table(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of a table with ratio, method, and the metrics with their intervals."""
    with figure(columns=len(METRICS), title="Held-out networks at the same bytes", panel=(4.4, 3.6)) as (canvas, axes):
        for panel, (metric, name) in zip(axes, METRICS.items(), strict=True):
            for place, method in enumerate(name for name in NAMES if name not in FREE):
                rows = table[table["method"] == method].sort_values(by="achieved")
                panel.plot(rows["achieved"], rows[metric], "o-", label=NAMES[method], color=PALETTE[place])
                if f"{metric}_low" in rows:
                    bounds = rows[f"{metric}_low"], rows[f"{metric}_high"]
                    panel.fill_between(rows["achieved"], *bounds, color=PALETTE[place], alpha=0.15, linewidth=0)
            panel.set_xscale("log", base=2)
            label(panel, title=name, x="compression (float32 bytes / file bytes)", y=name)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(canvas, path)


def markdown(table: pd.DataFrame, other: pd.DataFrame, facts: Mapping[str, float]) -> str:
    """Return the results as a page: the metrics by method and ratio, unseen widths, what the decoder takes."""
    ratios = list(dict.fromkeys(table["ratio"]))
    passes = {name: NAMES[name] for name in ("single_pass", "plain")}
    blocks = {name.capitalize(): _block(table, metric, ratios, NAMES) for metric, name in METRICS.items()}
    blocks["Agreement on widths that the codec was not fitted on"] = _block(other, "agreement", ratios, passes)
    text = INTRODUCTION.format(ratio=ratios[0], **facts)
    return text + "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in blocks.items())


def _block(table: pd.DataFrame, metric: str, ratios: list[float], names: dict[str, str]) -> list[str]:
    head = ["| | " + " | ".join(f"{ratio:g}x" for ratio in ratios) + " |", "| --- |" + " ---: |" * len(ratios)]
    cells = table.set_index(["method", "ratio"])
    return head + [
        f"| {name} | " + " | ".join(_cell(cells.loc[(method, ratio)], metric) for ratio in ratios) + " |"
        for method, name in names.items()
    ]


def _cell(row: pd.Series, metric: str) -> str:
    digits = 4 if metric == "accuracy_change" else 3
    text = f"{row[metric]:.{digits}f}"
    bounds = [row.get(f"{metric}_{side}") for side in ("low", "high")]
    text += f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if None not in bounds else ""
    return text + (f" ({row['achieved']:.1f}x)" if row.name[0] in FREE else "")
