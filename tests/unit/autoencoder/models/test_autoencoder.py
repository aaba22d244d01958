"""Every architecture takes any mixture of networks, never looks at padding, and comes back from disk bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.autoencoder.models.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    Decoder,
    Encoder,
    load_autoencoder,
    save_autoencoder,
)
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.autoencoder.models.transformer import TransformerConfig
from wscore.autoencoder.models.vae import VaeConfig
from wscore.errors import ModelError
from wscore.io import read_json, write_json
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import load_model
from wscore.zoo.store import Zoo


@pytest.fixture(scope="module")
def cache(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=512, align="none", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tiny_zoo), config, folder)
    return TokenCache(folder)


def configured(cache: TokenCache, arch: str, pooling: str = "flatten", positions: str = "sinusoidal"):
    common = {
        "token_dim": cache.token_dim, "max_tokens": cache.max_tokens, "latent_dim": 6, "layers": 1, "pooling": pooling,
        "positions": positions, "dropout": 0.0,
    }  # fmt: skip
    network = {
        "mlp": lambda: MlpConfig(hidden_dim=16, **common),
        "transformer": lambda: TransformerConfig(model_dim=16, heads=2, memory=3, **common),
        "vae": lambda: VaeConfig(
            weights=int(cache.item_weights.max()), max_tokens=cache.max_tokens, latent_dim=6, input="image", channels=2,
            levels=2, encoding="sampled", positions=positions, dropout=0.0, checkpointing=False,
        ),
    }[arch]()  # fmt: skip
    return AutoencoderConfig(network=network)


VARIANTS = [
    (arch, pooling, positions)
    for arch in ("mlp", "transformer")
    for pooling in ("mean", "max", "flatten")
    for positions in ("sinusoidal", "learned")
] + [("vae", "flatten", "sinusoidal"), ("vae", "flatten", "learned")]


@pytest.mark.parametrize(("arch", "pooling", "positions"), VARIANTS)
def test_mixed_networks_go_through_and_padding_has_no_influence(cache: TokenCache, arch, pooling, positions) -> None:
    model = Autoencoder(configured(cache, arch, pooling, positions)).eval()
    batch = cache.batch(np.arange(8))
    assert len({int(mask.sum()) for mask in batch.mask}) > 1
    garbage = batch._replace(tokens=torch.where(batch.mask, batch.tokens, torch.full_like(batch.tokens, 1e3)))
    found, spoiled = model(batch), model(garbage)
    assert found.latent.shape == (8, 6)
    assert found.tokens.shape == batch.tokens.shape
    assert torch.equal(found.latent, spoiled.latent)
    assert torch.equal(found.tokens, spoiled.tokens)
    assert not found.tokens[~batch.mask].any()
    (found.tokens.sum() + (0.0 if found.posterior is None else found.posterior.log_variance.sum())).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["mlp", "transformer", "vae"])
def test_a_network_is_encoded_alike_in_any_company(cache: TokenCache, arch: str) -> None:
    model = Autoencoder(configured(cache, arch)).eval()
    together = model(cache.batch([0, 3, 5])).latent
    alone = torch.cat([model(cache.batch([item])).latent for item in (0, 3, 5)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("arch", ["mlp", "transformer", "vae"])
def test_each_side_comes_back_bit_for_bit_on_its_own(cache: TokenCache, tmp_path: Path, arch: str) -> None:
    model = Autoencoder(configured(cache, arch)).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn(parameter.shape))
    save_autoencoder(tmp_path, model, extra={"tokens": cache.identity})
    batch = cache.batch([0, 1, 2])
    expected = model(batch)
    encoder, decoder = load_model(tmp_path / "encoder", Encoder), load_model(tmp_path / "decoder", Decoder)
    assert torch.equal(encoder(batch), expected.latent)
    assert torch.equal(decoder(expected.latent, batch), expected.tokens)
    assert torch.equal(load_autoencoder(tmp_path)(batch).tokens, expected.tokens)


def test_sides_of_different_models_are_refused(cache: TokenCache, tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "a", Autoencoder(configured(cache, "mlp")), extra={})
    save_autoencoder(tmp_path / "b", Autoencoder(configured(cache, "transformer")), extra={})
    (tmp_path / "a" / "decoder").rename(tmp_path / "old")
    (tmp_path / "b" / "decoder").rename(tmp_path / "a" / "decoder")
    with pytest.raises(ModelError, match="do not belong together"):
        load_autoencoder(tmp_path / "a")


def test_keys_tell_layouts_apart_and_nothing_else(cache: TokenCache) -> None:
    found = cache.batch(np.arange(len(cache))).layouts.tolist()
    names = cache.table["layout"].tolist()
    assert len(set(zip(found, names, strict=True))) == len(set(names)) == len(set(found))


@pytest.mark.parametrize(("side", "kind", "newest"), [("encoder", Encoder, 3), ("decoder", Decoder, 2)])
def test_folders_of_older_formats_are_refused(cache, side, kind, newest, tmp_path) -> None:
    save_autoencoder(tmp_path, Autoencoder(configured(cache, "mlp")), extra={})
    content = read_json(tmp_path / side / "config.json")
    assert content["format"] == newest
    write_json(tmp_path / side / "config.json", {**content, "format": newest - 1})
    with pytest.raises(ModelError, match=rf"config\.json: is of an older format; expected {newest}; got {newest - 1}"):
        load_model(tmp_path / side, kind)
