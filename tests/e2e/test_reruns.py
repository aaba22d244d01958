"""What reruns after a change, as DVC itself says: a clone whose lock was written over empty outputs, without running."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.contract.imports import pipeline
from tests.e2e.workspace import Workspace
from wscore.presets import apply_preset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A clone that DVC takes for up to date."""
    workspace = Workspace(tmp_path_factory.mktemp("reruns"))
    for path in outputs():
        file = workspace.folder / path if Path(path).suffix else workspace.folder / path / "file.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")
    outcome = workspace.dvc("commit", "--force", "dvc.yaml")
    assert outcome.status == 0, outcome.text
    workspace.commit("a lock")
    return workspace


@pytest.fixture
def clone(locked: Workspace) -> Iterator[Workspace]:
    """The same, with what a test changed taken back."""
    yield locked
    locked.git("checkout", "--quiet", "--", ".")
    (locked.folder / "machine.yaml").unlink(missing_ok=True)


def outputs() -> list[str]:
    entries = [item for entry in pipeline().values() for kind in ("outs", "metrics") for item in entry.get(kind, [])]
    paths = [item if isinstance(item, str) else next(iter(item)) for item in entries]
    tasks = ("patterns", "accuracy", "hyperparameters")
    return [path.replace("${item}", task) for path in paths for task in (tasks if "${item}" in path else ("",))]


def changed(workspace: Workspace, env: Mapping[str, str] | None = None) -> set[str]:
    """Return the stages with a changed dependency or parameter of their own; DVC runs these, then what follows on them."""
    outcome = workspace.dvc("status", "--json", "dvc.yaml", env=dict(env or {}))
    assert outcome.status == 0, outcome.text
    return set(json.loads(outcome.text.splitlines()[-1]))


def comment(workspace: Workspace, path: str) -> None:
    file = workspace.folder / path
    file.write_text(file.read_text(encoding="utf-8") + "# more is said\n", encoding="utf-8")


def set_params(workspace: Workspace, values: dict) -> None:
    preset = workspace.folder.parent / "preset.yaml"
    preset.write_text(json.dumps(values), encoding="utf-8")
    apply_preset(preset, workspace.folder / "params.yaml")


def test_comments_where_no_byte_depends_on_them_rerun_nothing(clone: Workspace) -> None:
    for path in ("wscore/errors.py", "wscore/tracking.py", "wscore/runner.py", "wscore/hub/client.py"):
        comment(clone, path)
    assert changed(clone) == set()


def test_a_comment_in_the_plots_of_heads_evaluates_and_trains_nothing(clone: Workspace) -> None:
    comment(clone, "wscore/heads/evaluation/plots.py")
    assert changed(clone) == {"evaluate_heads", "evaluate"}


def test_settings_of_the_machine_rerun_nothing(clone: Workspace) -> None:
    text = "workers: 7\nbackend: serial\ndevice: cpu\nevaluation_batch: 8\n"
    (clone.folder / "machine.yaml").write_text(text, encoding="utf-8")
    assert changed(clone, {"WSCORE_WORKERS": "3", "WSCORE_DEVICE": "cpu"}) == set()


def test_held_out_families_rerun_the_evaluation_of_heads_and_what_follows(clone: Workspace) -> None:
    set_params(clone, {"evaluate_heads": {"ood": "family"}})
    assert changed(clone) == {"evaluate_heads", "report"}
    followers = {name for name, entry in pipeline().items() if "metrics/heads_test.json" in entry.get("deps", [])}
    assert followers == {"evaluate", "report", "publish"}


def test_a_parameter_of_the_zoo_reruns_it(clone: Workspace) -> None:
    set_params(clone, {"zoo": {"seed": 1}})
    assert changed(clone) == {"fetch_zoo", "report", "publish"}
