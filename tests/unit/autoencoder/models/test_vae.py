"""The convolutional VAE: any length comes back exactly, posteriors and draws, checkpointing, broadcast and overflow refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.autoencoder.models.autoencoder import Autoencoder, AutoencoderConfig, reconstruct_to_model_weights
from wscore.autoencoder.models.vae import Posterior, VaeConfig, VaeDecoder, VaeEncoder, pack, unpack
from wscore.autoencoder.training.reconstruction_loss import reconstruction_loss
from wscore.errors import ModelError
from wscore.networks.architectures import build
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ODD = (1, 7, 100, 2464, 2864, 10853)  # lengths with which a plain reshape does not halve


def configured(weights: int, **changes: object) -> VaeConfig:
    options: dict = {
        "weights": weights, "max_tokens": 64, "latent_dim": 6, "input": "image", "channels": 2, "levels": 2,
        "encoding": "sampled", "positions": "sinusoidal", "dropout": 0.0, "checkpointing": False,
    }  # fmt: skip
    return VaeConfig(**{**options, **changes})


def batch_of(weights: int, networks: int = 3) -> TokenBatch:
    """One token that holds all weights."""
    mask = torch.ones(networks, 1, weights).bool()
    return TokenBatch(
        torch.randn(networks, 1, weights), mask, torch.zeros(networks, 1, 5), torch.zeros(networks).long()
    )


@pytest.fixture(scope="module")
def cache(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=512, align="none", normalization="minmax",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tiny_zoo), config, folder)
    return TokenCache(folder)


@pytest.mark.parametrize("weights", ODD)
@pytest.mark.parametrize("source", ["image", "linear"])
def test_any_length_goes_in_and_comes_out(weights: int, source: str) -> None:
    if source == "linear" and weights > 2000:
        weights //= 10
    config = configured(weights, input=source)
    assert config.side**2 >= weights > (config.side - 4) ** 2 or config.side == 4
    assert config.side % 2**config.levels == 0
    batch = batch_of(weights)
    posterior = VaeEncoder(config).posterior(batch)
    assert posterior.mean.shape == posterior.log_variance.shape == (3, 6)
    assert VaeDecoder(config)(posterior.mean, batch).shape == batch.tokens.shape


def test_weights_stand_side_by_side_and_come_back_bit_for_bit(cache: TokenCache) -> None:
    batch = cache.batch(np.arange(len(cache)))
    vector = pack(batch.tokens, batch.mask, 1000)
    for row in range(len(cache)):
        expected = batch.tokens[row][batch.mask[row]]
        assert torch.equal(vector[row, : len(expected)], expected)
        assert not vector[row, len(expected) :].any()
    assert torch.equal(unpack(vector, batch.mask), batch.tokens)


def test_a_network_larger_than_the_vector_is_refused() -> None:
    with pytest.raises(ModelError, match="larger than the VAE's vector; expected at most 10 weights; got 12"):
        VaeEncoder(configured(10))(batch_of(12))
    with pytest.raises(ModelError, match=r"larger than the VAE's vector.*cut them into windows \(tokens\.max_tokens\)"):
        VaeDecoder(configured(10))(torch.zeros(3, 6), batch_of(12))


def test_draws_have_the_mean_and_variance_of_the_posterior() -> None:
    posterior = Posterior(torch.tensor([[1.0, -2.0]]).expand(20_000, 2), torch.tensor([[0.0, 2.0]]).expand(20_000, 2))
    draws = posterior.sample(torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), torch.tensor([1.0, -2.0]), atol=0.06)
    assert torch.allclose(draws.var(0).log(), torch.tensor([0.0, 2.0]), atol=0.05)


@pytest.mark.parametrize(("encoding", "differs"), [("sampled", True), ("deterministic", False)])
def test_latents_are_drawn_only_while_a_sampled_one_is_trained(encoding: str, differs: bool) -> None:
    model = Autoencoder(AutoencoderConfig(network=configured(50, encoding=encoding)))
    batch = batch_of(50)
    assert torch.equal(model.train()(batch).latent, model(batch).latent) is not differs
    model.eval()
    assert torch.equal(model(batch).latent, model(batch).latent)
    assert torch.equal(model(batch).latent, model.encoder(batch))


def test_checkpointing_gives_the_same_gradients() -> None:
    kept, again = (Autoencoder(AutoencoderConfig(network=configured(50, checkpointing=flag))) for flag in (False, True))
    again.load_state_dict(kept.state_dict())
    batch = batch_of(50)
    for model in (kept, again):
        torch.manual_seed(0)
        model.train()(batch).tokens.square().sum().backward()
    pairs = zip(kept.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(first.grad, second.grad) for first, second in pairs if first.grad is not None)


def test_a_loss_over_shapes_that_would_broadcast_is_refused() -> None:
    prediction, target = torch.zeros(4, 10), torch.zeros(4, 1, 10)
    assert (prediction - target).shape == (4, 4, 10)  # what plain arithmetic makes of it
    with pytest.raises(Exception, match="violates type hint"):
        reconstruction_loss("mse", {})(prediction, target, torch.ones(4, 1, 10).bool())


def test_the_autoencoder_asserts_that_it_gives_back_the_shape_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Autoencoder(AutoencoderConfig(network=configured(50))).eval()
    monkeypatch.setattr(model.decoder, "forward", lambda _, batch: batch.tokens[:, 0])
    with pytest.raises(AssertionError, match="broadcast"):
        model(batch_of(50))


def test_state_dicts_for_a_whole_batch_load_and_are_those_of_the_decoder(cache: TokenCache, tiny_zoo: Path) -> None:
    zoo, items = Zoo(tiny_zoo), np.arange(len(cache))
    network = configured(int(cache.item_weights.max()), max_tokens=cache.max_tokens)
    model = Autoencoder(AutoencoderConfig(network=network)).eval()
    with torch.no_grad():
        found = model(cache.batch(items))
    states = reconstruct_to_model_weights(model.decoder, found.latent, cache, items)
    assert len(states) == len(zoo)
    for row, state, vector in zip(cache.networks(items), states, cache.to_weights(items, found.tokens), strict=True):
        build(str(zoo.table["architecture"].iloc[row])).load_state_dict(state)
        assert np.array_equal(zoo.layout(int(row)).flatten(state), vector)
