"""The stage that judges a dictionary: all figures stand beside their controls, for weights and for latents."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages import evaluate_sae, train_autoencoder, train_sae
from wscore.config import read_yaml
from wscore.hub.checksums import write_checksums
from wscore.publish.pretrained import PublishedDictionary
from wscore.sae.evaluation import explain as features
from wscore.sae.evaluation.evaluate import open_dictionary
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
CHANGES = {
    "sae": {"latent_dim": 12, "k": 3, "epochs": 2, "batch_size": 64, "dead": "none"},
    "ae": {"latent_dim": 5, "hidden_dim": 8, "layers": 1, "epochs": 1, "batch_size": 8},
    "evaluate": {"probe_images": 40, "bootstrap_samples": 5},
    "explain": {"shuffles": 2, "steered": 2, "networks": 3, "drawn": 5},
    "data": {},
}
METHODS = ["ours", "mean_network", "pca", "kind_pca", "top_entries"]


@pytest.fixture
def workspace(make_tiny_zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Zoo, tokens and a tiny autoencoder."""
    monkeypatch.chdir(tmp_path)
    make_tiny_zoo(tmp_path / "zoo", families=("mlp", "cnn_bn"), runs=6)
    config = TokensConfig(
        granularity="neuron", chunk_size=80, max_tokens=512, align="none", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.4, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tmp_path / "zoo"), config, tmp_path / "tokens")
    monkeypatch.setattr(features, "RARE", 1)  # twelve networks are too few to tell anything
    write_params()
    train_autoencoder.main(
        ["--zoo", "zoo", "--tokens", "tokens", "--out", "ae", "--history", "h.csv", "--metrics", "ae.json"]
    )
    return tmp_path


def write_params(**sae: object) -> None:
    params = read_yaml(ROOT / "params.yaml")
    content = {name: {**params[name], **changes} for name, changes in CHANGES.items()}
    content["sae"].update(sae)
    Path("params.yaml").write_text(json.dumps(content))


def run() -> dict:
    data = ["--tokens", "tokens", "--autoencoder", "ae"]
    train_sae.main([*data, "--zoo", "zoo", "--out", "sae", "--history", "history.csv", "--metrics", "sae.json"])
    evaluate_sae.main([
        *data, "--zoo", "zoo", "--sae", "sae", "--history", "history.csv",
        "--metrics", "test.json", "--plots", "plots",
    ])  # fmt: skip
    return json.loads(Path("test.json").read_text())["sae_test"]


@pytest.mark.filterwarnings("ignore:.*of the latents are dead:wscore.errors.WscoreWarning")
@pytest.mark.filterwarnings("ignore:.*input columns are constant:wscore.errors.WscoreWarning")
def test_judges_explains_and_steers(workspace: Path) -> None:
    for kind in ("tokens", "representations", "neurons"):
        write_params(input=kind)
        found = run()
        assert [name for name in found if name in METHODS] == METHODS
        assert {"fvu", "agreement", "accuracy", "r2"} <= set(found["ours"])
        assert {"fvu", "l0", "hoyer", "dead_fraction", "error_mean", "error_std", "sparsity_level"} <= set(
            found["codes"]
        )
        assert found["steering"]["features"] == 2
        assert found["features"]["alive"] <= 12
        assert "discovered_all_shuffled" in found["features"]
        tables = {path.stem: pd.read_csv(path) for path in Path("plots").glob("*.csv")}
        assert len(tables["latents"]) == 12
        assert {"dictionary", "pca", "mean_network"} <= set(tables["accuracy"])
        assert set(tables["features"]["scope"]) == {"all", "same_shapes"}
        pictures = {path.name for path in Path("plots").glob("*.png")}
        assert {"codes.png", "features-01.png", "steering.png", "training.png", "accuracy.png"} <= pictures
        if kind != "representations":
            check_published(kind)
    check_refused()


def check_published(kind: str) -> None:
    """A published dictionary gives the codes that the cache gives."""
    write_checksums(Path("sae"))
    zoo, published = Zoo(Path("zoo")), PublishedDictionary.from_pretrained("sae")
    dictionary = open_dictionary(Path("sae"), TokenCache(Path("tokens")), Path("ae"))
    rows = dictionary.rows.rows_of_networks(np.array([3]))
    batch = dictionary.rows.batch(rows)
    row = int(dictionary.rows.networks[3])
    state = zoo.layout(row).unflatten(torch.from_numpy(zoo.weights([row])[0]))
    codes = published.encode(state)
    with torch.no_grad():
        assert torch.allclose(codes.latents, dictionary.model.encode(batch.values, batch.mask), atol=1e-5), kind
    rebuilt = published.decode(codes, zoo.layout(row))
    assert {name: tensor.shape for name, tensor in rebuilt.items()} == {n: t.shape for n, t in state.items()}


def check_refused() -> None:
    """A dictionary of other tokens stops the stage before it writes anything."""
    content = json.loads(Path("sae/config.json").read_text())
    Path("sae/config.json").write_text(json.dumps({**content, "tokens": "0" * 16}))
    Path("test.json").unlink()
    with pytest.raises(SystemExit, match="was trained on other tokens"):
        evaluate_sae.main([
            "--tokens", "tokens", "--zoo", "zoo", "--autoencoder", "ae",
            "--sae", "sae", "--history", "history.csv", "--metrics", "test.json", "--plots", "other",
        ])  # fmt: skip
    assert not Path("test.json").exists()
    assert not Path("other").exists()
