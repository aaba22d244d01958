import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.evaluate_autoencoder import main
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.autoencoder.models.autoencoder import Autoencoder, AutoencoderConfig, save_autoencoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.encoder.config import EncoderConfig
from wscore.encoder.decoder import DecoderShape, WeightDecoder
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.networks.datasets import as_tasks
from wscore.networks.images import Images
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import save_model
from wscore.zoo.store import Zoo

PARAMS = """
data: { dataset: digits, root: null, revision: null, size: null, max_train: null, max_test: null, normalize: null, factories: {} }
evaluate:
  { max_networks: null, probe_images: 50, bootstrap_samples: 10, seed: 0 }
"""
TOKENS = TokensConfig(
    granularity="neuron", chunk_size=32, max_tokens=512, align="none", normalization="layer",
    unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
)  # fmt: skip

ENCODER = EncoderConfig(
    distilled=0.5, probes=10, probe_steps=1, hidden_dim=8, layers=1, dropout=0.0, noise=0.1, blank=0.1, epochs=1,
    batch_size=16, lr=1e-3, weight_decay=0.01, patience=3, seed=0,
)  # fmt: skip
DECODER = DecoderShape(latent_dim=12, memory=2, hidden_dim=8, rank=8, layers=1, heads=2, exemplars=1, layouts=())


@pytest.fixture
def workspace(tmp_path: Path, tiny_zoo: Path, digits: Images, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained autoencoder of six numbers per network and a codec over the tiny zoo."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    build_cache(Zoo(tiny_zoo), TOKENS, tmp_path / "tokens")
    cache = TokenCache(tmp_path / "tokens")
    network = MlpConfig(**mlp(cache))
    save_autoencoder(tmp_path / "autoencoder", Autoencoder(AutoencoderConfig(network=network)), extra={})
    train = np.unique(cache.networks(cache.indices("train")))
    (tmp_path / "codec").mkdir()
    WeightCodec.fit(populations_of(Zoo(tiny_zoo), train, as_tasks(digits)), images=8).save(tmp_path / "codec")
    split = cache.splits(len(Zoo(tiny_zoo)))
    encoder, _ = WeightEncoder.fit(Zoo(tiny_zoo), split, ENCODER, latent_dim=12)
    encoder.save(tmp_path / "encoder")
    identity = WeightEncoder.from_folder(tmp_path / "encoder").identity
    save_model(tmp_path / "decoder", WeightDecoder(DECODER), extra={"encoder": identity})
    return tmp_path


def mlp(cache: TokenCache) -> dict[str, object]:
    wanted = {
        "token_dim": cache.token_dim, "max_tokens": cache.max_tokens, "latent_dim": 6, "hidden_dim": 8, "layers": 1,
        "pooling": "mean", "positions": "sinusoidal", "dropout": 0.0,
    }  # fmt: skip
    assert set(wanted) == set(MlpConfig.__struct_fields__)
    return wanted


def run(zoo: Path) -> None:
    main(["--zoo", str(zoo), "--tokens", "tokens", "--autoencoder", "autoencoder", "--codec", "codec",
          "--encoder", "encoder", "--decoder", "decoder",
          "--metrics", "metrics/autoencoder_test.json", "--plots", "plots/autoencoder_test"])  # fmt: skip


def test_judges_the_autoencoder_beside_its_controls(
    workspace: Path, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_zoo)
    assert "held-out networks reconstructed from 6 numbers: agreement" in capsys.readouterr().out
    content = json.loads((workspace / "metrics/autoencoder_test.json").read_text())
    assert list(content) == ["autoencoder_test", "autoencoder_test_of"]
    found = content["autoencoder_test"]
    methods = [
        "ours",
        "mean_network",
        "pca",
        "layout_pca",
        "codec_coordinates",
        "latent_decoder",
        "typical_network",
        "noise",
    ]
    assert [name for name in found if name in methods] == methods
    assert found["ours"]["stored_floats"] == 7
    assert found["codec_coordinates"]["stored_floats"] == found["pca"]["stored_floats"] == 7
    assert found["codec_coordinates"]["r2"] > 0.1
    assert found["latent_decoder"]["stored_floats"] == 13
    assert found["typical_network"]["stored_floats"] == 1
    assert found["mean_network"]["diversity"] == pytest.approx(0, abs=1e-6)
    assert 0 < found["pca"]["diversity"] < 1.1
    assert set(found["ours"]) == set(found["pca"])
    tables = {
        name: pd.read_csv(workspace / f"plots/autoencoder_test/{name}.csv")
        for name in ("accuracy", "agreement", "errors")
    }
    assert len(tables["accuracy"]) == found["networks"]
    for name, table in tables.items():
        assert set(methods) <= set(table)
        assert (workspace / f"plots/autoencoder_test/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_autoencoder_stops_the_stage_without_output(workspace: Path, tiny_zoo: Path) -> None:
    (workspace / "autoencoder/decoder/config.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        run(tiny_zoo)
    assert "autoencoder/decoder" in str(stopped.value)
    assert not (workspace / "metrics").exists()
    assert not (workspace / "plots").exists()


def test_an_unknown_parameter_stops_the_stage(workspace: Path, tiny_zoo: Path) -> None:
    (workspace / "params.yaml").write_text(PARAMS.replace("probe_images: 50", "probe_images: fifty"))
    with pytest.raises(SystemExit) as stopped:
        run(tiny_zoo)
    assert "evaluate.probe_images" in str(stopped.value)
