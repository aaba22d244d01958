"""A folder with parameters for a tiny recording, and the stages of forecasting run in it."""

import json
from pathlib import Path

from ruamel.yaml import YAML

from stages import evaluate_predictor, train_base, train_predictor
from wscore.config import PARAMS, read_yaml
from wscore.presets import merge

ROOT = Path(__file__).parents[2]
TINY = """
base: {network: mlp, size: 8, max_train: 100, max_test: 50, batch_size: 16, epochs: 8, snapshots_per_epoch: 2,
  optimizers: [{name: momentum, lr: 0.1}],
  seeds: [0, 1], probe_images: 40}
predictor: {validation_runs: 0, stride: 2, augment_strides: [1], extrapolation_steps: 2, model_dim: 8, layers: 1, heads: 2,
  predictor_epochs: 3}
forecast: {probe_images: 30, scored_windows: 2, recovery_steps: [2]}
"""


def write_params(folder: Path, changes: str = "") -> None:
    """Write the defaults with the values of a tiny recording, and further changes as YAML; JSON is YAML."""
    content = read_yaml(ROOT / PARAMS)
    for text in filter(None, (TINY, changes)):
        merge(content, YAML(typ="safe").load(text), where="changes")
    (folder / PARAMS).write_text(json.dumps(content), encoding="utf-8")


def run_base(out: str = "trajectories") -> None:
    train_base.main(["--out", out, "--metrics", "metrics/base.json"])


def run_predictor(out: str = "predictor") -> None:
    train_predictor.main([
        "--trajectories", "trajectories", "--out", out, "--history", f"{out}-history.csv",
        "--metrics", f"metrics/{out}.json",
    ])  # fmt: skip


def run_evaluation(out: str = "plots") -> None:
    evaluate_predictor.main([
        "--trajectories", "trajectories", "--predictor", "predictor",
        "--history", "predictor-history.csv", "--metrics", f"metrics/{out}.json", "--plots", out,
    ])  # fmt: skip
