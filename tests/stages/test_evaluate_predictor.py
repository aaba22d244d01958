from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.stages.forecast_workspace import run_base, run_evaluation, run_predictor, write_params
from wscore.io import hash_folder, read_json
from wscore.training.model_folder import read_model_config

SIZES = {"train": 100, "test": 50}
SPLITS = ("temporal", "unseen_run", "unseen_run_all")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    write_params(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_base()
        run_predictor()
        run_evaluation()
    return folder


@pytest.fixture(autouse=True)
def inside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


def test_figures_tables_and_pictures() -> None:
    found = read_json(Path("metrics/plots.json"))
    assert list(found) == ["predictor_test", "predictor_test_of"]
    assert list(found["predictor_test"]) == list(SPLITS)
    for split in SPLITS:
        for horizon in ("h1", "h2"):
            methods = found["predictor_test"][split][horizon]
            assert methods["truth"]["skill"] == 1
            assert methods["copy_last"]["skill"] == 0
            assert all(0 <= methods[name]["accuracy"] <= 1 for name in methods)
            assert methods["truth"]["agreement"] == 1
        assert set(found["predictor_test"][split]["recovery"]) == {"r0", "r2"}
    pictures = {f"{name}.png" for name in ("skill", "accuracy", "recovery", "layers", "paths", "training")}
    curves = {f"{metric}_{split}.csv" for metric in ("skill", "accuracy", "loss") for split in SPLITS}
    assert {path.name for path in Path("plots").iterdir()} == pictures | curves | {
        f"{name}.csv" for name in ("summary", "paths", "base", "recovery", "layers")
    }
    assert all((Path("plots") / name).stat().st_size > 5_000 for name in pictures)
    assert len(pd.read_csv("plots/base.csv")) == 2 * 17


def test_same_bytes_again_and_one_line(capsys: pytest.CaptureFixture) -> None:
    run_evaluation("again")
    line = capsys.readouterr().out
    assert line.startswith("temporal: skill ")
    assert line.count("\n") == 1
    assert hash_folder(Path("again")) == hash_folder(Path("plots"))
    assert Path("metrics/again.json").read_bytes() == Path("metrics/plots.json").read_bytes()


def test_a_missing_predictor_ends_in_one_line(tmp_path: Path, workspace: Path, monkeypatch) -> None:
    write_params(tmp_path)
    (tmp_path / "trajectories").symlink_to(workspace / "trajectories")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"evaluate_predictor: predictor: no model here"):
        run_evaluation()
    assert not Path("plots").exists()
    assert not Path("metrics").exists()


def test_runs_on_a_data_set_that_was_not_learned_from_are_a_test_of_their_own(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two data sets in one recording; `unseen_datasets` keeps the runs of one out of training and baselines."""
    random = np.random.default_rng(0)
    images = {f"x_{part}": random.integers(0, 256, (count, 8, 8), np.uint8) for part, count in SIZES.items()}
    labels = {f"y_{part}": np.arange(count) % 10 for part, count in SIZES.items()}
    (tmp_path / "noise").mkdir()
    np.savez(tmp_path / "noise" / "noise.npz", **images, **labels)
    monkeypatch.chdir(tmp_path)
    further = "base: {further_datasets: [{dataset: noise, root: noise}]}"
    write_params(tmp_path, further + "\npredictor: {unseen_datasets: [noise]}")
    run_base()
    run_predictor()
    run_evaluation()
    facts = read_model_config(Path("predictor"))["training"]
    assert (facts["training_runs"], facts["held_out_runs"], facts["dataset"]) == (["seed-0"], ["seed-1"], "digits")
    found = read_json(Path("metrics/plots.json"))["predictor_test"]
    assert list(found) == [*SPLITS, "unseen_dataset", "unseen_dataset_all"]
    for split in ("unseen_dataset", "unseen_dataset_all"):
        judged = found[split]["h1"]
        assert judged["copy_last"]["skill"] == 0
        assert judged["truth"]["skill"] == 1
        assert judged["ours"]["skill"] != found["unseen_run"]["h1"]["ours"]["skill"]
        assert judged["truth"]["accuracy"] < 0.5  # on images of its own, which are noise
    assert Path("predictor/model.safetensors").read_bytes() == (workspace / "predictor/model.safetensors").read_bytes()


def test_bands_are_judged_and_drawn(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trajectories").symlink_to(workspace / "trajectories")
    monkeypatch.chdir(tmp_path)
    write_params(
        tmp_path,
        "predictor: {kind: diffusion, samples: 4, diffusion_steps: 2, band: 0.7, chunk_size: 50, predictor_epochs: 1}\n"
        "forecast: {window_step: 4, scored_windows: 1}",
    )
    run_predictor()
    run_evaluation()
    table = pd.read_csv("plots/bands.csv")
    found = read_json(Path("metrics/plots.json"))["predictor_test"]
    for row in table.to_dict("records"):
        judged = found[row["split"]]["bands"][f"h{row['horizon']}"]
        assert judged == pytest.approx({"covered": row["covered"], "width": row["width"]}, rel=1e-6)
        assert row["aimed"] == 0.7
    assert list(dict.fromkeys(table["split"])) == list(SPLITS)
    assert Path("plots/bands.png").stat().st_size > 5_000
