import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from studies.latents.evaluate_latents import main
from wscore.autoencoder.models.autoencoder import Autoencoder, AutoencoderConfig, save_autoencoder
from wscore.autoencoder.models.vae import VaeConfig
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

PARAMS = """
data: { dataset: digits, root: null, revision: null, size: null, max_train: null, max_test: null, normalize: null, factories: {} }
evaluate:
  { max_networks: null, probe_images: 50, bootstrap_samples: 10, seed: 0 }
latents: { pairs: 3, steps: 3, bands: [0.0, 1.0], samples: 2, bandwidth: 0.2, seed: 0 }
"""


@pytest.fixture(scope="module")
def zoo(make_tiny_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_zoo(tmp_path_factory.mktemp("many") / "zoo", families=("mlp",), runs=24)


@pytest.fixture
def workspace(tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained VAE over perceptrons."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    config = TokensConfig(
        granularity="neuron", chunk_size=80, max_tokens=512, align="weights", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(zoo), config, tmp_path / "tokens")
    cache = TokenCache(tmp_path / "tokens")
    network = VaeConfig(
        weights=int(cache.item_weights.max()), max_tokens=cache.max_tokens, latent_dim=4, input="image", channels=2,
        levels=2, encoding="sampled", positions="sinusoidal", dropout=0.0, checkpointing=False,
    )  # fmt: skip
    save_autoencoder(tmp_path / "autoencoder", Autoencoder(AutoencoderConfig(network=network)), extra={})
    return tmp_path


def run(zoo: Path) -> None:
    main(["--zoo", str(zoo), "--tokens", "tokens", "--autoencoder", "autoencoder", "--out", "results"])


def test_it_follows_paths_and_draws_networks_beside_controls(
    workspace: Path, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(zoo)
    assert "accuracy lost between two networks" in capsys.readouterr().out
    paths = pd.read_csv(workspace / "results/paths.csv")
    assert list(paths) == ["t", "latent", "latent_residual", "aligned", "unaligned"]
    assert paths["t"].tolist() == [0.0, 0.5, 1.0]
    ends = paths.iloc[[0, -1]]
    assert ends["latent_residual"].to_numpy() == pytest.approx(ends["aligned"].to_numpy(), abs=0.011)
    assert ends["unaligned"].to_numpy() == pytest.approx(ends["aligned"].to_numpy(), abs=0.011)
    bands = pd.read_csv(workspace / "results/bands.csv").set_index("method")
    assert list(bands.index) == ["kde", "gaussian", "prior", "mean_network", "train_noise", "train"]
    assert bands.loc["train", "novelty"] == pytest.approx(0, abs=1e-3)
    assert bands.loc["mean_network", "diversity"] == 0
    assert bands.loc["train_noise", "novelty"] > 0
    found = json.loads((workspace / "results/latents.json").read_text())
    assert set(found["statistics"]) >= {"latent_std", "active_units", "kl", "posterior_std"}
    assert set(found["barriers"]) == {"latent", "latent_residual", "aligned", "unaligned"}
    for name in ("paths", "samples"):
        assert (workspace / f"results/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_bands_without_enough_networks_stop_the_stage_without_output(workspace: Path, zoo: Path) -> None:
    (workspace / "params.yaml").write_text(PARAMS.replace("[0.0, 1.0]", "[0.9999, 1.0]"))
    with pytest.raises(SystemExit, match="no band has enough training networks"):
        run(zoo)
    assert not (workspace / "results").exists()


def test_falling_bands_are_refused_by_name(workspace: Path, zoo: Path) -> None:
    (workspace / "params.yaml").write_text(PARAMS.replace("[0.0, 1.0]", "[0.5, 0.2]"))
    with pytest.raises(SystemExit, match="bands"):
        run(zoo)
