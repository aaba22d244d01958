"""Runs from elsewhere go through all three stages of forecasting."""

from pathlib import Path

import pytest
import torch

from tests.stages.forecast_workspace import run_base, run_evaluation, run_predictor, write_params
from wscore.io import read_json
from wscore.models.folder import read_model_config


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
