from pathlib import Path

import pytest

from tests.stages.forecast_workspace import run_base, write_params
from wscore.forecasting.trajectories.store import open_trajectories
from wscore.io import hash_folder, read_json


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_trajectories_metrics_and_one_line(capsys: pytest.CaptureFixture) -> None:
    run_base()
    assert capsys.readouterr().out.startswith("2 runs of mlp (3,466 weights), 17 snapshots each, test accuracy 0.")
    runs = open_trajectories(Path("trajectories"))
    assert [len(run) for run in runs] == [17, 17]
    found = read_json(Path("metrics/base.json"))
    assert list(found) == ["base"]
    assert all(isinstance(value, float) for value in found["base"].values())
    assert found["base"]["test_accuracy"] > 0.3  # it learns


def test_same_bytes_again() -> None:
    for out in ("a", "b"):
        run_base(out)
    assert hash_folder(Path("a")) == hash_folder(Path("b"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("base: {network: lenet6}", "base.network: unknown network"),
        ("base: {optimizers: [{name: sgd, lr: -1}]}", "base.optimizers[0].lr"),
        ("base: {optimizers: [{name: sgd, lr: 1}, {name: sgd, lr: 1}]}", "base.optimizers"),
        ("base: {source: folder}", "base.path"),
        ("base: {seeds: [1, 1]}", "base.seeds"),
        ("base: {snapshots_per_epoch: 50}", "base.snapshots_per_epoch"),
        ("base: {network: lenet5}", "base.size"),
        ("base: {dataset: mnist, root: nowhere}", "nowhere"),
        ("base: {dataset: [digits, mnist]}", "base.dataset"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(changes: str, message: str, workspace: Path) -> None:
    write_params(workspace, changes)
    with pytest.raises(SystemExit) as caught:
        run_base()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("trajectories").exists()
    assert not Path("metrics/base.json").exists()
