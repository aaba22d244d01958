"""The commands of the README, on a clone with the smoke preset."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.imports import is_code, pipeline
from tests.e2e.workspace import Outcome, Workspace
from wscore.presets import apply_preset

pytestmark = pytest.mark.slow

HEADS = ["train_heads@accuracy", "train_heads@hyperparameters", "train_heads@patterns"]


def all_stages() -> set[str]:
    return {*pipeline(), *HEADS} - {"train_heads"}


def test_repro_runs_every_stage_and_leaves_git_clean(first_run: Outcome, workspace: Workspace) -> None:
    assert set(first_run.stages) == all_stages()
    assert "Traceback" not in first_run.text
    assert "Warning" not in first_run.text
    assert workspace.git("status", "--short") == ""
    tracked = workspace.git("ls-files").split()
    assert not [name for name in tracked if name.startswith(("models/", "plots/", "runs/", ".cache/"))]


def test_dvc_shows_the_headline_metrics_alone(first_run: Outcome, workspace: Workspace) -> None:
    outcome = workspace.dvc("metrics", "show", "--json")
    assert outcome.status == 0, outcome.text
    files = json.loads(outcome.text)[""]["data"]
    assert list(files) == ["metrics/evaluate.json"]
    parts = files["metrics/evaluate.json"]["data"]["evaluate"]
    assert 20 < sum(len(part) if isinstance(part, dict) else 1 for part in parts.values()) < 50


def test_second_repro_runs_nothing(first_run: Outcome, workspace: Workspace) -> None:
    outcome = workspace.dvc("repro")
    assert outcome.status == 0
    assert outcome.stages == []
    assert "up to date" in outcome.text


def test_published_cards_load_what_they_say(first_run: Outcome, workspace: Workspace) -> None:
    cards = sorted((workspace.folder / "models/published").rglob("README.md"))
    assert {card.parent.name for card in cards} >= {"encoder", "decoder", "predictor", "accuracy"}
    snippets = [
        "\n".join(re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)) for card in cards
    ]
    script = workspace.folder.parent / "snippets.py"
    script.write_text("\n".join(snippets), encoding="utf-8")
    outcome = workspace.run("python", str(script), env={"PYTHONPATH": str(workspace.folder)})
    assert outcome.status == 0, outcome.text


def test_stages_list_the_classes_of_the_models_that_they_read(first_run: Outcome, workspace: Workspace) -> None:
    """Model classes are found by name, which the import graph can't see; two stages only copy the files."""
    for name, entry in pipeline().items():
        if name in ("publish", "lend_autoencoder"):
            continue
        for dep in (dep.replace("${item}", "accuracy") for dep in entry["deps"] if dep.startswith("models/")):
            for config in (workspace.folder / dep).rglob("config.json"):
                model = json.loads(config.read_text(encoding="utf-8")).get("class")
                code = [workspace.folder / path for path in entry["deps"] if is_code(path)]
                files = [file for path in code for file in (path.rglob("*.py") if path.is_dir() else [path])]
                sources = [file for file in files if f"class {model}(" in file.read_text(encoding="utf-8")]
                assert model is None or sources, f"{name} reads {dep}, but lists no file that defines {model}"


def test_plots_page_is_rendered(first_run: Outcome, workspace: Workspace) -> None:
    outcome = workspace.dvc("plots", "show", "--out", str(workspace.folder.parent / "page"))
    assert outcome.status == 0, outcome.text
    assert (workspace.folder.parent / "page/index.html").is_file()


def test_a_wrong_value_ends_in_one_line(first_run: Outcome, workspace: Workspace) -> None:
    outcome = workspace.dvc("exp", "run", "--set-param", "ae.latent_dim=sixty")
    workspace.reset()
    assert outcome.status != 0
    assert "Traceback" not in outcome.text
    lines = [line for line in outcome.text.splitlines() if "ae.latent_dim" in line and "expected" in line.lower()]
    assert len(lines) == 1
    assert re.match(r"train_(autoencoder|encoder): params.yaml: ae.latent_dim", lines[0])


def test_an_experiment_reruns_only_what_depends_on_it_and_is_tracked(first_run: Outcome, workspace: Workspace) -> None:
    on = {"WSCORE_TRACKING": "on"}
    outcome = workspace.dvc("exp", "run", "--name", "narrow", "--set-param", "sae.k=4", "evaluate", env=on)
    assert outcome.status == 0, outcome.text
    assert outcome.stages == ["train_sae", "evaluate_sae", "evaluate"]
    assert "Warning" not in outcome.text
    difference = workspace.dvc("metrics", "diff", "HEAD", "narrow")
    workspace.reset()
    assert difference.status == 0
    assert "evaluate.sparse_dictionary" in difference.text
    assert "evaluate.autoencoder" not in difference.text
    runs_share_one_parent(workspace, outcome.stages)


def runs_share_one_parent(workspace: Workspace, stages: list[str]) -> None:
    with closing(sqlite3.connect(workspace.folder / "mlflow.db")) as store:
        runs = dict(store.execute("select run_uuid, name from runs").fetchall())
        parents = dict(store.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall())
    assert sorted(runs[child] for child in parents) == sorted(stages)
    assert len(set(parents.values())) == 1
    assert len(runs) == 1 + len(stages)


def test_another_autoencoder_reruns_neither_heads_nor_a_dictionary_of_tokens(
    first_run: Outcome, workspace: Workspace
) -> None:
    outcome = workspace.dvc("exp", "run", "--set-param", "ae.lr=0.0002", "train_sae", "train_heads@accuracy")
    workspace.reset()
    assert outcome.status == 0, outcome.text
    assert outcome.stages == ["train_autoencoder", "lend_autoencoder"]


def test_a_killed_training_goes_on(first_run: Outcome, workspace: Workspace) -> None:
    preset = workspace.folder.parent / "long.yaml"
    preset.write_text("ae: {epochs: 40, patience: 40}\n", encoding="utf-8")
    apply_preset(preset, workspace.folder / "params.yaml")
    checkpoints = workspace.folder / ".cache/checkpoints"
    process = workspace.start_dvc("repro", "train_autoencoder", env={"WSCORE_CHECKPOINT_SECONDS": "0"})
    try:
        wait_for_file(checkpoints, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (workspace.folder / "models/autoencoder").exists()
    outcome = workspace.dvc("repro", "train_autoencoder")
    history = workspace.read("plots/autoencoder/history.csv").splitlines()
    workspace.reset()
    assert outcome.status == 0, outcome.text
    assert outcome.stages == ["train_autoencoder"]
    assert len(history) == 1 + 40  # the header and the epochs
    assert not [path for path in checkpoints.rglob("*") if finished(path)]


def finished(path: Path) -> bool:
    """Return whether a file is whole: what a killed process was writing stays behind as a hidden one that is never read."""
    return path.is_file() and not path.name.startswith(".") and not path.name.endswith(".tmp")


def wait_for_file(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return as soon as there is a finished file below a folder; files that are being written are hidden or end in .tmp."""
    while process.poll() is None:
        if any(finished(path) for path in folder.rglob("*")):
            return
        time.sleep(0.05)
    pytest.fail(f"the process ended with {process.returncode} before anything appeared in {folder}")
