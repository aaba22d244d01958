import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from stages.evaluate_heads import main
from stages.train_heads import main as train
from tests.stages.heads_workspace import SPLITS, read_representations, write_params, write_representations
from wscore.heads.evaluation.controls import controls_of
from wscore.heads.evaluation.evaluate import OURS
from wscore.heads.train import TASKS
from wscore.io import write_json
from wscore.zoo.store import Zoo, read_part, write_part

ARGUMENTS = [
    "--zoo", "zoo", "--tokens", "tokens", "--encoder", "encoder", "--representations", "representations",
    "--heads", "heads", "--metrics", "metrics/heads_test.json", "--plots", "plots/heads_test",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(make_tiny_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    make_tiny_zoo(folder / "zoo", runs=5)
    runs = sorted(set(Zoo(folder / "zoo").table["run_id"]))
    named = {run: ("digits", "bars")[(place + place // 4) % 2] for place, run in enumerate(runs)}
    for part in Zoo(folder / "zoo").parts:
        table, vectors = read_part(part)
        write_part(part, table.assign(dataset=table["run_id"].map(named)), vectors)
    write_representations(folder / "zoo", folder / "representations")
    write_params(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for task in TASKS:
            paths = ["--zoo", "zoo", "--tokens", "tokens", "--autoencoder", "autoencoder"]
            paths += ["--representations", "representations", "--history", f"{task}.csv"]
            train(["--task", task, *paths, "--out", f"heads/{task}"])
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("zoo", "encoder", "representations", "heads"):
        (tmp_path / name).symlink_to(made / name)
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_judges_every_head_beside_its_controls(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    main(ARGUMENTS)
    assert capsys.readouterr().out.startswith(
        "heads on held-out runs (weight statistics in brackets): patterns macro_f1"
    )
    content = json.loads(Path("metrics/heads_test.json").read_text())
    assert list(content) == ["heads_test", "heads_inside", "heads_test_of"]
    auroc, outside = (content["heads_inside"][name] for name in ("auroc", "outside"))
    assert {"noise", "untrained", "foreign", "mean"} < set(auroc)
    assert min(auroc.values()) >= 0
    assert set(outside) == set(auroc) - {"mean"} | {"test"}
    assert set(content["heads_test"]) == set(TASKS)
    for task, found in content["heads_test"].items():
        assert {OURS, *controls_of(task)} <= set(found), task
        assert (found["networks"], found["runs"]) == (8, 4)
        assert all(math.isfinite(value) for method in (OURS, *controls_of(task)) for value in found[method].values())
    assert content["heads_test"]["patterns"]["shapes"]["has_residual_f1"] == 1
    assert content["heads_test"]["patterns"]["shape_leaked"]["has_residual"] == 1
    files = sorted(path.name for path in Path("plots/heads_test").iterdir())
    assert [name for name in files if name.endswith(".csv")] == [
        "accuracy_points.csv", "accuracy_scores.csv", "hyperparameters_names.csv", "hyperparameters_points.csv",
        "hyperparameters_scores.csv", "patterns_roc.csv", "patterns_scores.csv",
    ]  # fmt: skip
    assert {name.replace(".csv", ".png") for name in files} <= set(files)
    points = pd.read_csv("plots/heads_test/accuracy_points.csv")
    assert {"model_id", "target", "true", OURS, *controls_of("accuracy")} <= set(points.columns)


def test_same_bytes_again(workspace: Path) -> None:
    write_params(workspace, tasks=["patterns", "accuracy"])
    found = []
    for _ in range(2):
        main(ARGUMENTS)
        files = [Path("metrics/heads_test.json"), *sorted(Path("plots/heads_test").iterdir())]
        found.append([path.read_bytes() for path in files])
    assert found[0] == found[1]


def test_only_the_tasks_asked_for(workspace: Path) -> None:
    write_params(workspace, tasks=["accuracy"])
    main(ARGUMENTS)
    assert list(json.loads(Path("metrics/heads_test.json").read_text())["heads_test"]) == ["accuracy"]


def test_a_missing_head_leaves_nothing(workspace: Path, made: Path) -> None:
    (workspace / "heads").unlink()
    (workspace / "heads").mkdir()
    (workspace / "heads" / "patterns").symlink_to(made / "heads" / "patterns")
    with pytest.raises(SystemExit, match="heads/accuracy: no model here"):
        main(ARGUMENTS)
    assert not Path("metrics").exists()
    assert not list(Path("plots").iterdir())


def test_each_data_set_is_held_out_in_turn(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    params = json.loads(Path("params.yaml").read_text())
    params["evaluate_heads"]["ood"] = "dataset"
    Path("params.yaml").write_text(json.dumps(params))
    main(ARGUMENTS)
    held = json.loads(Path("metrics/heads_test.json").read_text())["heads_held_out"]
    assert set(held) == {"bars", "digits"}
    split = dict(zip(sorted(set(Zoo(Path("zoo")).table["run_id"])), SPLITS, strict=True))
    table = Zoo(Path("zoo")).table.drop_duplicates("run_id")
    for name, tasks in held.items():
        judged = table["run_id"].map(split).eq("test") & table["dataset"].eq(name)
        assert {result["runs"] for result in tasks.values()} == {int(judged.sum())}, name
        assert all(math.isfinite(value) for value in tasks["accuracy"][OURS].values())
    assert "held out: ours at least as good in" in capsys.readouterr().out


def test_networks_of_unseen_widths_have_a_section(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    write_params(workspace, tasks=["accuracy"])
    table, manifest = read_representations(workspace / "representations")
    (workspace / "representations").unlink()
    (workspace / "representations").mkdir()
    held = sorted(set(table.loc[table["split"] == "test", "run_id"]))[:2]
    table.loc[table["run_id"].isin(held), "split"] = "unseen"
    table.to_parquet(workspace / "representations/representations.parquet")
    write_json(workspace / "representations/manifest.json", manifest)
    main(ARGUMENTS)
    content = json.loads(Path("metrics/heads_test.json").read_text())
    assert list(content) == ["heads_test", "heads_unseen", "heads_inside", "heads_test_of"]
    assert "unseen" in content["heads_inside"]["outside"]
    assert (content["heads_test"]["accuracy"]["runs"], content["heads_unseen"]["accuracy"]["runs"]) == (2, 2)
    assert {OURS, *controls_of("accuracy")} <= set(content["heads_unseen"]["accuracy"])
    assert "; on unseen widths: accuracy r2 " in capsys.readouterr().out
