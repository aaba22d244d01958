"""Runs from elsewhere go through all three stages of forecasting."""

from pathlib import Path

import pytest
import torch

from tests.stages.forecast_workspace import run_base, run_evaluation, run_predictor, write_params
from wscore.io import read_json
from wscore.networks.lenet import NetworkSpec, build_network
from wscore.training.model_folder import read_model_config


def test_networks_that_cannot_be_built_are_forecast_as_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("a", "b"):
        weight, change = torch.randn(4, 3), torch.randn(4, 3)
        (tmp_path / "own" / run).mkdir(parents=True)
        for epoch in range(17):
            state = {"weight": weight + change * epoch**0.5 + 0.01 * torch.randn(4, 3)}
            torch.save(state, tmp_path / "own" / run / f"epoch_{epoch}_acc_{50 + epoch}.pt")
    write_params(tmp_path, "base: {source: folder, path: own, pattern: 'epoch_{epoch}_acc_{acc}.pt'}")
    run_base()
    assert capsys.readouterr().out == "2 runs of unknown (12 weights), 17 snapshots each, test accuracy 0.660\n"
    run_predictor()
    run_evaluation()
    assert read_model_config(Path("predictor"))["training"]["training_runs"] == ["a"]
    judged = read_json(Path("metrics/plots.json"))["predictor_test"]["unseen_run"]["h1"]["ours"]
    assert isinstance(judged["skill"], float)
    assert judged.get("accuracy") is None


def test_networks_that_can_be_built_are_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """How they were trained is not known, so that they are not trained further."""
    monkeypatch.chdir(tmp_path)
    spec = NetworkSpec(name="mlp", channels=1, size=8, classes=10)
    for seed, run in enumerate(("a", "b")):
        first, last = build_network(spec, seed).state_dict(), build_network(spec, seed + 10).state_dict()
        (tmp_path / "own" / run).mkdir(parents=True)
        for step in range(17):
            state = {name: first[name].lerp(last[name], (step / 16) ** 0.5) for name in first}
            torch.save(state, tmp_path / "own" / run / f"{step}.pt")
    write_params(tmp_path, "base: {source: folder, path: own}")
    run_base()
    assert capsys.readouterr().out.startswith("2 runs of mlp (3,466 weights), 17 snapshots each, test accuracy 0.")
    run_predictor()
    run_evaluation()
    judged = read_json(Path("metrics/plots.json"))["predictor_test"]["unseen_run"]["h1"]["ours"]
    assert isinstance(judged["accuracy"], float)
