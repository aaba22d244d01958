"""The curve of rate and fidelity, on a tiny zoo with untrained autoencoders of two sizes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from studies.rate_fidelity import rate_fidelity as rate
from studies.rate_fidelity.evaluate_rate_fidelity import main
from wscore.autoencoder.evaluation.evaluate import AutoencoderResults, evaluate
from wscore.autoencoder.models.autoencoder import Autoencoder, AutoencoderConfig, save_autoencoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.config import load_section, read_yaml
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
SIZES = [3.0, 6.0]
CHANGES = {
    "rate_fidelity": {"latent_bits": SIZES, "networks": 4}, "data": {},
    "tokens": {"chunk_size": 40, "validation_fraction": 0.2, "test_fraction": 0.3},
    "evaluate": {"max_networks": 2, "probe_images": 30, "bootstrap_samples": 5},
    "refine": {"steps": 2, "images": 20, "curvature_images": 0},
}  # fmt: skip
OPTIONS = ["--tokens", "tokens", "--autoencoders", "autoencoders", "--out", "results"]


@pytest.fixture
def workspace(tmp_path: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml") | read_yaml(ROOT / "studies/rate_fidelity/params.yaml")
    Path("params.yaml").write_text(json.dumps({name: {**params[name], **own} for name, own in CHANGES.items()}))
    build_cache(Zoo(tiny_zoo), load_section(TokensConfig, "tokens"), Path("tokens"))
    cache = TokenCache(Path("tokens"))
    for size in SIZES:
        network = MlpConfig(
            token_dim=cache.token_dim, max_tokens=cache.max_tokens, latent_dim=int(size), hidden_dim=8, layers=1,
            pooling="mean", positions="sinusoidal", dropout=0.0,
        )  # fmt: skip
        model = Autoencoder(AutoencoderConfig(network=network, linear=None))
        save_autoencoder(Path("autoencoders") / str(size), model, extra={})
    return tmp_path


def test_every_size_is_judged_beside_every_control(workspace: Path, tiny_zoo: Path) -> None:
    main(["--zoo", str(tiny_zoo), *OPTIONS])
    table = pd.read_csv("results/curve.csv")
    methods = {"ours", "ours_refined", "layout_pca_refined", "layout_pca", "pca", "quantized", "pruned_int4", "noise"}
    for size in SIZES:
        part = table[table["latent_bits"] == size].set_index("method")
        assert methods <= set(part.index)
        assert part.loc["ours", "stored_floats"] == part.loc["quantized", "stored_floats"] == size + 1
        assert part.loc[sorted(methods), ["agreement", "accuracy_change", "r2"]].notna().all(axis=None)
    for metric in ("agreement", "accuracy_change"):
        wide = pd.read_csv(f"results/{metric}.csv")
        assert wide["latent_bits"].tolist() == SIZES
        own = table[table["method"] == "layout_pca"].sort_values(by="latent_bits")
        assert wide["layout_pca"].tolist() == pytest.approx(own[metric].tolist())
    assert Path("results/curve.png").read_bytes().startswith(b"\x89PNG")


def test_sizes_that_are_done_are_not_judged_again_after_an_interruption(
    workspace: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["--zoo", str(tiny_zoo), *OPTIONS])
    whole = Path("results/curve.csv").read_text()
    shutil.rmtree("results")
    calls: list[int] = []

    def interrupted(*args: Any, **kwargs: Any) -> AutoencoderResults:
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(rate, "evaluate", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["--zoo", str(tiny_zoo), *OPTIONS])
    assert not Path("results").exists()
    main(["--zoo", str(tiny_zoo), *OPTIONS])
    assert len(calls) == 3  # the second size alone
    assert Path("results/curve.csv").read_text() == whole
    assert not list(Path(".cache").rglob("*.json"))


def test_a_missing_size_stops_the_stage_without_output(workspace: Path, tiny_zoo: Path) -> None:
    Path("autoencoders/6.0/decoder/config.json").unlink()
    with pytest.raises(SystemExit, match=r"autoencoders/6\.0/decoder"):
        main(["--zoo", str(tiny_zoo), *OPTIONS])
    assert not Path("results").exists()
