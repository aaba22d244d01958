"""What is loaded from a published folder does what the pipeline does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from wscore.autoencoder.models.autoencoder import AutoencoderConfig, Decoder, Encoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.errors import DataError, ModelError
from wscore.hub.checksums import write_checksums
from wscore.io import write_json
from wscore.networks.inference import differentiable
from wscore.networks.layout import layout_of
from wscore.publish.pretrained import PublishedDecoder, PublishedEncoder
from wscore.publish.weight_autoencoder import WeightAutoencoder
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import MODELS, format_of, load_model, save_model
from wscore.zoo.store import Zoo


@pytest.fixture(scope="module", params=[512, 12], ids=["whole", "windows"])
def cache(request: pytest.FixtureRequest, tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    config = TokensConfig(
        granularity="neuron", chunk_size=64, max_tokens=request.param, align="weights",
        normalization="layer", unseen_widths={}, validation_fraction=0.2, test_fraction=0.2, seed=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("publish") / "tokens"
    build_cache(Zoo(tiny_zoo), config, folder)
    return TokenCache(folder)


@pytest.fixture(scope="module")
def published(cache: TokenCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = MlpConfig(
        token_dim=cache.token_dim, max_tokens=cache.max_tokens, latent_dim=8, hidden_dim=16, layers=1,
        pooling="flatten", positions="sinusoidal", dropout=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    for name, kind in (("encoder", Encoder), ("decoder", Decoder)):
        save_model(folder / name, kind(AutoencoderConfig(network=network)))
        cache.copy_codec(folder / name)
        write_checksums(folder / name)
    return folder


def items_of(cache: TokenCache, row: int) -> np.ndarray:
    return np.flatnonzero(cache.table["row"].to_numpy() == row)


@pytest.mark.parametrize("row", [1, 9, 23])
def test_latents_are_those_of_the_cache(cache: TokenCache, published: Path, tiny_zoo: Path, row: int) -> None:
    """Of last checkpoints: earlier ones take the order of units of the last one of their run in the cache."""
    zoo, encoder = Zoo(tiny_zoo), PublishedEncoder(published / "encoder")
    state = zoo.layout(row).unflatten(torch.from_numpy(zoo.weights([row])[0]))
    with torch.no_grad():
        expected = encoder.model(cache.batch(items_of(cache, row)))
    torch.testing.assert_close(encoder.encode(state).latents, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", [0, 9, 23])
def test_networks_are_those_of_the_cache(cache: TokenCache, published: Path, tiny_zoo: Path, row: int) -> None:
    decoder, items = PublishedDecoder(published / "decoder"), items_of(cache, row)
    layout = Zoo(tiny_zoo).layout(row)
    latents = torch.randn(len(items), 8)
    state = decoder.decode(latents, layout)
    with torch.no_grad():
        expected = cache.to_weights(items, decoder.model(latents, cache.batch(items)))[0]
    np.testing.assert_allclose(layout.flatten(state), expected, rtol=1e-4, atol=1e-6)


def test_what_is_encoded_can_be_decoded_in_names_and_orders_of_the_caller(published: Path, tiny_zoo: Path) -> None:
    model, state = WeightAutoencoder.from_pretrained(published), Zoo(tiny_zoo)[9]
    layout = layout_of(state)
    rebuilt = model.decode(model.encode(state))
    assert list(rebuilt) == list(state)
    other = {f"w{number}": tensor for number, tensor in enumerate(state.values()) if tensor.is_floating_point()}
    again = model.decode(model.encode(other))
    assert list(again) == list(other)
    first = {name: tensor for name, tensor in rebuilt.items() if tensor.is_floating_point()}
    assert all(torch.equal(one, two) for one, two in zip(again.values(), first.values(), strict=True))
    permuted = model.align(state)  # the same function, with its units in another order
    moved = model.decode(model.encode(permuted))
    assert torch.equal(model.encode(permuted).latents, model.encode(state).latents)
    here, there = (layout.flatten(one) - layout.flatten(two) for one, two in ((rebuilt, state), (moved, permuted)))
    np.testing.assert_allclose(np.linalg.norm(here), np.linalg.norm(there), rtol=1e-4)
    with pytest.raises(DataError, match="latents alone don't tell the layout"):
        model.decode(model.encode(state).latents)
    with pytest.raises(DataError, match="got a list of 2"):
        model.decode([1, 2])


def test_tokens_come_back_as_the_network_they_were(cache: TokenCache, published: Path, tiny_zoo: Path) -> None:
    zoo, codec = Zoo(tiny_zoo), PublishedEncoder(published / "encoder").codec
    vectors = zoo.weights([5])
    batch = codec.encode(zoo.layout(5), vectors)
    np.testing.assert_allclose(codec.decode(zoo.layout(5), batch.tokens), vectors, rtol=1e-5, atol=1e-6)


def test_wrong_input_is_named(published: Path, tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    vector = zoo.weights([0])[0].copy()
    vector[3] = np.nan
    with pytest.raises(ModelError, match="not finite; got 1"):
        PublishedEncoder(published / "encoder").encode(zoo.layout(0).unflatten(torch.from_numpy(vector)))
    with pytest.raises(ModelError, match="latents do not fit the layout"):
        PublishedDecoder(published / "decoder").decode(torch.zeros(99, 8), zoo.layout(0))
    with pytest.raises(ModelError, match="another class"):
        PublishedEncoder(published / "decoder")


def test_a_layout_that_was_not_trained_on_is_refused_by_name(published: Path) -> None:
    model = WeightAutoencoder.from_pretrained(published)
    other = nn.Sequential(nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10)).state_dict()
    reason = (
        r"was not trained on networks with these shapes of tensors; expected one of its \d layouts "
        r"\([\d,]+ weights in \d+ tensors, .*\); got 535 weights in 4 tensors; `wscore compress` takes any network"
    )
    for call in (model.encode, model):
        with pytest.raises(ModelError, match=reason):
            call(other)
    with pytest.raises(ModelError, match=reason):
        model.decode(torch.zeros(1, 8), layout_of(other))


def test_a_layout_of_held_out_networks_alone_is_not_known(published: Path, cache: TokenCache) -> None:
    known = PublishedEncoder(published / "encoder").layouts.known
    assert sorted(known) == sorted(set(cache.table["layout"].iloc[cache.indices("train")]))


def test_networks_with_batch_norm_pass_gradients_on_to_their_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4)).eval()
    network[1].running_mean.uniform_()
    copied, images = differentiable(network), torch.rand(5, 1, 8, 8)
    assert list(copied.state_dict()) == list(network.state_dict())
    torch.testing.assert_close(copied(images), network(images))
    mean = network[1].running_mean.clone().requires_grad_()
    state = {**network.state_dict(), "1.running_mean": mean}
    functional_call(copied, state, (images,)).square().sum().backward()
    assert mean.grad is not None
    assert mean.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(name for name, kind in MODELS.items() if kind.__module__.startswith("wscore.")))
@pytest.mark.parametrize("newer", [True, False])
def test_every_kind_of_model_refuses_formats_that_it_does_not_know(name: str, newer: bool, tmp_path: Path) -> None:
    number = format_of(MODELS[name]) + 1 if newer else 0
    write_json(tmp_path / "config.json", {"format": number, "class": name, "config": {}, "sha256": "", "tied": {}})
    with pytest.raises(ModelError, match=rf"config\.json: unknown format; .*got {number}"):
        load_model(tmp_path)
