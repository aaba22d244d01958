"""Plots of a sparse dictionary: training, codes, single features, steering, sparsity vs fidelity."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wscore.autoencoder.evaluation.plots import draw_agreement_by_family, draw_errors, draw_rebuilt_accuracy
from wscore.plots.style import BLUE, colour, figure, label, legend_below, panels, save, unavailable
from wscore.plots.training_curves import draw_curves, read_history
from wscore.sae.evaluation.feature_images import Portrait

PARTS = {"loss": "total", "reconstruction": "reconstruction", "sparsity": "sparsity"}
PER_PAGE, ACROSS = 12, 4
DRAWINGS = {"accuracy": draw_rebuilt_accuracy, "agreement": draw_agreement_by_family, "errors": draw_errors}


def draw_sae_training(history: Path, path: Path) -> None:
    """Write a PNG of total loss, reconstruction and sparsity by epoch, on the training and the validation split."""
    tables = {metric: read_history(history, metric) for metric in PARTS}
    shown = [
        metric for metric, table in tables.items() if table[f"train_{metric}"].to_numpy().any()
    ]  # TopK has no sparsity loss
    with panels(len(shown), title="Sparse dictionary: training", panel=(3.8, 3.0)) as (canvas, axes):
        for metric, panel in zip(shown, axes, strict=True):
            draw_curves(panel, tables[metric], metric)
            label(panel, title=PARTS[metric], x="epoch", y=metric)
        legend_below(canvas, axes)
        save(canvas, path)


def draw_codes(latents: pd.DataFrame, counts: np.ndarray, errors: np.ndarray, path: Path) -> None:
    """Write a PNG of four panels: densities of latents, active codes per row, errors of rows, mean activations.

    Args:
        latents: columns density and activation, one row per latent.
        counts: active codes of each row.
        errors: mean squared error of each row.
        path: of the PNG.
    """
    with figure(rows=2, columns=2, title="Codes of held-out rows") as (canvas, axes):
        density = latents["density"].to_numpy(float)
        dead = int((density == 0).sum())
        if (density > 0).any():
            axes[0].hist(np.log10(density[density > 0]), bins=30, color=BLUE)
        label(
            axes[0], title=f"density of latents ({dead} of {len(density)} dead)", x="log10 share of rows", y="latents"
        )
        axes[1].hist(counts, bins=np.arange(counts.max() + 2) - 0.5, color=BLUE)
        label(axes[1], title=f"active codes per row (mean {counts.mean():.1f})", x="codes", y="rows")
        axes[2].hist(np.log10(np.maximum(errors, 1e-12)), bins=40, color=BLUE)
        label(axes[2], title="error of rows", x="log10 mean squared error", y="rows")
        axes[3].plot(np.sort(latents["activation"].to_numpy(float))[::-1], color=BLUE)
        label(axes[3], title="mean activation of latents", x="latents, most active first", y="mean code")
        save(canvas, path)


def draw_features(portraits: Sequence[Portrait], folder: Path) -> None:
    """Write features-01.png, features-02.png, ..., twelve features on each page."""
    for start in range(0, max(1, len(portraits)), PER_PAGE):
        page = portraits[start : start + PER_PAGE]
        rows = max(1, -(-len(page) // ACROSS))
        with figure(rows=rows, columns=ACROSS, title="Features of the dictionary", panel=(3.4, 3.2)) as (canvas, axes):
            for panel in axes:
                panel.set_axis_off()
            for portrait, panel in zip(page, axes, strict=False):
                _draw_portrait(panel, portrait)
            if not page:
                unavailable(axes[0], "there is no live feature to plot")
            save(canvas, folder / f"features-{start // PER_PAGE + 1:02d}.png")


def draw_steering(table: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the share of changed predictions and the accuracy after steering, per feature vs random directions.

    Args:
        table: columns latent, accuracy_rebuilt, and accuracy_* and changed_* of feature and random.
        path: of the PNG.
    """
    with figure(columns=2, title="Steered held-out networks", panel=(5.0, 3.4)) as (canvas, axes):
        if table.empty:
            unavailable(axes[0], "no held-out network could be steered")
            axes[1].set_axis_off()
        else:
            table = table.sort_values(by="changed_feature", ascending=False)
            places = np.arange(len(table))
            for metric, panel in zip(("changed", "accuracy"), axes, strict=True):
                panel.bar(places - 0.2, table[f"{metric}_feature"], 0.4, color=BLUE, label="feature")
                panel.bar(places + 0.2, table[f"{metric}_random"], 0.4, color=colour("mean"), label="random, same norm")
                panel.set_xticks(places, [str(latent) for latent in table["latent"]], rotation=60)
                panel.grid(visible=False, axis="x")
            axes[1].plot(
                places, table["accuracy_rebuilt"], "_", color=colour("truth"), markersize=12, label="not steered"
            )
            label(axes[0], x="latent", y="changed predictions (share of images)")
            label(axes[1], x="latent", y="test accuracy")
            legend_below(canvas, axes)
        save(canvas, path)


def _draw_portrait(panel: Axes, portrait: Portrait) -> None:
    limit = max((float(np.nanmax(np.abs(image))) for image in portrait.images), default=1.0) or 1.0
    widths = np.array(
        [max(image.shape[1] / image.shape[0], 1.0) if image.shape[0] > 1 else 0.3 for image in portrait.images]
    )
    lefts = np.concatenate([[0.0], np.cumsum(widths / widths.sum())])
    for image, name, left, right in zip(portrait.images, portrait.names, lefts[:-1], lefts[1:], strict=True):
        inset = panel.inset_axes((left, 0.0, 0.92 * (right - left), 0.95))
        column = image.T if image.shape[0] == 1 else image
        inset.imshow(column, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="equal" if image.shape[0] > 1 else "auto")
        inset.set(xticks=[], yticks=[])
        inset.grid(visible=False)
        if len(portrait.names) > 2:  # many narrow parts
            inset.set_xlabel(name.rpartition(".")[2], fontsize=6, rotation=35, ha="right")
        else:
            inset.set_xlabel(name, fontsize=6)
    panel.set_title(portrait.title, fontsize=7)
