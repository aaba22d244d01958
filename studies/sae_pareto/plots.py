"""Plots fidelity over sparsity, one line per kind of sparsity."""

from pathlib import Path

import pandas as pd

from wscore.plots.style import PALETTE, colour, figure, label, save

NAMES = {
    "l1": "L1", "kl": "KL", "hoyer": "Hoyer", "topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU",
    "pca": "PCA (L0 = rank)",
}  # fmt: skip
PANELS = {"fvu": "fraction of variance unexplained", "accuracy_recovered": "fraction of accuracy recovered"}


def draw_pareto(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of FVU and of the accuracy recovered over L0.

    Args:
        table: columns sparsity, l0, fvu and accuracy_recovered.
        path: of the PNG.
    """
    with figure(columns=2, title="Dictionaries of hidden units: sparsity against fidelity", panel=(4.8, 3.8)) as (
        canvas,
        axes,
    ):
        for (metric, name), panel in zip(PANELS.items(), axes, strict=True):
            for number, (key, text) in enumerate(NAMES.items()):
                rows = pd.DataFrame(table[table["sparsity"] == key]).sort_values(by="l0")
                shade, line = (colour("mean"), "--") if key == "pca" else (PALETTE[number], "o-")
                panel.plot(rows["l0"], rows[metric], line, color=shade, label=text)
            panel.set_xscale("log", base=2)
            label(panel, title=name, x="active codes per unit, L0 (log scale)", y=name)
        axes[0].set_yscale("log")
        axes[1].set_ylim(bottom=-0.1, top=1.05)
        axes[1].legend(loc="lower right")
        save(canvas, path)
