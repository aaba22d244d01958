"""Tables of the study of training signals."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from studies.encoder_signals.linear_scores import COLUMNS, SPLITS
from wscore.io import write_text
from wscore.pca import fit_pca

MARKS = ("<!-- signals: written by `make encoder-signals` -->", "<!-- end of signals -->")
NAMES = {
    "components": "no training: principal components alone",
    "none": "no training: random second half",
}


def principal_components(
    inputs: Float[Tensor, "network input"], split: np.ndarray, count: int
) -> Float[np.ndarray, "network component"]:
    """Return whitened principal components of the inputs, fitted on the training networks."""
    pca = fit_pca(lambda: [inputs[torch.from_numpy(split == "train")].numpy()], count, seed=0)
    return (inputs.numpy() - pca.mean) @ pca.basis.T / np.sqrt(np.maximum(pca.variances, 1e-12))


def signal_table(results: pd.DataFrame) -> str:
    """Return a Markdown table: a row per set of signals, means over seeds, validation / test.

    Args:
        results: a row per set, seed and split: signals, seed, split, cpu_seconds and `COLUMNS`.
    """
    titles = ("accuracy R²", "tau", "blocks F1", "optimizer F1", "activation F1", "CPU s")
    lines = [f"| signals | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for name in results["signals"].unique():
        rows = results[results["signals"] == name]
        means = {split: rows[rows["split"] == split][list(COLUMNS)].mean() for split in SPLITS}
        cells = [" / ".join(f"{means[split][column]:.3f}" for split in SPLITS) for column in COLUMNS]
        lines.append(f"| {NAMES.get(name, name)} | {' | '.join(cells)} | {rows['cpu_seconds'].mean():.0f} |")
    return "\n".join(lines) + "\n"


def update_docs(path: Path, table: str) -> None:
    """Replace the table between the marks of a Markdown file."""
    before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    write_text(path, f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}")


def sentence(results: pd.DataFrame) -> str:
    """Return the R2 of the accuracy on test networks for every set of signals."""
    test = pd.Series(results[results["split"] == "test"].groupby("signals", sort=False)["r2"].mean())
    return "R2 of the accuracy by ridge: " + ", ".join(f"{name} {value:.3f}" for name, value in test.items())
