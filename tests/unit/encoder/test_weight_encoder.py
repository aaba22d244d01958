"""One encoder for any network: it does not see the order of hidden units, sees other changes, and knows what it was fitted to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wscore.encoder.config import EncoderConfig
from wscore.encoder.features import zoo_features
from wscore.encoder.model import EMPHASIS, SHARES
from wscore.encoder.weight_encoder import STRANGE, WeightEncoder
from wscore.errors import DataError, ModelError, TrainingError
from wscore.hub.checksums import write_checksums
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import layout_of
from wscore.networks.lenet import NetworkSpec, lenet5
from wscore.symmetry.spec import permute, random_orders
from wscore.symmetry.trace import derive_spec
from wscore.training.model_folder import read_model_config
from wscore.zoo.store import Zoo

CONFIG = EncoderConfig(
    distilled=0.5, probes=20, probe_steps=4, hidden_dim=16, layers=1, dropout=0.1, noise=0.1, blank=0.1,
    epochs=3, batch_size=16, lr=1e-3, weight_decay=0.01, patience=3, seed=0,
)  # fmt: skip
LATENT_DIM = 12
FAMILIES = {"mlp": (7, 5), "cnn": (4, 6), "cnn_bn": (5, 3), "resnet": (5, 5), "vit": (8, 12), "depthwise_cnn": (4, 6)}
OTHERS = {
    "deep": nn.Sequential(*[nn.Linear(9, 9) for _ in range(12)]),
    "lenet": lenet5(NetworkSpec(name="lenet5", channels=1, size=28, classes=10)),
    "recurrent": nn.LSTM(3, 4),
    "attention": nn.TransformerEncoderLayer(8, 2, 16),
    "embedding": nn.Sequential(nn.Embedding(11, 4), nn.LayerNorm(4), nn.Linear(4, 11)),
    "one layer": nn.Linear(3, 2),
    "convolutions of other sizes": nn.Sequential(nn.Conv1d(2, 3, 5), nn.GroupNorm(1, 3), nn.Conv3d(3, 2, 2)),
}
Split = list[str]


def fit(zoo: Zoo, split: Split, latent_dim: int = LATENT_DIM, **changes: Any) -> WeightEncoder:
    encoder, history = WeightEncoder.fit(zoo, split, msgspec.structs.replace(CONFIG, **changes), latent_dim=latent_dim)
    assert len(history) <= CONFIG.epochs
    return encoder


@pytest.fixture(scope="module")
def zoo(make_tiny_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(make_tiny_zoo(tmp_path_factory.mktemp("encoder") / "zoo", runs=10))


@pytest.fixture(scope="module")
def split(zoo: Zoo) -> Split:
    runs = sorted(zoo.table["run_id"].unique())
    parts = dict(zip(runs, ["validation", "train", "train", "train"] * len(runs), strict=False))
    return [parts[run] for run in zoo.table["run_id"]]


@pytest.fixture(scope="module")
def encoder(zoo: Zoo, split: Split) -> WeightEncoder:
    return fit(zoo, split)


def network_of(family: str) -> nn.Module:
    pooling = "none" if family in ("mlp", "vit") else "max"
    torch.manual_seed(1)
    widths = FAMILIES[family]
    return build(
        Architecture(family=family, input=(1, 8, 8), classes=10, widths=widths, activation="relu", pooling=pooling)
    ).eval()


def shifted(state: dict[str, Tensor], name: str, axis: int) -> dict[str, Tensor]:
    return {**state, name: state[name].roll(1, axis)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_hidden_units_does_not_matter(encoder: WeightEncoder, family: str) -> None:
    network = network_of(family)
    spec = derive_spec(network, torch.rand(1, 1, 8, 8))
    state = {name: tensor[None] for name, tensor in network.state_dict().items()}
    moved = permute(spec, state, random_orders(spec, 1, torch.Generator().manual_seed(0)))
    other = {name: tensor[0] for name, tensor in moved.items()}
    assert any(not torch.equal(other[name], state[name][0]) for name in other)
    torch.testing.assert_close(encoder.encode(other), encoder.encode(network), atol=1e-4, rtol=1e-4)


def test_other_changes_move_the_latent(encoder: WeightEncoder) -> None:
    state = network_of("mlp").state_dict()
    latent = encoder.encode(state)
    for changed in (
        shifted(state, "head.weight", 1),  # units of one layer without the other
        shifted(state, "linear1.weight", 1),  # the order of the inputs
        {**state, "linear2.weight": 2 * state["linear2.weight"]},
    ):
        assert (encoder.encode(changed) - latent).abs().max() > 1e-2


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_any_layout_have_a_latent(encoder: WeightEncoder, name: str) -> None:
    latent = encoder.encode(OTHERS[name])
    assert latent.shape == (encoder.latent_dim,)
    assert latent.isfinite().all()
    assert 0 < encoder.inside(OTHERS[name]) <= 1


def test_names_of_layers_do_not_matter(encoder: WeightEncoder) -> None:
    state = network_of("cnn_bn").state_dict()
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    renamed = {
        f"stage.{modules.index(name.rpartition('.')[0])}.{name.rpartition('.')[2]}": value
        for name, value in state.items()
    }
    assert torch.equal(encoder.encode(renamed), encoder.encode(state))


def test_many_networks_are_encoded_like_each_alone(encoder: WeightEncoder, zoo: Zoo) -> None:
    rows = np.flatnonzero(zoo.table["layout"] == zoo.table["layout"].iloc[0])
    encoding = encoder.encode_many(zoo.layout(int(rows[0])), zoo.weights(rows))
    for place, row in enumerate(rows.tolist()):
        state = zoo.state_dict(row)
        torch.testing.assert_close(encoding.latents[place], encoder.encode(state), atol=1e-4, rtol=1e-4)
        rank = 5 / (encoder.network.config.calibration + 1)  # p-values are steps: at most one apart
        assert float(encoding.inside[place]) == pytest.approx(encoder.inside(state), abs=1.01 * rank)


def test_networks_of_the_zoo_are_inside_and_damaged_ones_are_not(
    encoder: WeightEncoder, zoo: Zoo, split: Split
) -> None:
    rows = np.flatnonzero(np.array(split) == "validation")
    lowest = 1 / (len(rows) + 1)
    states = [zoo.state_dict(row) for row in rows.tolist()]
    assert np.mean([encoder.inside(state) for state in states]) > 0.5
    for state in states:
        scaled = {name: 1000 * tensor if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        assert encoder.inside(scaled) <= 1.01 * lowest / min(SHARES)
    assert encoder.inside(OTHERS["recurrent"]) <= 1.01 * lowest / min(SHARES)


def test_networks_with_other_inputs_or_outputs_are_outside(encoder: WeightEncoder) -> None:
    torch.manual_seed(0)
    for inputs, outputs in ((5, 10), (64, 3), (5, 3)):
        assert encoder.inside(nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))) <= 1.01 * STRANGE
    assert not encoder.layouts.may_share_ends(layout_of(nn.Linear(5, 10).state_dict()))
    state = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).state_dict()
    for order in (list(state), list(state)[::-1]):
        assert encoder.layouts.may_share_ends(layout_of({name: state[name] for name in order}))


def test_networks_of_images_of_another_size_are_outside(
    encoder: WeightEncoder, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.network, "inside", lambda u: torch.ones(len(u)))
    assert encoder.inside(zoo.state_dict(0)) == 1
    assert encoder.inside(OTHERS["lenet"]) == pytest.approx(STRANGE)


def test_components_have_unit_variance_in_training(encoder: WeightEncoder, zoo: Zoo, split: Split) -> None:
    states = [zoo.state_dict(row) for row, part in enumerate(split) if part == "train"]
    latents = torch.stack([encoder.encode(state) for state in states])
    components = latents[:, : encoder.network.config.components]
    torch.testing.assert_close(components.var(0, unbiased=False), torch.ones(components.shape[1]), atol=1e-2, rtol=0)
    torch.testing.assert_close(components.mean(0), torch.zeros(components.shape[1]), atol=1e-2, rtol=0)


def test_outputs_under_the_likely_hypothesis_are_among_the_components(encoder: WeightEncoder, zoo: Zoo) -> None:
    network = encoder.network
    features = zoo_features(zoo, encoder.probes)
    columns = [features.names.index(name) for name in network.config.features]
    u = network.inputs(torch.from_numpy(features.values[:, columns])) - network.centre
    kept = (u * network.emphasis) @ network.basis @ network.basis.T / network.emphasis
    lost = (u - kept).square().mean(0) / u.square().mean(0).clamp_min(1e-6)
    likely = network.emphasis == max(EMPHASIS.values())
    assert likely.sum() > 10
    assert lost[likely].mean() < 0.5 * lost[~likely].mean()


def test_a_saved_encoder_is_the_same(encoder: WeightEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder")
    again = WeightEncoder.from_folder(tmp_path / "encoder")
    for network in (network_of("resnet"), OTHERS["attention"]):
        assert torch.equal(again.encode(network), encoder.encode(network))
        assert again.inside(network) == encoder.inside(network)


def test_the_same_seed_gives_the_same_encoder(encoder: WeightEncoder, zoo: Zoo, split: Split) -> None:
    again = fit(zoo, split)
    assert torch.equal(again.encode(network_of("cnn")), encoder.encode(network_of("cnn")))
    other = fit(zoo, split, seed=1)
    assert not torch.equal(other.encode(network_of("cnn")), encoder.encode(network_of("cnn")))


def test_networks_that_cannot_be_run_are_encoded_by_components_alone(
    zoo: Zoo, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "table", zoo.table.assign(architecture=""))
    encoder = fit(zoo, split)
    assert (encoder.network.config.components, encoder.network.config.distilled) == (12, 0)
    assert encoder.encode(network_of("mlp")).shape == (12,)


def test_labels_are_not_looked_at(
    encoder: WeightEncoder, zoo: Zoo, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "table", zoo.table.assign(test_accuracy=0.5, activation="relu", optimizer="sgd"))
    again = fit(zoo, split)
    assert torch.equal(again.encode(network_of("cnn")), encoder.encode(network_of("cnn")))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "network: no weights to encode"),
        ({"head.weight": torch.ones(2, 2, dtype=torch.int8)}, "head.weight"),
        ({"weight": torch.ones(2, 2), "other": torch.ones(2, 2, dtype=torch.uint8)}, "other: integer weights"),
        ({"weight": torch.ones(0, 3)}, "weight: an empty tensor"),
        ({"weight": torch.tensor([[1.0, float("nan")]])}, "weight: weights are not finite; got 1 value"),
        ({"a": torch.ones(2, 2), "b": torch.full((2,), float("inf"))}, "b: weights are not finite; got 2 values"),
    ],
    ids=["nothing", "quantised", "partly quantised", "empty", "nan", "infinite"],
)
def test_networks_without_usable_weights_are_refused(
    encoder: WeightEncoder, state: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encoder.encode(state)


def test_too_few_networks_are_refused(zoo: Zoo, split: Split) -> None:
    with pytest.raises(
        TrainingError, match="zoo: too few networks for the encoder; expected at least 8 and 1; got 80 to"
    ):
        fit(zoo, ["train"] * len(zoo))
    few = ["train" if row < 7 else "validation" for row in range(len(zoo))]
    with pytest.raises(TrainingError, match="got 7 to train on, 73 for validation"):
        fit(zoo, few)


def test_a_latent_longer_than_the_training_has_networks_ends_with_zeros(zoo: Zoo, split: Split) -> None:
    encoder = fit(zoo, split, latent_dim=200, epochs=1)
    latent = encoder.encode(network_of("cnn"))
    components = encoder.network.config.components
    assert latent.shape == (200,)
    assert latent[:20].abs().min() > 0
    assert latent[split.count("train") : components].abs().max() == 0


def test_a_published_encoder_is_found_and_checked(encoder: WeightEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "weight_encoder")
    write_checksums(tmp_path / "weight_encoder")
    again = WeightEncoder.from_pretrained(tmp_path)
    assert again.identity == read_model_config(tmp_path / "weight_encoder")["sha256"]
    assert torch.equal(again.encode(network_of("cnn")), encoder.encode(network_of("cnn")))
    with (tmp_path / "weight_encoder" / "probes.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=r"probes\.safetensors"):
        WeightEncoder.from_pretrained(tmp_path)


def test_tensors_of_known_networks_may_come_in_any_order(encoder: WeightEncoder, zoo: Zoo, split: Split) -> None:
    state = zoo.state_dict(split.index("train"))
    assert torch.equal(encoder.encode(dict(sorted(state.items(), reverse=True))), encoder.encode(state))


def test_what_a_latent_is_made_of_is_told(encoder: WeightEncoder) -> None:
    inside = {"inside": torch.tensor(0.5)}
    assert encoder.encode_network(network_of("cnn"))._replace(**inside).basis == "outputs on probes"
    other = encoder.encode_network(OTHERS["recurrent"])
    assert other._replace(**inside).basis == "weights alone"
    assert other._replace(inside=torch.tensor(0.001)).basis == "outside the training population"


def test_networks_are_encoded_from_the_features_of_a_zoo_like_from_their_weights(
    encoder: WeightEncoder, zoo: Zoo
) -> None:
    found = encoder.encode_features(zoo_features(zoo, encoder.probes))
    for row in range(0, len(zoo), 7):
        torch.testing.assert_close(found.latents[row], encoder.encode(zoo.state_dict(row)), atol=1e-4, rtol=1e-4)
    assert found.was_run.all()
