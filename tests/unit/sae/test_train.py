"""The recipe of sparse dictionaries: it finds a planted one, and every part of the loss does what it is for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wscore.config import load_section, read_yaml
from wscore.errors import ConfigError, TrainingError, WscoreWarning
from wscore.io import write_json
from wscore.sae.dataset import ArrayRows, RowBatches, Scaler, fit_scaler
from wscore.sae.model import SparseAutoencoder
from wscore.sae.rows import UnitBatch
from wscore.sae.train import (
    PENALTIES,
    SCHEDULE,
    Resample,
    SaeConfig,
    SparseTrainingModule,
    auxiliary_loss,
    build_sae,
    calibrate_threshold,
    sae_metrics,
    sae_objective,
    train_sae,
)
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.model_folder import load_model, save_model
from wscore.training.state import FitConfig

PARAMS = Path(__file__).parents[3] / "params.yaml"
SPARSITIES = ("l1", "kl", "hoyer", "topk", "batchtopk", "jumprelu")
SMALL = {"latent_dim": 24, "k": 3, "epochs": 2, "batch_size": 64, "scaling": "global"}


class MatrixRows(ArrayRows):
    """Rows of one matrix; the last fifth is the validation split."""

    def __init__(self, values: torch.Tensor) -> None:
        cut = len(values) * 4 // 5
        super().__init__(train=values[:cut], validation=values[cut:])


@pytest.fixture
def config(tmp_path: Path):
    def make(**changes: Any) -> SaeConfig:
        path = tmp_path / "params.json"
        write_json(path, {"sae": {**read_yaml(PARAMS)["sae"], **SMALL, **changes}})
        return load_section(SaeConfig, "sae", path)

    return make


def planted(
    rows: int = 2000, *, width: int = 16, atoms: int = 24, active: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows that are sums of a few atoms, and the atoms."""
    dictionary = torch.nn.functional.normalize(torch.randn(atoms, width), dim=1)
    codes = torch.zeros(rows, atoms).scatter(1, torch.rand(rows, atoms).topk(active).indices, 1.0)
    return (codes * (0.5 + torch.rand(rows, atoms))) @ dictionary, dictionary


@pytest.mark.parametrize("tied", [False, True])
def test_it_recovers_a_planted_dictionary(config, tied: bool) -> None:
    values, atoms = planted(width=32, atoms=40)
    made = config(k=2, latent_dim=48, epochs=20, patience=20, lr=0.01, tied=tied, sparsity="batchtopk", scaling="none")
    trained = train_sae(MatrixRows(values), made)
    cosine = atoms @ torch.nn.functional.normalize(trained.model.dictionary(), dim=1).T
    assert cosine.max(dim=1).values.mean() > 0.95
    shuffled = atoms[:, torch.randperm(32)] @ torch.nn.functional.normalize(trained.model.dictionary(), dim=1).T
    assert shuffled.max(dim=1).values.mean() < 0.85


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("tied", [False, True])
def test_every_sparsity_learns_and_keeps_unit_atoms_also_in_the_file(
    config, sparsity: str, tied: bool, tmp_path: Path
) -> None:
    values, _ = planted(600)
    trained = train_sae(MatrixRows(values), config(sparsity=sparsity, tied=tied, epochs=4))
    rows = trained.history.rows
    assert rows[-1]["train_reconstruction"] < rows[0]["train_reconstruction"] or sparsity in PENALTIES
    assert {
        f"{split}_{part}" for split in ("train", "validation") for part in ("loss", "reconstruction", "sparsity")
    } <= set(rows[0])
    save_model(tmp_path / "sae", trained.model)
    saved = load_model(tmp_path / "sae")
    stored = saved.weight if tied else saved.decoder_weight
    assert torch.allclose(stored.norm(dim=1), torch.ones(24), atol=1e-6)
    x = torch.randn(5, 16)
    assert torch.equal(saved(x), trained.model(x))
    assert torch.equal(saved.mean, fit_scaler(MatrixRows(values), np.arange(480), "global").centre)


@pytest.mark.parametrize("sparsity", PENALTIES)
def test_the_weight_of_the_penalty_changes_the_weights_after_one_step(config, sparsity: str) -> None:
    values, _ = planted(64)
    ends = []
    for weight in (0.0, 1.0):
        made = config(sparsity=sparsity, sparsity_weight=weight, epochs=1)
        ends.append(train_sae(MatrixRows(values), made).model.state_dict())
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("sparsity", ["topk", "batchtopk"])
def test_sparsities_without_a_penalty_have_no_use_for_its_weight(config, sparsity: str) -> None:
    assert config(sparsity=sparsity, sparsity_weight=5.0).penalty_weight == 0
    assert sparsity not in PENALTIES


def test_the_auxiliary_loss_reaches_a_dead_encoder_row() -> None:
    model = SparseAutoencoder(6, 10, activation="topk", k=2)
    with torch.no_grad():
        model.encoder_bias[3] = -50.0  # far from ever being active
    u, mask = torch.randn(40, 6), torch.ones(40, 6, dtype=torch.bool)
    dead = torch.zeros(10, dtype=torch.bool)
    dead[3] = True
    values = model.preactivations(u)
    assert (values[:, 3] < 0).all()
    error = (u - model.reconstruct(model.activate(values))).detach()
    auxiliary_loss(model, values, dead, error, mask, k=4).backward()
    gradient = model.encoder_weight.grad
    assert gradient is not None
    assert gradient[3].abs().max() > 1e-4
    assert gradient[~dead].abs().max() == 0
    assert model.decoder_bias.grad is None or not model.decoder_bias.grad.any()


def test_the_auxiliary_loss_is_the_share_left_unexplained() -> None:
    model = SparseAutoencoder(2, 3, activation="topk", k=1)
    with torch.no_grad():
        model.encoder_weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        model.decoder_weight.copy_(model.encoder_weight)
        model.decoder_bias.fill_(9.0)  # has no part in it
    u = torch.tensor([[2.0, 1.0]])
    dead = torch.tensor([False, True, False])
    loss = auxiliary_loss(model, model.preactivations(u), dead, torch.tensor([[0.0, 2.0]]), torch.ones(1, 2).bool(), 2)
    assert loss.item() == pytest.approx((2 - 1) ** 2 / 2**2)


def test_silent_latents_are_counted_in_rows_and_die_after_their_window(config) -> None:
    made = config(dead_window=1.0, sparsity="topk", k=1, latent_dim=4)
    model = build_sae(made, 2, Scaler(torch.zeros(2), torch.ones(2), torch.zeros(2), 1.0))
    with torch.no_grad():
        model.encoder_bias.copy_(torch.tensor([10.0, -10.0, -10.0, -10.0]))
    trainee, loss = SparseTrainingModule(model).train(), sae_objective(made, spread=2.0, rows=20)
    batch = UnitBatch(torch.randn(10, 2), torch.ones(10, 2, dtype=torch.bool))
    shares = [loss(trainee, batch)["dead"].item() for _ in range(2)]
    assert shares == [0.0, 0.75]
    assert trainee.silent.tolist() == [0.0, 20.0, 20.0, 20.0]
    before = trainee.silent.clone()
    loss(trainee.eval(), batch)
    assert torch.equal(trainee.silent, before)


def test_resampling_revives_dead_latents_and_forgets_their_moments(config) -> None:
    values, _ = planted(500)
    made = config(dead="resample", dead_window=1.0, epochs=3, sparsity="l1", sparsity_weight=0.0, lr=1e-4)
    rows = MatrixRows(values)
    dying = [build_sae(made, 16, fit_scaler(rows, rows.rows_of("train"), "global")) for _ in range(2)]
    for model in dying:
        with torch.no_grad():
            model.encoder_bias[:6] = -50.0
    for model, callbacks in zip(dying, ([], [Resample(rows, rows.rows_of("train"), made)]), strict=True):
        fit(
            SparseTrainingModule(model), train=RowBatches(rows, rows.rows_of("train"), batch_size=64, seed=0, shuffle=True),
            validation=None, loss=sae_objective(made, spread=16.0, rows=400),
            config=FitConfig.of(made, schedule=SCHEDULE), callbacks=callbacks,
        )  # fmt: skip
    silent = [int((~(model.encode(values) > 0).any(0)[:6]).sum()) for model in dying]
    assert silent == [6, 0]


def test_the_threshold_gives_k_codes_per_training_row(config) -> None:
    values, _ = planted(1000)
    made, rows = config(sparsity="batchtopk", k=3), MatrixRows(values)
    model = build_sae(made, 16, fit_scaler(rows, rows.rows_of("train"), "global")).eval()
    calibrate_threshold(model, rows, rows.rows_of("train"))
    assert (model.encode(values[:800]) > 0).sum() == 3 * 800


def test_equal_seeds_give_equal_bits(config) -> None:
    values, _ = planted(300)
    first, second = (train_sae(MatrixRows(values), config()).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train_sae(MatrixRows(values), config(seed=1)).model.state_dict()
    assert not torch.equal(first["encoder_weight"], other["encoder_weight"])


def test_reconstruction_is_the_unexplained_share_of_the_variance(config) -> None:
    rows = MatrixRows(3 + 2 * torch.randn(500, 5))
    made = config(sparsity="topk")
    scaler = fit_scaler(rows, rows.rows_of("train"), "global")
    model = build_sae(made, 5, scaler)
    with torch.no_grad():
        model.encoder_bias.fill_(-100)  # all codes are zero: the answer is the mean
    batch = rows.batch(rows.rows_of("train"))
    found = sae_objective(made, spread=scaler.spread, rows=400)(SparseTrainingModule(model).eval(), batch)
    assert found["reconstruction"].item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("how", ["none", "global", "columns"])
def test_scaling(how: Any) -> None:
    rows = MatrixRows(torch.randn(400, 3) * torch.tensor([1.0, 2.0, 5.0]) + 4)
    train = rows.rows_of("train")
    found = fit_scaler(rows, train, how)
    u = (rows.values[:320] - found.centre) / found.scale
    assert float(u.square().sum(1).mean()) == pytest.approx(found.spread, rel=1e-4)
    variances = u.var(dim=0, correction=0)
    if how == "columns":
        assert torch.allclose(variances, torch.ones(3), atol=1e-4)
    elif how == "global":
        assert float(variances.mean()) == pytest.approx(1, rel=1e-4)
        assert len(set(found.scale.tolist())) == 1
    else:
        assert found.centre.tolist() == [0, 0, 0]


def test_constant_columns_are_named_and_survive() -> None:
    values = torch.randn(100, 4)
    values[:, 2] = 7
    rows = MatrixRows(values)
    with pytest.warns(WscoreWarning, match=r"1 of 4 input columns are constant \(first: column 2\)"):
        found = fit_scaler(rows, rows.rows_of("train"), "columns")
    assert found.scale[2] == 1
    with pytest.raises(TrainingError, match="all columns of the input are constant"):
        fit_scaler(MatrixRows(torch.ones(50, 3)), np.arange(40), "global")


def test_rows_that_are_not_finite_are_counted_and_named() -> None:
    values = torch.randn(50, 3)
    values[[4, 9], 1] = torch.nan
    with pytest.raises(TrainingError, match=r"2 of 40 rows .* first in row 4 of the zoo"):
        fit_scaler(MatrixRows(values), np.arange(40), "global")


def test_a_dead_model_is_refused_and_a_half_dead_one_named(config) -> None:
    rows = MatrixRows(torch.randn(100, 6))
    made, scaler = config(sparsity="l1"), fit_scaler(rows, rows.rows_of("train"), "global")
    model, history = build_sae(made, 6, scaler), History("validation_loss")
    history.rows.append({"epoch": 1, "validation_loss": 1.0})
    with torch.no_grad():
        model.encoder_bias[:20] = -100
    with pytest.warns(WscoreWarning, match="83% of the latents are dead"):
        assert sae_metrics(model, rows, scaler, history)["dead_fraction"] == pytest.approx(20 / 24)
    with torch.no_grad():
        model.encoder_bias.fill_(-100)
    with pytest.raises(TrainingError, match="every latent is dead"):
        sae_metrics(model, rows, scaler, history)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 0}, "sae.latent_dim"),
        ({"k": 25}, "k 25 is larger than latent_dim 24"),
        ({"sparsity": "l2"}, "sae.sparsity"),
        ({"tied": True, "encoder_hidden": [8]}, "to be equal"),
        ({"encoder_hidden": [8, 8]}, "sae.encoder_hidden"),
        ({"dead": "resample", "decoder_hidden": [8]}, "needs empty"),
        ({"target_rate": 1.0}, "sae.target_rate"),
    ],
)
def test_bad_parameters_are_named(config, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
