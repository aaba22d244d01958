from pathlib import Path

import pytest
import torch

from wscore.errors import ModelError
from wscore.heads.mlp_head import Head, HeadConfig
from wscore.training.model_folder import load_model, save_model


def config(**changes) -> HeadConfig:
    values = {"inputs": 5, "hidden_dim": 7, "layers": 2, "dropout": 0.1, "outputs": {"lr": 1, "optimizer": 4}}
    return HeadConfig(**values | {"encoder": None, "reader": None} | changes)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_outputs_are_cut_by_property(layers: int):
    outputs = Head(config(layers=layers))(torch.randn(3, 5))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {"lr": (3, 1), "optimizer": (3, 4)}


def test_no_layers_make_a_linear_probe():
    head = Head(config(layers=0)).eval()
    latents = torch.randn(4, 5)
    head.standardise(2 * latents + 3)
    expected = (latents - head.mean) / head.std @ head.out.weight.T + head.out.bias
    assert torch.allclose(torch.cat(list(head(latents).values()), dim=1), expected, atol=1e-6)


def test_standardise_takes_the_statistics_and_leaves_constants_finite():
    head = Head(config()).eval()
    latents = torch.randn(50, 5) * torch.tensor([1.0, 1e-3, 1e3, 1.0, 1.0]) + 7
    latents[:, 4] = 1234.5
    head.standardise(latents)
    scaled = (latents - head.mean) / head.std
    assert torch.allclose(scaled.mean(0), torch.zeros(5), atol=1e-3)
    assert torch.allclose(scaled[:, :4].std(0, correction=0), torch.ones(4), atol=1e-3)
    assert head.std[4] == 1


def test_scale_and_shift_of_the_latents_do_not_matter_after_standardising():
    head = Head(config()).eval()
    latents = torch.randn(20, 5)
    head.standardise(latents)
    before = head(latents)["lr"]
    head.standardise(100 * latents - 5)
    assert torch.allclose(before, head(100 * latents - 5)["lr"], atol=1e-4)


def test_save_and_load(tmp_path: Path):
    head = Head(config()).eval()
    head.standardise(torch.randn(9, 5))
    save_model(tmp_path, head)
    latents = torch.randn(3, 5)
    loaded = load_model(tmp_path, Head)
    assert loaded.config == head.config
    assert list(loaded.config.outputs) == ["lr", "optimizer"]
    for name, value in head(latents).items():
        assert torch.equal(loaded(latents)[name], value)


def test_a_changed_shape_is_refused(tmp_path: Path):
    save_model(tmp_path, Head(config()))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"hidden_dim": 7', '"hidden_dim": 8'))
    with pytest.raises(ModelError, match="do not match"):
        load_model(tmp_path)
