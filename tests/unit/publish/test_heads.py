"""Heads that read everything there is: trained frozen and end to end, saved, published, and asked about one network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.publish.work import Work
from wscore.autoencoder.models.autoencoder import Encoder
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.heads.finetune import Unfreeze, encoder_parts, finetune_parameter_groups
from wscore.heads.train import load_head, predict_properties, save_head
from wscore.hub.checksums import write_checksums
from wscore.io import hash_folder
from wscore.publish.pretrained import PublishedEncoder, PublishedHead
from wscore.training.model_folder import load_model


@pytest.fixture(scope="module")
def work(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tiny_zoo, tmp_path_factory.mktemp("heads"))


LIVE = {"mode": "finetune", "features": "latent", "members": ["network"]}


@pytest.mark.parametrize(
    "changes", [{}, LIVE, {"features": "latent+statistics+tokens"}], ids=["frozen", "live", "tokens"]
)
def test_a_published_head_says_what_the_trained_one_says(work: Work, tmp_path: Path, changes: dict[str, Any]):
    head = work.train(**changes)
    save_head(tmp_path / "head", head)
    write_checksums(tmp_path / "head")
    loaded = load_head(tmp_path / "head", "accuracy")
    outputs = predict_properties(head, work.data())
    np.testing.assert_array_equal(predict_properties(loaded, work.data())["test_accuracy"], outputs["test_accuracy"])
    autoencoder = PublishedEncoder(work.folder / "encoder")
    published = PublishedHead(tmp_path / "head", work.weight_encoder, autoencoder)
    row = 1  # a last checkpoint
    state = work.zoo.layout(row).unflatten(torch.from_numpy(work.zoo.weights([row])[0]))
    found = published.predict(state)
    place = int(np.flatnonzero(work.data().table["row"] == row)[0])
    expected = head.targets[0].restore(outputs["test_accuracy"][place])
    assert found["test_accuracy"] == pytest.approx(float(np.asarray(expected)[0]), abs=1e-4)
    assert found["test_accuracy_low"] <= found["test_accuracy"] <= found["test_accuracy_high"]
    if published.head.model.reads_tokens:
        with pytest.raises(ModelError, match="accuracy: a head with token inputs needs the autoencoder"):
            PublishedHead(tmp_path / "head", work.weight_encoder).predict(state)


def test_a_head_whose_block_lost_its_columns_is_one_error(work: Work, tmp_path: Path):
    head = work.train()
    save_head(tmp_path / "head", head._replace(features={**head.features, "probes": ()}))
    write_checksums(tmp_path / "head")
    with pytest.raises(ModelError, match="names other features than it reads"):
        PublishedHead(tmp_path / "head", work.weight_encoder)


def test_a_frozen_encoder_is_left_as_it_is_and_a_live_one_learns(work: Work):
    before = hash_folder(work.folder / "encoder")
    encoder = load_model(work.folder / "encoder", Encoder)
    assert all(network.encoder is None for network in work.train().model.networks)
    live = work.train(**LIVE).model.networks[0]
    still = work.train(**LIVE, encoder_lr=0.0, weight_decay=0.0).model.networks[0]
    first = dict(encoder.named_parameters())
    assert hash_folder(work.folder / "encoder") == before
    assert any(not torch.equal(value, first[name]) for name, value in live.encoder.named_parameters())  # pyright: ignore
    assert all(torch.equal(value, first[name]) for name, value in still.encoder.named_parameters())  # pyright: ignore


def test_parts_of_the_encoder_thaw_from_the_last_to_the_first(work: Work):
    network = work.train(**LIVE, unfreeze_every=1, epochs=2).model.networks[0]
    encoder = load_model(work.folder / "encoder", Encoder)
    parts, first = encoder_parts(network.encoder), encoder_parts(encoder)  # pyright: ignore
    moved = [any(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in zip(parts, first, strict=True)]
    assert len(parts) > 2
    assert moved[-1]
    assert not any(moved[:-2])
    assert all(parameter.requires_grad for part in parts for parameter in part)
    factors = [group["lr_factor"] for group in finetune_parameter_groups(network, encoder=0.1)]  # pyright: ignore
    assert factors == [1.0, 0.1]
    assert Unfreeze(3).every == 3


def test_networks_unlike_those_of_the_training_have_no_interval(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_head(tmp_path / "head", work.train())
    write_checksums(tmp_path / "head")
    published = PublishedHead(tmp_path / "head", work.weight_encoder)
    state = {name: 1000 * tensor for name, tensor in work.zoo.state_dict(1).items()}
    monkeypatch.setattr("wscore.publish.pretrained.OUTSIDE", work.weight_encoder.inside(state))
    with pytest.warns(WscoreWarning, match="unlike the networks that the encoder was trained on .*have no intervals"):
        assert set(published.predict(state)) == {"test_accuracy"}


def test_a_head_of_another_encoder_and_features_that_are_not_there(work: Work, tmp_path: Path):
    save_head(tmp_path / "head", work.train()._replace(encoder="another"))
    write_checksums(tmp_path / "head")
    with pytest.raises(ModelError, match="reads latents of another encoder"):
        PublishedHead(tmp_path / "head", work.weight_encoder)
    with pytest.raises(DataError, match="'probes' were not computed"):
        work.data()._replace(blocks={}).inputs(("latent", "probes"))
    with pytest.raises(DataError, match="no tokens were given"):
        work.data()._replace(tokens=None).items()
