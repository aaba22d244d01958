import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from wscore import ui
from wscore.errors import DataError
from wscore.tracking import open_tracker


def test_the_address_shows_the_runs_and_not_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("WSCORE_TRACKING", "on")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with open_tracker("stage", {}):
        pass
    address = ui.runs_address(tmp_path / "mlflow.db", 5001)
    assert address == "http://127.0.0.1:5001/#/experiments/1/runs?workflowType=machine_learning"


def test_without_runs_the_remedy_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(DataError, match=r"mlflow\.db: no runs here.*make repro"):
        ui.runs_address(tmp_path / "mlflow.db", 5000)
    with pytest.raises(SystemExit, match="no runs here"):
        ui.main([])
    assert not (tmp_path / "mlflow.db").exists()


def test_the_server_gets_port_store_and_further_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(ui, "runs_address", lambda _, port: f"http://127.0.0.1:{port}/#/experiments/1/runs")
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: started.append(command) or SimpleNamespace(returncode=3)
    )
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        ui.main(["--port", "7", "--dev"])
    assert ended.value.code == 3
    assert "Runs: http://127.0.0.1:7/#/experiments/1/runs" in capsys.readouterr().out
    assert started[0][started[0].index("--port") + 1] == "7"
    assert started[0][-1] == "--dev"
