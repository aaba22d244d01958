import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.stages.forecast_workspace import run_base, run_predictor, write_params
from wscore.forecasting.train import load_predictor
from wscore.io import hash_folder, read_json
from wscore.training.model_folder import read_model_config

KINDS = ("gram", "transformer_pca", "transformer_param", "diffusion")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_params(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_base()
    return folder


@pytest.fixture(autouse=True)
def workspace(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(recorded / "trajectories", tmp_path / "trajectories")
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_its_history_and_one_line(kind: str, workspace: Path, capsys: pytest.CaptureFixture) -> None:
    write_params(workspace, f"predictor: {{kind: {kind}}}")
    run_predictor()
    line = capsys.readouterr().out
    assert line.startswith(f"{kind}: ")
    assert line.count("\n") == 1
    history = pd.read_csv("predictor-history.csv")
    assert len(history) == 3
    assert {"train_loss", "train_skill"} <= set(history.columns)
    found = read_json(Path("metrics/predictor.json"))["predictor"]
    assert all(isinstance(value, float) for value in found.values())
    facts = read_model_config(Path("predictor"))["training"]
    assert facts["training_runs"] == ["seed-0"]
    assert facts["held_out_runs"] == ["seed-1"]
    load_predictor(Path("predictor"))
    if kind == "transformer_pca":  # 8 snapshots before the split
        assert found["components"] == facts["components"] <= 7
        assert f"PCA with {facts['components']} components (8 snapshots" in line


@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes_again(kind: str, workspace: Path) -> None:
    write_params(workspace, f"predictor: {{kind: {kind}}}")
    for out in ("a", "b"):
        run_predictor(out)
    assert hash_folder(Path("a")) == hash_folder(Path("b"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_of_what_comes_later_or_of_held_out_runs_reaches_the_model(kind: str, workspace: Path) -> None:
    write_params(workspace, f"predictor: {{kind: {kind}}}")
    run_predictor("before")
    for seed, first in ((0, 8), (1, 0)):
        path = Path(f"trajectories/seed-{seed}/weights.npy")
        weights = np.load(path)
        weights[first:] = 3 * weights[first:] + 1
        np.save(path, weights)
    run_predictor("after")
    before, after = (load_predictor(Path(name)).state_dict() for name in ("before", "after"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    weights = np.load("trajectories/seed-0/weights.npy")
    weights[7] += 0.01 * np.random.default_rng(0).standard_normal(weights.shape[1])  # the last one before the split
    np.save("trajectories/seed-0/weights.npy", weights)
    run_predictor("other")
    other = load_predictor(Path("other")).state_dict()
    assert any(not torch.equal(before[name], other[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("predictor: {kind: lstm}", "predictor.kind"),
        ("predictor: {train_split: 1.0}", "predictor.train_split"),
        ("predictor: {train_split: 0.1}", "predictor.train_split: leaves 1 of 17 snapshots to train on"),
        ("predictor: {train_split: 0.9}", "predictor.train_split: leaves 2 of 17 snapshots to test on"),
        ("predictor: {extrapolation_steps: 9}", "has too few snapshots; expected 23 or more"),
        ("predictor: {holdout_runs: 2}", "predictor.holdout_runs: leaves no run to train on"),
        ("predictor: {validation_runs: 1}", "predictor.validation_runs: leaves no run to train on"),
        ("predictor: {unseen_optimizers: [momentum]}", "predictor.unseen_datasets: leave no run to train on"),
        ("predictor: {learning_rate: 0.0}", "predictor.learning_rate"),
        ("predictor: {heads: 3}", "not a multiple of heads 3"),
    ],
)
def test_bad_parameters_end_in_one_line(changes: str, message: str, workspace: Path) -> None:
    write_params(workspace, changes)
    rejected(message)


def test_bad_trajectories_end_in_one_line() -> None:
    path = Path("trajectories/seed-1/weights.npy")
    weights = np.load(path)
    weights[4, 10] = np.nan
    np.save(path, weights)
    rejected("seed-1/weights.npy: snapshot 4 is not finite")
    path.unlink()
    rejected("seed-1/weights.npy: no such file")
    shutil.rmtree("trajectories")
    rejected("trajectories: holds no trajectory")


def test_a_validation_run_chooses_the_epoch_and_is_no_test(workspace: Path) -> None:
    shutil.copytree("trajectories/seed-1", "trajectories/seed-2")
    path = Path("trajectories/seed-2/manifest.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"seed-1"', '"seed-2"'), encoding="utf-8")
    write_params(workspace, "predictor: {validation_runs: 1}")
    run_predictor()
    history = pd.read_csv("predictor-history.csv")
    assert {"validation_loss", "validation_skill"} <= set(history.columns)
    facts = read_model_config(Path("predictor"))["training"]
    assert (facts["training_runs"], facts["validation_runs"]) == (["seed-0"], ["seed-1"])
    assert facts["held_out_runs"] == ["seed-2"]


def rejected(message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run_predictor()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("predictor").exists()
    assert not Path("predictor-history.csv").exists()
