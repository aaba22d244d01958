"""The encoder that CONTRIBUTING adds in one file and one line trains, and comes back from its folder."""

import importlib.util
import re
from pathlib import Path

import msgspec
import pytest
import torch

from tests.contract.imports import ROOT
from wscore.autoencoder.models.autoencoder import load_autoencoder, save_autoencoder
from wscore.autoencoder.models.registry import ARCHITECTURES, Sides
from wscore.autoencoder.training.train import AeConfig, train_autoencoder
from wscore.config import load_section
from wscore.errors import ConfigError
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOKENS = TokensConfig(
    granularity="neuron", chunk_size=40, max_tokens=512, align="none", normalization="layer",
    unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
)  # fmt: skip


def test_an_architecture_is_one_file_and_one_line(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```\n.*?^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (code, line) = blocks[0]
    file = tmp_path / "deep_sets.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("deep_sets", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, sides in eval(f"{{{line}}}", {**vars(module), "Sides": Sides}).items():
        monkeypatch.setitem(ARCHITECTURES, name, sides)
    build_cache(Zoo(tiny_zoo), TOKENS, tmp_path / "tokens")
    shipped = load_section(AeConfig, "ae", ROOT / "params.yaml")
    behaviour = msgspec.structs.replace(shipped.behaviour, share=0.0)
    config = msgspec.structs.replace(
        shipped,
        arch="deep_sets",
        latent_dim=4,
        hidden_dim=16,
        epochs=2,
        batch_size=8,
        behaviour=behaviour,
        select="loss",
    )
    cache = TokenCache(tmp_path / "tokens")
    trained = train_autoencoder(cache, config)
    save_autoencoder(tmp_path / "model", trained.model, extra={})
    batch = cache.batch(cache.indices("test")[:3])
    with torch.no_grad():
        assert torch.equal(load_autoencoder(tmp_path / "model")(batch).tokens, trained.model(batch).tokens)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("  arch: mlp ", "  arch: deep_sets ", 1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="mlp, transformer, vae"):
        load_section(AeConfig, "ae", tmp_path / "params.yaml")
