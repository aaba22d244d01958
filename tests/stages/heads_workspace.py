"""A workspace with a tiny zoo and representations of it, for the stages of the property heads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wscore.config import convert, read_yaml
from wscore.encoder.config import EncoderConfig
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.encoder.weight_statistics import statistics_table
from wscore.io import read_json, write_json
from wscore.training.model_folder import read_model_config
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[2] / "params.yaml"
SMALL = {
    "patterns": ["has_residual", "has_dropout", "activation_relu"],
    "continuous": {"lr": "log", "weight_decay": "log"},
    "discrete": ["optimizer"],
    "features": "latent",
    "members": ["network", "boosting"],
    "copies": 1,
    "boosting_rounds": 3,
    "hidden_dim": 8,
    "layers": 1,
    "epochs": 3,
    "batch_size": 8,
}
ENCODER = {"probes": 10, "probe_steps": 1, "hidden_dim": 8, "layers": 1, "epochs": 1, "batch_size": 8}
SPLITS = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4  # of the runs


def write_params(folder: Path, **heads: object) -> None:
    """Write params.yaml with small heads; JSON is YAML."""
    shipped = read_yaml(PARAMS)
    judged = shipped["evaluate_heads"] | {"bootstrap_samples": 5, "boosting_iterations": 3}
    (folder / "params.yaml").write_text(
        json.dumps(
            {"features": shipped["features"], "heads": shipped["heads"] | SMALL | heads, "evaluate_heads": judged}
        )
    )


def write_representations(zoo: Path, folder: Path) -> None:
    """Write latents made of the statistics of the output layer, split by run, and the encoder that they are said to be of."""
    networks = Zoo(zoo)
    values, names = statistics_table(networks)
    last = [number for number, name in enumerate(names) if "[-1]" in name and name.startswith(("linear", "bias"))]
    table = networks.table[["model_id", "run_id", "checkpoint"]].copy()
    runs = dict(zip(sorted(set(table["run_id"])), SPLITS, strict=True))
    table["split"] = table["run_id"].map(runs)
    table["inside"] = 0.5
    table["latent"] = list(values[:, last].astype(np.float32))
    config = convert(read_yaml(PARAMS)["encoder"] | ENCODER, EncoderConfig, where="encoder")
    encoder, _ = WeightEncoder.fit(networks, table["split"].to_numpy(), config, latent_dim=4)
    encoder.save(folder.parent / "encoder")
    folder.mkdir(parents=True)
    table.iloc[::-1].to_parquet(folder / "representations.parquet")  # the order of the zoo is not to be relied on
    manifest = {
        "zoo": networks.identity,
        "tokens": "t",
        "encoder": read_model_config(folder.parent / "encoder")["sha256"],
        "latent_dim": len(last),
    }
    write_json(folder / "manifest.json", manifest)


def read_representations(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows and the manifest of representations."""
    return pd.read_parquet(folder / "representations.parquet"), read_json(folder / "manifest.json")
