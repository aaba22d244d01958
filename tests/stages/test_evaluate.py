import json
from pathlib import Path

import pytest

from stages.evaluate import main
from wscore.io import write_csv, write_json

METHOD = {"agreement": 0.75, "accuracy_change": 0.1, "accuracy_original": 0.9, "r2": 0.5, "compression_ratio": 20.0}
FIGURES = {
    "zoo": {"networks": 96.0},
    "tokens": {"items": 96.0},
    "codec": {"bytes": 300.0},
    "codec_test": {
        "networks": 10.0,
        "runs": 5.0,
        "networks_not_run": 0.0,
        "headline": 20.0,
        "decoder_bytes": 300.0,
        "20x": {"search": METHOD, "single_pass": METHOD, "plain": METHOD | {"agreement": 0.5}, "pays_from": 1.0},
    },
    "ae": {"loss": 0.5},
    "autoencoder_test": {
        "networks": 10.0,
        "runs": 5.0,
        "networks_not_run": 0.0,
        "ours": METHOD,
        "pca": METHOD | {"agreement": 0.5},
    },
    "encoder": {"validation_loss": 0.5},
    "heads_test": {"accuracy": {"ours": {"r2": 0.9}, "statistics": {"r2": 0.95}}},
    "sae": {"validation_fvu": 0.5},
    "sae_test": {
        "codes": {"l0": 3.0, "latents": 8.0, "dead_fraction": 0.0},
        "features": {
            "alive": 8.0,
            "discovered_all": 2.0,
            "discovered_all_shuffled": 0.0,
            "discovered_same_shapes": 1.0,
            "discovered_same_shapes_shuffled": 0.0,
        },
        "ours": {"fvu": 0.25},
        "pca": {"fvu": 0.5},
    },
    "base": {"accuracy": 0.97},
    "predictor_test": {
        "temporal": {"windows": 9.0, "forecastable": 1.0, "h1": {"ours": {"skill": 0.5}, "linear": {"skill": 0.25}}}
    },
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for key, figures in FIGURES.items():
        write_json(tmp_path / "metrics" / f"{'autoencoder' if key == 'ae' else key}.json", {key: figures})
    write_csv(
        tmp_path / "plots/autoencoder/history.csv", {"epoch": [1, 2], "train_loss": [2, 1], "validation_loss": [3, 2]}
    )
    return tmp_path


def run(capsys: pytest.CaptureFixture[str]) -> str:
    main(["--metrics", "metrics", "--plots", "plots", "--headline-file", "metrics/evaluate.json",
          "--table", "metrics/table.md", "--out", "plots/evaluate"])  # fmt: skip
    return capsys.readouterr().out


def test_writes_headline_table_and_pictures(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = run(capsys)
    assert "agreement with the original 0.750 (best baseline 0.500)" in line
    found = json.loads((workspace / "metrics/evaluate.json").read_text())
    assert list(found) == ["evaluate"]
    assert found["evaluate"]["heads"] == {"accuracy_r2": 0.9, "accuracy_r2_best_control": 0.95}
    assert found["evaluate"]["forecast_temporal"]["skill_1"] == 0.5
    assert found["evaluate"]["missing_parts"] == 0
    assert "| **0.750** |" in (workspace / "metrics/table.md").read_text()
    assert sorted(path.name for path in (workspace / "plots/evaluate").iterdir()) == ["summary.png", "training.png"]


def test_twice_the_same_bits(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ("metrics/evaluate.json", "metrics/table.md", "plots/evaluate/summary.png", "plots/evaluate/training.png")
    run(capsys)
    first = [(workspace / path).read_bytes() for path in paths]
    run(capsys)
    assert [(workspace / path).read_bytes() for path in paths] == first


def test_a_missing_piece_is_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "metrics/heads_test.json").unlink()
    assert "missing: heads_test" in run(capsys)
    assert "dvc repro evaluate_heads" in (workspace / "metrics/table.md").read_text()


def test_an_unreadable_file_stops_the_stage(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "metrics/zoo.json").write_text("{")
    with pytest.raises(SystemExit) as stopped:
        run(capsys)
    assert "metrics/zoo.json" in str(stopped.value)
    assert not (workspace / "metrics/evaluate.json").exists()
