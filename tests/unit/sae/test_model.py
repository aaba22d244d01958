"""Sparse autoencoders: atoms of unit norm, exact relations between encode, decode and forward, files that rebuild."""

from pathlib import Path
from typing import Any

import pytest
import torch

from wscore.errors import ConfigError, ModelError, TrainingError
from wscore.sae.model import (
    SparseAutoencoder,
    TiedWeightSparseAutoencoder,
    keep_largest,
    keep_largest_of_batch,
    unit_rows,
)
from wscore.training.model_folder import load_model, save_model

CLASSES = (SparseAutoencoder, TiedWeightSparseAutoencoder)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"activation": "topk", "k": 3},
    {"activation": "batchtopk", "k": 3},
    {"activation": "jumprelu"},
    {"encoder_hidden": [7], "decoder_hidden": [7]},
]


def make(kind: type, options: dict[str, Any]) -> Any:
    model = kind(6, 10, **options)
    model.standardise(torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6))
    with torch.no_grad():
        model.decoder_bias.normal_()
        if options.get("activation") == "batchtopk":
            model.threshold.fill_(0.3)
    return model.eval()


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("options", VARIANTS)
def test_forward_is_decode_of_encode_and_codes_are_sparse(kind: type, options: dict[str, Any]) -> None:
    model, x = make(kind, options), torch.randn(20, 6)
    codes = model.encode(x)
    assert torch.equal(model.decode(codes), model(x))
    assert (codes >= 0).all()
    assert (codes == 0).any()


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("options", VARIANTS)
def test_a_saved_model_comes_back_with_its_scaling(kind: type, options: dict[str, Any], tmp_path: Path) -> None:
    model, x = make(kind, options), torch.randn(9, 6)
    save_model(tmp_path, model)
    again = load_model(tmp_path, kind)
    assert again.config == model.config
    assert torch.equal(again.mean, model.mean)
    assert torch.equal(again.scale, model.scale)
    assert torch.equal(again.threshold, model.threshold)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_code_adds_its_row_of_the_dictionary(kind: type) -> None:
    model = make(kind, {})
    with torch.no_grad():
        rows = model._decoder_rows()
        rows.mul_(torch.linspace(0.1, 100, 10)[:, None])  # lengths of stored rows have no say
    added = model.decode(torch.eye(10)) - model.decode(torch.zeros(1, 10))
    assert torch.allclose(added, model.dictionary(), atol=1e-5)
    assert torch.allclose((added / model.scale).norm(dim=1), torch.ones(10), atol=1e-5)


def test_row_wise_means_latents_and_not_inputs() -> None:
    model = SparseAutoencoder(3, 5)
    with torch.no_grad():
        model.decoder_weight.mul_(torch.arange(1.0, 6)[:, None])
    model.normalize_decoder_weights_row_wise()
    assert model.decoder_weight.shape == (5, 3)
    assert torch.allclose(model.decoder_weight.norm(dim=1), torch.ones(5))
    tied = TiedWeightSparseAutoencoder(3, 5)
    with torch.no_grad():
        tied.weight.mul_(7)
    tied.normalize_weights_row_wise()
    assert torch.allclose(tied.weight.norm(dim=1), torch.ones(5))


def test_the_gradient_of_an_atom_has_no_component_along_it() -> None:
    model = SparseAutoencoder(6, 10)
    model(torch.randn(30, 6)).square().sum().backward()
    weight = model.decoder_weight
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0.1
    assert (weight.grad * weight.detach()).sum(dim=1).abs().max() < 1e-4


def test_the_tied_decoder_is_the_transpose_of_the_encoder() -> None:
    model = TiedWeightSparseAutoencoder(6, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(30, 6)
        (model(x) - x).square().sum().backward()
        optimizer.step()
        model.normalize()
    encoder = model.preactivations(torch.eye(6)) - model.encoder_bias  # (D, L)
    decoder = model.reconstruct(torch.eye(10)) - model.decoder_bias  # (L, D)
    assert torch.allclose(encoder.T, decoder, atol=1e-6)
    plain = SparseAutoencoder(6, 10)
    matrices = [sum(p.numel() for p in one.parameters() if p.ndim == 2) for one in (model, plain)]
    assert matrices[1] == 2 * matrices[0]


def test_a_zero_row_stays_finite() -> None:
    assert torch.equal(unit_rows(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_topk_keeps_the_largest_of_each_row_also_of_equal_ones() -> None:
    assert keep_largest(torch.tensor([[3.0, 1, 2], [0, 5, 4]]), 2).tolist() == [[3, 0, 2], [0, 5, 4]]
    assert (keep_largest(torch.ones(4, 6), 2) != 0).sum(1).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("guess", [0.0, 0.5, 100.0])
def test_batchtopk_keeps_the_largest_of_the_batch_whatever_is_guessed(guess: float) -> None:
    values = torch.rand(40, 12)
    codes, lowest = keep_largest_of_batch(values, 3, torch.tensor(guess))
    kept = values.flatten().sort(descending=True).values[:120]
    assert (codes > 0).sum() == 120
    assert lowest == kept[-1]
    assert torch.equal(codes[codes > 0].sort(descending=True).values, kept)


def test_batchtopk_uses_its_threshold_only_at_inference() -> None:
    model = SparseAutoencoder(6, 10, activation="batchtopk", k=2)
    x = torch.randn(64, 6)
    assert (model.train().encode(x) > 0).sum() == 128
    assert model.threshold > 0
    alone = torch.cat([model.eval().encode(one[None]) for one in x])
    assert torch.allclose(alone, model.encode(x), atol=1e-6)  # no row depends on the others


def test_padding_has_no_influence() -> None:
    model, x = make(SparseAutoencoder, {}), torch.randn(5, 6)
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[:, 4:] = False
    other = x.clone()
    other[:, 4:] = 99
    assert torch.equal(model.encode(x, mask), model.encode(other, mask))


def test_latents_of_a_deep_decoder_have_no_direction() -> None:
    model = SparseAutoencoder(6, 10, decoder_hidden=[4])
    assert torch.allclose(model.atoms().norm(dim=1), torch.ones(10), atol=1e-6)
    with pytest.raises(ModelError, match="hidden layer"):
        model.dictionary()


def test_static_losses_carry_the_names_of_the_field() -> None:
    z = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    for kind in CLASSES:
        assert kind.l1_sparsity_loss(z).item() == pytest.approx(1.75)
        assert kind.hoyer_sparsity_loss(z).item() == pytest.approx(0.4)
        assert kind.kl_divergence_sparsity_loss(z, target_sparsity=0.05).item() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"input_dim": -1}, "input_dim"),
        ({"activation": "topk", "k": 11}, "k 11 is larger than latent_dim 10"),
        ({"activation": "softmax"}, "activation"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_sizes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SparseAutoencoder(**{"input_dim": 6, "latent_dim": 10, **options})


def test_unequal_hidden_layers_can_not_be_tied() -> None:
    with pytest.raises(ModelError, match="equal width"):
        TiedWeightSparseAutoencoder(6, 10, encoder_hidden=[4])


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(TrainingError, match="cannot scale"):
        SparseAutoencoder(2, 3).standardise(torch.zeros(2), torch.tensor([1.0, 0.0]))
