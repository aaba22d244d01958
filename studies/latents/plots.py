"""Plots of interpolation paths and of networks sampled in latent space."""

from pathlib import Path

import numpy as np
import pandas as pd

from wscore.plots.style import GREEN, HUES, colour, figure, label, save

PATHS = {
    "latent": "latent",
    "latent_residual": "latent, ends exact",
    "aligned": "weights, aligned",
    "unaligned": "weights, not aligned",
}
DRAWS = {
    "kde": "kernel density",
    "gaussian": "fitted Gaussian",
    "prior": "N(0, 1)",
    "mean_network": "mean network",
    "train_noise": "training network + noise",
    "train": "training networks",
}
ACROSS = {"latent": "latent, layout of the first", "straight": "weights, resized", "originals": "both networks"}
DRAWN = {
    "encoded": "decoded training networks",
    "gaussian": "fitted Gaussian, decoded",
    "typical": "typical network",
    "mean": "mean network",
    "trained": "training networks",
}
REFINED = {
    "original": "original",
    "latent_decoder": "decoder",
    "codec_coordinates": "codec coordinates",
    "ours": "autoencoder",
    "pca": "PCA",
    "typical_network": "typical network",
    "mean_network": "mean network",
    "random": "new network",
}
#: Colours of the pictures of the decoder: its networks and those of our other codes are blue, trained networks green.
TINTS = {
    **dict.fromkeys(("latent", "encoded", "latent_decoder"), HUES["ours"][0]),
    **dict.fromkeys(("gaussian", "codec_coordinates"), HUES["ours"][1]),
    "ours": HUES["ours"][2],
    **dict.fromkeys(("straight", "pca"), HUES["learned"][1]),
    **dict.fromkeys(("typical", "typical_network"), HUES["reference"][0]),
    **dict.fromkeys(("mean", "mean_network"), HUES["reference"][2]),
    "random": HUES["reference"][4],
    **dict.fromkeys(("originals", "original", "trained"), GREEN),
}
PANELS = {
    "accuracy": "test accuracy, mean",
    "novelty": "novelty (held-out = 1)",
    "diversity": "diversity (trained = 1)",
}


def draw_paths(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the mean accuracy along every path.

    Args:
        table: columns t and one per path.
        path: of the PNG.
    """
    with figure(title="Between two held-out networks", panel=(6.4, 3.8)) as (canvas, (axes,)):
        for number, (name, text) in enumerate(PATHS.items()):
            tint, style = colour("ours" if name == "latent" else name, number), "--" if name == "aligned" else "-"
            axes.plot(
                table["t"], table[name], color=tint, linestyle=style, label=text
            )  # dashed, since lines may coincide
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        label(axes, x="interpolation coefficient", y="test accuracy, mean over pairs")
        save(canvas, path)


def draw_samples(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of accuracy, novelty and diversity of sampled networks by band.

    Args:
        table: columns low, high, method, accuracy, novelty, diversity.
        path: of the PNG.
    """
    bands = table[["low", "high"]].drop_duplicates().itertuples(index=False, name=None)
    names = [f"{low:.0%} to {high:.0%}" for low, high in bands]
    methods = [name for name in DRAWS if name in set(table["method"])]
    width = 0.8 / len(methods)
    with figure(columns=len(PANELS), title="New networks by band of training accuracy", panel=(4.4, 3.6)) as (
        canvas,
        axes,
    ):
        for (metric, text), panel in zip(PANELS.items(), axes, strict=True):
            for number, method in enumerate(methods):
                values = table[table["method"] == method][metric]
                places = np.arange(len(values)) + (number - (len(methods) - 1) / 2) * width
                panel.bar(
                    places,
                    values,
                    width,
                    color=colour("ours" if method == "kde" else method, number),
                    label=DRAWS[method],
                )
            panel.set_xticks(np.arange(len(names)), names)
            panel.grid(visible=False, axis="x")
            label(panel, title=text, x="band of accuracy on training images", y=text)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(canvas, path)


def draw_decoded(paths: pd.DataFrame, draws: pd.DataFrame, refined: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the accuracy of networks that the decoder of the weight encoder makes.

    Args:
        paths: columns t, latent, straight and originals.
        draws: columns low, high and one per method.
        refined: columns method and accuracy_<steps>.
        path: of the PNG.
    """
    with figure(columns=3, title="Networks of the decoder of the weight encoder", panel=(4.4, 3.6)) as (canvas, axes):
        for name, text in ACROSS.items():
            axes[0].plot(paths["t"], paths[name], color=TINTS[name], label=text)
        label(axes[0], title="between two widths", x="interpolation coefficient", y="test accuracy, mean over pairs")
        places, width = np.arange(len(draws)), 0.8 / len(DRAWN)
        for number, (name, text) in enumerate(DRAWN.items()):
            shift = (number - (len(DRAWN) - 1) / 2) * width
            axes[1].bar(places + shift, draws[name], width, color=TINTS[name], label=text)
        bands = draws[["low", "high"]].itertuples(index=False, name=None)
        axes[1].set_xticks(places, [f"{low:.0%} to {high:.0%}" for low, high in bands])
        label(axes[1], title="new networks", x="band of accuracy", y="test accuracy, mean")
        steps = [name for name in refined if name.startswith("accuracy_")]
        counts, rows = [int(name.removeprefix("accuracy_")) for name in steps], refined.set_index("method")
        for name, text in REFINED.items():
            axes[2].plot(counts, rows.loc[name, steps], color=TINTS[name], label=text)
        label(axes[2], title="refined on training images", x="steps of Adam", y="test accuracy, mean")
        for panel in axes:
            panel.legend(fontsize=7)
        save(canvas, path)
