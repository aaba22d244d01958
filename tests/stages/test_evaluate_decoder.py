"""Networks of the decoder are evaluated between widths, of drawn latents, and after a refinement."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from studies.latents.evaluate_decoder import REFINED, main
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.models.autoencoder import Autoencoder, AutoencoderConfig, save_autoencoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.encoder.config import EncoderConfig
from wscore.encoder.decoder import DecoderShape, WeightDecoder
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import save_model
from wscore.zoo.store import Zoo

PARAMS = """
data: { dataset: digits, root: null, revision: null, size: null, max_train: null, max_test: null, normalize: null, factories: {} }
evaluate: { max_networks: null, probe_images: 50, bootstrap_samples: 10, seed: 0 }
decoded:
  { pairs: 2, steps: 3, bands: [0.0, 1.0], samples: 2, refined: 2, refinement: [0, 2], batch_size: 8, lr: 0.01, seed: 0 }
"""
ENCODER = EncoderConfig(
    distilled=0.5, probes=10, probe_steps=1, hidden_dim=8, layers=1, dropout=0.0, noise=0.1, blank=0.1, epochs=1,
    batch_size=16, lr=1e-3, weight_decay=0.01, patience=3, seed=0,
)  # fmt: skip


@pytest.fixture
def zoo(make_tiny_zoo: Callable[..., Path], tmp_path: Path) -> Path:
    return make_tiny_zoo(tmp_path / "zoo", families=("mlp",), runs=16, widths=({"mlp": (5,)}, {"mlp": (7,)}))


@pytest.fixture
def workspace(tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Untrained models over perceptrons of several widths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    config = TokensConfig(
        granularity="neuron", chunk_size=80, max_tokens=512, align="weights", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.4, seed=0,
    )  # fmt: skip
    build_cache(Zoo(zoo), config, tmp_path / "tokens")
    cache = TokenCache(tmp_path / "tokens")
    network = MlpConfig(
        token_dim=cache.token_dim, max_tokens=cache.max_tokens, latent_dim=4, hidden_dim=8, layers=1,
        pooling="mean", positions="sinusoidal", dropout=0.0,
    )  # fmt: skip
    save_autoencoder(tmp_path / "autoencoder", Autoencoder(AutoencoderConfig(network=network)), extra={})
    (tmp_path / "codec").mkdir()
    WeightCodec().save(tmp_path / "codec")
    encoder, _ = WeightEncoder.fit(Zoo(zoo), cache.splits(len(Zoo(zoo))), ENCODER, latent_dim=8)
    encoder.save(tmp_path / "encoder")
    shape = DecoderShape(
        latent_dim=8, memory=2, hidden_dim=8, rank=8, layers=1, heads=2, exemplars=1,
        layouts=tuple(cache.layouts[key] for key in cache.trained_layouts()),
    )  # fmt: skip
    identity = WeightEncoder.from_folder(tmp_path / "encoder").identity
    save_model(tmp_path / "decoder", WeightDecoder(shape), extra={"encoder": identity})
    return tmp_path


def test_decoded_networks_are_evaluated_beside_baselines(
    workspace: Path, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: name for name in ("tokens", "autoencoder", "codec", "encoder", "decoder")}
    options = {"zoo": str(zoo), **places, "out": "results"}
    main([word for name, value in options.items() for word in (f"--{name}", value)])
    assert "half way between widths: accuracy" in capsys.readouterr().out
    paths = pd.read_csv(workspace / "results/paths.csv")
    assert paths["t"].tolist() == [0.0, 0.5, 1.0]
    ends = paths.iloc[0]
    assert ends["straight"] == pytest.approx(ends["originals"], abs=0.021), (
        "a straight line starts at the first network"
    )
    draws = pd.read_csv(workspace / "results/draws.csv")
    assert {"encoded", "gaussian", "typical", "mean", "trained"} < set(draws)
    refined = pd.read_csv(workspace / "results/refined.csv").set_index("method")
    assert list(refined.index) == [*REFINED, "random", "original"]
    assert refined.loc["original", "accuracy_0"] > refined.loc["random", "accuracy_0"]
    assert refined.loc["original", "agreement_0"] == 1 > refined.loc["random", "agreement_0"]
    assert (workspace / "results/decoded.png").read_bytes().startswith(b"\x89PNG")
