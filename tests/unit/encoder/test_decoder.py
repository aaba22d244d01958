"""The decoder makes networks of any layout, of a latent that it is free to ignore only before training."""

from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from wscore.encoder.decoder import DecoderShape, WeightDecoder
from wscore.encoder.decoder_config import DecoderConfig
from wscore.encoder.decoder_fit import NetworkSet, agreement, fit_decoder
from wscore.encoder.decoder_queries import COLUMN, ROW, layout_queries
from wscore.encoder.reconstruction import read_reconstruction
from wscore.errors import DataError, WscoreWarning
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import StackedAnswer
from wscore.networks.layout import Layout, layout_of
from wscore.training.model_folder import load_model, save_model

CONFIG = DecoderConfig(
    memory=2, hidden_dim=16, rank=16, layers=1, heads=2, exemplars=2, choice_steps=40, steps=100,
    images=24, step_images=12, batch_size=4, noise=0.0, lr=0.005, seed=0,
)  # fmt: skip
SHAPE = DecoderShape(latent_dim=3, memory=2, hidden_dim=16, rank=16, layers=1, heads=2, exemplars=2, layouts=())
NETWORKS = {
    "scalar": nn.PReLU(),
    "recurrent": nn.LSTM(3, 4),
    "attention": nn.TransformerEncoderLayer(8, 2, 16),
    "embedding": nn.Sequential(nn.Embedding(11, 4), nn.LayerNorm(4), nn.Linear(4, 11)),
    "other kernels": nn.Sequential(nn.Conv1d(2, 3, 5), nn.GroupNorm(1, 3), nn.Conv3d(3, 2, 2), nn.BatchNorm3d(2)),
    "after a flattening": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6, 10)),
}
ARCHITECTURE = Architecture(
    family="mlp", input=(1, 8, 8), classes=10, widths=(8,), activation="relu", pooling="none"
)  # fmt: skip
LAYOUT = layout_of(build(ARCHITECTURE).state_dict())


def untrained(shape: DecoderShape = SHAPE) -> WeightDecoder:
    torch.manual_seed(0)
    return WeightDecoder(shape).eval()


@pytest.fixture(scope="module")
def networks() -> NetworkSet:
    """Two networks that output one class each, whatever the image; their latents differ in a sign."""
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.full((2, 24, 10), -6.0)
    targets[0, :, 3] = targets[1, :, 7] = -0.03
    latents = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    weights = 0.1 * torch.randn(2, LAYOUT.size, generator=torch.Generator().manual_seed(0))
    return NetworkSet(StackedAnswer(ARCHITECTURE, LAYOUT), LAYOUT, weights, latents, images, targets, "noise")


@pytest.mark.parametrize("name", NETWORKS)
def test_any_layout_can_be_asked_for(name: str) -> None:
    layout = layout_of(NETWORKS[name].state_dict())
    weights = untrained().decode(torch.randn(2, 3), layout)
    assert weights.shape == (2, layout.size)
    assert weights.isfinite().all()
    for spec, span in zip(layout.tensors, layout.slices().values(), strict=True):
        rows = weights[0, span].reshape(spec.shape)
        if spec.kind == "running_var":
            assert (rows > 0).all()
        if len(spec.shape) > 1:
            assert len(rows.flatten(1).unique(dim=0)) == len(rows), "all units of a layer are different"


def test_queries_are_one_per_unit_and_one_per_weight_of_a_unit() -> None:
    layout = layout_of(NETWORKS["after a flattening"].state_dict())
    queries = layout_queries(layout)
    assert queries.rows.shape == (4 + 10, ROW)
    columns = {query.spec.name: query.columns for query in queries.tensors}
    sizes = {name: None if found is None else tuple(found.shape) for name, found in columns.items()}
    assert sizes == {"0.weight": (9, COLUMN), "0.bias": None, "2.weight": (24, COLUMN), "2.bias": None}
    assert [query.rows for query in queries.tensors] == [slice(0, 4), slice(0, 4), slice(4, 14), slice(4, 14)]
    assert all(len(found.unique(dim=0)) == len(found) for found in columns.values() if found is not None)


def test_names_of_tensors_do_not_matter() -> None:
    renamed = Layout(tensors=tuple(msgspec.structs.replace(spec, name=f"x.{spec.name}") for spec in LAYOUT.tensors))
    z = torch.randn(1, 3)
    torch.testing.assert_close(untrained().decode(z, renamed), untrained().decode(z, LAYOUT), atol=0, rtol=0)


def test_it_learns_which_latent_gives_which_outputs(networks: NetworkSet) -> None:
    trained, history = fit_decoder([networks], CONFIG)
    assert trained is not None
    assert agreement(trained, [networks]) == 1
    assert agreement(trained, [networks._replace(latents=-networks.latents)]) == 0
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    again, _ = fit_decoder([networks], CONFIG)
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))


def test_a_decoder_is_read_back(tmp_path: Path) -> None:
    save_model(tmp_path / "decoder", untrained())
    again = load_model(tmp_path / "decoder", WeightDecoder)
    z = torch.randn(1, 3)
    assert torch.equal(again.decode(z, LAYOUT), untrained().decode(z, LAYOUT))


def test_other_latents_are_rejected() -> None:
    with pytest.raises(DataError, match=r"takes other latents.*\(n, 3\)"):
        untrained().decode(torch.zeros(1, 4), LAYOUT)


def test_without_networks_that_can_be_run_there_is_no_decoder(tmp_path: Path) -> None:
    with pytest.warns(WscoreWarning, match="no decoder: no network is of known architecture"):
        decoder, history = fit_decoder([], CONFIG)
    assert decoder is None
    assert list(history.columns()) == ["epoch", "step", "lr", "train_loss"]
    assert read_reconstruction(tmp_path, tmp_path) == {}
