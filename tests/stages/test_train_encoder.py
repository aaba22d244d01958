"""The stages that train the weight encoder and encode all networks with it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages.cache_representations import main as cache_representations
from stages.train_decoder import main as train_decoder
from stages.train_encoder import main as train_encoder
from wscore.config import read_yaml
from wscore.encoder.decoder import WeightDecoder
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.errors import ModelError
from wscore.heads.dataset import read_head_data
from wscore.io import read_json
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import load_model, read_model_config, save_model
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[2] / "params.yaml"
TOKENS = TokensConfig(
    granularity="neuron", chunk_size=64, max_tokens=12, align="none", normalization="layer", unseen_widths={},
    validation_fraction=0.2, test_fraction=0.2, seed=0,
)  # fmt: skip
TRAIN = ["--zoo", "zoo", "--tokens", "tokens", "--history", "history.csv", "--metrics", "encoder.json"]


@pytest.fixture(scope="module")
def workspace(make_tiny_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks cut into windows, an encoder of them and its representations."""
    folder = tmp_path_factory.mktemp("encoder")
    build_cache(Zoo(make_tiny_zoo(folder / "zoo", runs=4)), TOKENS, folder / "tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(latent_dim=6)
        train_encoder([*TRAIN, "--out", "models/encoder"])
        cache_representations([*TRAIN[:4], "--encoder", "models/encoder", "--out", "representations"])
    return folder


def write_params(latent_dim: int) -> None:
    shipped = read_yaml(PARAMS)
    small = {"probes": 10, "probe_steps": 2, "hidden_dim": 8, "layers": 1, "epochs": 2, "batch_size": 8}
    content = {"encoder": shipped["encoder"] | small, "features": shipped["features"], "data": shipped["data"]}
    tiny = {"memory": 2, "hidden_dim": 8, "rank": 8, "heads": 2, "exemplars": 2}
    short = {"choice_steps": 10, "steps": 10, "images": 16, "step_images": 4}
    content["decoder"] = shipped["decoder"] | tiny | short
    Path("params.yaml").write_text(json.dumps(content | {"ae": shipped["ae"] | {"latent_dim": latent_dim}}))


def test_the_length_of_latents_is_that_of_the_autoencoder(workspace: Path) -> None:
    encoder = WeightEncoder.from_folder(workspace / "models/encoder")
    assert encoder.latent_dim == 6
    assert sorted(encoder.layouts.known) == TokenCache(workspace / "tokens").trained_layouts()
    assert len(pd.read_csv(workspace / "history.csv")) == 2
    metrics = read_json(workspace / "encoder.json")["encoder"]
    assert metrics["epochs"] == 2
    assert metrics["validation_loss"] > 0


def test_every_network_of_the_zoo_has_its_latent(workspace: Path) -> None:
    zoo, encoder = Zoo(workspace / "zoo"), WeightEncoder.from_folder(workspace / "models/encoder")
    data = read_head_data(workspace / "representations", zoo)
    assert sorted(data.table["row"]) == list(range(len(zoo)))
    assert data.encoder == encoder.identity
    for place in range(0, len(zoo), 5):
        encoding = encoder.encode_network(zoo.state_dict(int(data.table["row"].iloc[place])))
        np.testing.assert_allclose(data.latents[place], encoding.latents.numpy(), atol=1e-4)
        assert 0 < data.table["inside"].iloc[place] <= 1
    assert {"statistics", "spectra", "probes"} == set(data.blocks)
    assert data.names("statistics")[0].startswith("bias[-1].")
    assert all(name.startswith("chain.") for name in data.names("probes"))


def test_a_decoder_makes_networks_of_layouts_in_and_out_of_the_zoo(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    options = ["--history", "decoder.csv", "--metrics", "decoder.json", "--out", "models/decoder"]
    train_decoder([*TRAIN[:4], "--encoder", "models/encoder", *options])
    zoo, encoder = Zoo("zoo"), WeightEncoder.from_folder(Path("models/encoder"))
    decoder = load_model(Path("models/decoder"), WeightDecoder)
    assert read_model_config(Path("models/decoder"))["encoder"] == encoder.identity
    latent = encoder.encode(zoo.state_dict(0))[None]
    for layout in (zoo.layout(0), zoo.layout(1)):
        assert decoder.decode(latent, layout).isfinite().all()
    metrics = read_json(Path("decoder.json"))["decoder"]
    assert 0 <= metrics["validation_agreement"] <= 1
    assert metrics["train_loss"] == pytest.approx(pd.read_csv("decoder.csv")["train_loss"].min())
    layout, state = zoo.layout(0), zoo.state_dict(0)
    whole = WeightEncoder.from_folder(Path("models/encoder"), decoder=Path("models/decoder"))
    decoded = whole.decode(whole.encode(state), layout)
    assert torch.equal(
        decoded[layout.tensors[0].name].flatten(), decoder.decode(latent, layout)[0, : layout.tensors[0].size]
    )
    with pytest.raises(ModelError, match="the weight encoder has no decoder"):
        encoder.decode(latent[0], layout)
    save_model(Path("another"), decoder, extra={"encoder": "f00"})
    with pytest.raises(ModelError, match="was trained with another encoder"):
        WeightEncoder.from_folder(Path("models/encoder"), decoder=Path("another")).decode(latent[0], layout)


def test_same_bytes_again(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    train_encoder([*TRAIN, "--out", "again"])
    for file in Path("models/encoder").iterdir():
        assert file.read_bytes() == (Path("again") / file.name).read_bytes(), file.name


def test_a_missing_encoder_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    with pytest.raises(SystemExit, match="cache_representations: nothing: no model here"):
        cache_representations([*TRAIN[:4], "--encoder", "nothing", "--out", "other"])
    assert not Path("other").exists()
