import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from stages.train_heads import main
from tests.stages.heads_workspace import read_representations, write_params, write_representations
from wscore.heads.train import TASKS, load_head
from wscore.io import write_json


@pytest.fixture(scope="module")
def made(make_tiny_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    make_tiny_zoo(folder / "zoo", runs=5)
    write_representations(folder / "zoo", folder / "representations")
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("zoo", "representations"):
        (tmp_path / name).symlink_to(made / name)
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(task: str, out: str = "out") -> list[str]:
    return [
        "--task", task, "--zoo", "zoo", "--tokens", "tokens", "--autoencoder", "autoencoder",
        "--representations", "representations",
        "--out", f"{out}/{task}", "--history", f"{out}/{task}.csv",
    ]  # fmt: skip


def stop(task: str) -> str:
    """Run the stage, which must fail with one line and leave nothing."""
    with pytest.raises(SystemExit) as caught:
        main(arguments(task))
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()
    return str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_a_head_and_its_history(task: str, workspace: Path, capsys: pytest.CaptureFixture) -> None:
    main(arguments(task))
    assert capsys.readouterr().out.startswith(f"{task}: best epoch ")
    head = load_head(Path("out") / task, task)
    assert len(pd.read_csv(f"out/{task}.csv")) == 3
    assert set(head.model.config.kinds) == {target.name for target in head.targets}
    assert not Path(".cache/checkpoints").is_dir() or not list(Path(".cache/checkpoints").rglob("*.safetensors"))
    assert list(Path("runs/train_heads").glob("events*"))


def test_same_bytes_again(workspace: Path) -> None:
    for out in ("a", "b"):
        main(arguments("hyperparameters", out))
    for name in ("hyperparameters/config.json", "hyperparameters/model.safetensors", "hyperparameters.csv"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_what_a_user_may_get_wrong(workspace: Path) -> None:
    assert "unknown task; expected one of patterns, accuracy, hyperparameters; got depth" in stop("depth")
    write_params(workspace, accuracy_target="val_accuracy")
    assert "heads.accuracy_target: val_accuracy: the zoo has no column 'val_accuracy'" in stop("accuracy")
    write_params(workspace, accuracy_target="dataset")
    assert "dataset: column is not numeric" in stop("accuracy")
    write_params(workspace, patterns=["has_residual", "dataset_digits"])
    assert "heads.patterns" in (message := stop("patterns"))
    assert "dataset_digits (only True)" in message
    write_params(workspace, lr="fast")
    assert "heads.lr" in stop("accuracy")


def test_representations_that_do_not_fit(workspace: Path) -> None:
    table, manifest = read_representations(workspace / "representations")
    (workspace / "representations").unlink()
    assert "representations/manifest.json: no such file" in stop("accuracy")
    write_json(Path("representations/manifest.json"), manifest)
    assert "representations: no representations here" in stop("accuracy")
    table.drop(columns="split").to_parquet("representations/representations.parquet")
    assert "representations.parquet: is not a table of representations" in stop("accuracy")
    table.to_parquet("representations/representations.parquet")
    write_json(Path("representations/manifest.json"), manifest | {"zoo": "another"})
    assert "belong to another zoo" in (message := stop("accuracy"))
    assert "run `dvc repro cache_representations`" in message
    write_json(Path("representations/manifest.json"), manifest)
    main(arguments("accuracy"))


def test_the_scaling_is_saved(workspace: Path) -> None:
    main(arguments("hyperparameters"))
    saved = json.loads(Path("out/hyperparameters/config.json").read_text())
    kinds = {target["name"]: target for target in saved["targets"]}
    assert kinds["weight_decay"]["floor"] == pytest.approx(1e-5)
    assert kinds["optimizer"]["vocabulary"] == ["adam", "adamw", "momentum", "sgd"]
