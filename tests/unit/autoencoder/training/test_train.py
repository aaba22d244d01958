"""The autoencoder recipe learns, repeats itself bit for bit, and mixes its losses as it says."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from wscore.autoencoder.models.autoencoder import Autoencoder
from wscore.autoencoder.training.behaviour import alone
from wscore.autoencoder.training.train import (
    AeConfig,
    CacheBatches,
    TrainingData,
    TrainingModule,
    autoencoder_objective,
    prepare,
    sizes,
    start,
    train_autoencoder,
)
from wscore.config import convert, load_section, read_yaml
from wscore.errors import ConfigError, TrainingError
from wscore.networks.images import Images
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def cache(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=512, align="none", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
    )  # fmt: skip
    build_cache(Zoo(tiny_zoo), config, folder)
    return TokenCache(folder)


def configured(**changes: object) -> AeConfig:
    small = {"latent_dim": 4, "hidden_dim": 32, "layers": 1, "heads": 2, "epochs": 2, "batch_size": 8, "dropout": 0.0}
    section = load_section(AeConfig, "ae", ROOT / "params.yaml")
    weights_only = {"behaviour": msgspec.structs.replace(section.behaviour, share=0.0), "select": "loss"}
    return msgspec.structs.replace(section, **{**small, **weights_only, **changes})


@pytest.mark.parametrize("arch", ["mlp", "transformer", "vae"])
@pytest.mark.parametrize("loss", ["mse", "mae", "cosine", "combined"])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_every_loss_trains_every_architecture(cache: TokenCache, arch: str, loss: str, gamma: float) -> None:
    config = configured(arch=arch, loss=loss, gamma=gamma, epochs=1)
    trained = train_autoencoder(cache, config)
    assert np.isfinite(trained.figures["validation_loss"])
    assert ("validation_contrastive" in trained.history.rows[0]) == (gamma > 0)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(cache: TokenCache) -> None:
    config = configured(gamma=0.2, dropout=0.1)
    first, second = (train_autoencoder(cache, config).model.state_dict() for _ in range(2))
    other = train_autoencoder(cache, msgspec.structs.replace(config, seed=1)).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_it_overfits_eight_networks(cache: TokenCache) -> None:
    torch.manual_seed(0)
    config = configured(latent_dim=16, hidden_dim=128)
    model, loss, batch = (
        TrainingModule(config, sizes(cache, config)),
        autoencoder_objective(config),
        alone(cache.batch(np.arange(8)), np.arange(8)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    start = loss(model, batch)["loss"].item()
    for _ in range(200):
        optimizer.zero_grad()
        total = loss(model, batch)["loss"]
        total.backward()
        optimizer.step()
    assert total.item() < 0.02 * start


def test_contrast_alone_changes_the_encoder_and_leaves_the_decoder(cache: TokenCache) -> None:
    config = configured(gamma=1.0)
    model = TrainingModule(config, sizes(cache, config))
    scalars = autoencoder_objective(config)(model, alone(cache.batch(np.arange(6)), np.arange(6)))
    assert torch.equal(scalars["loss"], scalars["contrastive"])
    scalars["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.autoencoder.encoder.parameters())
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.autoencoder.decoder.parameters())


def test_a_single_network_takes_no_part_in_the_contrast(cache: TokenCache) -> None:
    config = configured(gamma=0.5)
    scalars = autoencoder_objective(config)(
        TrainingModule(config, sizes(cache, config)), alone(cache.batch([0]), np.arange(1))
    )
    assert scalars["contrastive"].item() == 0


def test_batches_are_a_function_of_seed_and_epoch(cache: TokenCache) -> None:
    batches = CacheBatches(cache, np.arange(10), batch_size=4, seed=0, shuffle=True)
    assert len(batches) == 3
    first, again, other = ([batch.tokens for batch in batches.epoch(number)] for number in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert [len(tokens) for tokens in first] == [4, 3, 3]


def test_an_expansion_is_said_to_be_one(cache: TokenCache) -> None:
    trained = train_autoencoder(cache, configured(latent_dim=5000, epochs=1))
    assert trained.figures["compression"] < 1
    assert "EXPANSION" in trained.summary()
    assert ("WORSE than the mean network" in trained.summary()) == (trained.figures["validation_r2"] <= 0)
    assert isinstance(trained.model, Autoencoder)


def test_selection_by_agreement_needs_networks_to_run() -> None:
    section = read_yaml(ROOT / "params.yaml")["ae"]
    with pytest.raises(ConfigError, match="above 0, since otherwise no network is run"):
        convert({**section, "behaviour": {**section["behaviour"], "share": 0.0}}, AeConfig, where="ae")


@pytest.fixture(scope="module")
def behaving(cache: TokenCache, tiny_zoo: Path, digits: Images) -> tuple[AeConfig, TrainingData, TrainingModule]:
    section = load_section(AeConfig, "ae", ROOT / "params.yaml")
    config = configured(
        behaviour=msgspec.structs.replace(section.behaviour, images=20, warmup=0.0), select="agreement",
        latent_dim=16, hidden_dim=128,
    )  # fmt: skip
    return config, prepare(cache, config, Zoo(tiny_zoo), digits), start(cache, config)


@torch.no_grad()
def mean_behaviour(model: TrainingModule, data: TrainingData) -> float:
    """Return the mean behaviour loss over the training batches, in evaluation mode."""
    model.eval()
    return float(np.mean([float(data.loss(model, batch)["behaviour"]) for batch in data.train.epoch(1)]))


def test_the_behaviour_loss_falls(behaving: tuple[AeConfig, TrainingData, TrainingModule]) -> None:
    _, material, trainee = behaving
    before = mean_behaviour(trainee, material)
    optimizer = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 1e-3)
    torch.manual_seed(0)
    for number in range(1, 13):
        trainee.train()
        for batch in material.train.epoch(number):
            optimizer.zero_grad()
            material.loss(trainee, batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
            optimizer.step()
    assert mean_behaviour(trainee, material) < 0.9 * before


def test_training_by_behaviour_keeps_the_epoch_with_the_best_agreement(
    cache: TokenCache, tiny_zoo: Path, digits: Images
) -> None:
    section = load_section(AeConfig, "ae", ROOT / "params.yaml")
    config = configured(behaviour=msgspec.structs.replace(section.behaviour, images=20), select="agreement")
    trained = train_autoencoder(cache, config, zoo=Zoo(tiny_zoo), images=digits)
    rows = trained.history.rows
    assert trained.history.best["validation_disagreement"] == min(row["validation_disagreement"] for row in rows)
    assert trained.figures["validation_agreement"] == 1 - trained.history.best["validation_disagreement"]


def test_the_behaviour_loss_without_what_it_needs_is_refused(cache: TokenCache, tiny_zoo: Path, digits: Images) -> None:
    section = load_section(AeConfig, "ae", ROOT / "params.yaml")
    config = configured(behaviour=section.behaviour, select="agreement")
    with pytest.raises(TrainingError, match="share to 0"):
        train_autoencoder(cache, config)
    with pytest.raises(TrainingError, match="cannot be built and run"):
        train_autoencoder(cache, config, zoo=Zoo(tiny_zoo), images=digits._replace(x_train=torch.zeros(5, 3, 9, 9)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": "combined", "loss_weights": {"mse": 0, "mae": 0, "cosine": 0}},
            "one of `loss_weights` to be positive",
        ),
        ({"behaviour": {"noisy": 0.6, "mixed": 0.6}}, "`noisy` \\+ `mixed` to be at most 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_so_many_words(changes: dict, message: str) -> None:
    section = read_yaml(ROOT / "params.yaml")["ae"]
    changes = {key: {**section[key], **own} if isinstance(own, dict) else own for key, own in changes.items()}
    with pytest.raises(ConfigError, match=message) as error:
        convert({**section, **changes}, AeConfig, where="ae")
    assert len(str(error.value)) < 200  # not the whole section
