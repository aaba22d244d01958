"""Stages train_autoencoder and cache_representations on a tiny zoo."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages import train_autoencoder
from wscore.autoencoder.latents import iterate_latents
from wscore.autoencoder.models.autoencoder import Encoder
from wscore.config import read_yaml
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import load_model
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
AE = [
    "--zoo",
    "zoo",
    "--tokens",
    "tokens",
    "--out",
    "models/autoencoder",
    "--history",
    "history.csv",
    "--metrics",
    "ae.json",
]
FEATURES = {"probes": 2, "probe_steps": 1}
SMALL = {"latent_dim": 5, "hidden_dim": 16, "layers": 1, "heads": 2, "epochs": 2, "batch_size": 8}


@pytest.fixture
def workspace(tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(SMALL)
    (tmp_path / "zoo").symlink_to(tiny_zoo)
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=14, align="none", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tiny_zoo), config, tmp_path / "tokens")
    return tmp_path


def write_params(changes: dict[str, object]) -> None:
    params = read_yaml(ROOT / "params.yaml")
    content = {"ae": {**params["ae"], **changes}, "data": params["data"], "features": params["features"] | FEATURES}
    Path("params.yaml").write_text(json.dumps(content))


def test_an_encoder_is_trained_and_encodes_every_network_once(workspace: Path, tiny_zoo: Path) -> None:
    train_autoencoder.main(AE)
    figures = json.loads(Path("ae.json").read_text())["ae"]
    assert figures["epochs"] == 2
    assert list(pd.read_csv("history.csv")["epoch"]) == [1, 2]
    cache, encoder = TokenCache(workspace / "tokens"), load_model(Path("models/autoencoder/encoder"), Encoder)
    assert (cache.table["window"] > 0).any()
    firsts, latents = (np.concatenate(parts) for parts in zip(*iterate_latents(encoder, cache), strict=True))
    assert list(cache.table["row"].to_numpy()[firsts]) == list(range(len(Zoo(tiny_zoo))))
    for row in (0, 7, len(latents) - 1):
        items = np.flatnonzero(cache.table["row"] == row)
        with torch.no_grad():
            expected = encoder(cache.batch(items)).mean(0).numpy()
        assert np.allclose(latents[row], expected, atol=1e-5)


def test_the_same_run_twice_gives_the_same_bytes(workspace: Path) -> None:
    first, second = [], []
    for found in (first, second):
        train_autoencoder.main(AE)
        found += [path.read_bytes() for path in sorted((workspace / "models").rglob("*")) if path.is_file()]
    assert first == second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": "sixty"}, "ae.latent_dim"),
        ({"latent_dim": -1}, "ae.latent_dim"),
        ({"arch": "transformer", "heads": 3}, "not a multiple of heads"),
        ({"linear_path": "pca"}, "ae.linear_path: no such parameter"),
    ],
)
def test_bad_parameters_are_named(workspace: Path, changes: dict[str, object], message: str) -> None:
    write_params({**SMALL, **changes})
    with pytest.raises(SystemExit, match=message):
        train_autoencoder.main(AE)
    assert not Path("models").exists()
