"""Stages side by side: order, failure and the graph of dvc.yaml."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from wscore import repro

DIAMOND = {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, int]], list[str]]:
    """Replace the runs of stages by a list of their names; those given fail with a status."""

    def record(statuses: dict[str, int]) -> list[str]:
        names: list[str] = []
        monkeypatch.setattr(repro, "_run", lambda stage: (names.append(stage), statuses.get(stage, 0))[1])
        return names

    return record


def test_stages_run_after_those_that_they_read_from(runs: Callable) -> None:
    names = runs({})
    assert repro.run_stages(DIAMOND, slots=1) == 0
    assert names == ["a", "b", "c", "d"]
    assert repro.run_stages({}, slots=1) == 0


def test_nothing_starts_after_a_failure_and_its_status_is_returned(runs: Callable) -> None:
    names = runs({"b": 7})
    assert repro.run_stages(DIAMOND, slots=1) == 7
    assert names == ["a", "b"]


def test_independent_stages_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(repro, "_run", lambda stage: both.wait() * 0 if stage in "bc" else 0)
    assert repro.run_stages(DIAMOND, slots=2) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in libraries that DVC imports
def test_graph_of_the_pipeline_starts_with_the_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a clone without outputs every stage has changed, and studies are left out."""
    root = Path(__file__).parents[2]
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    monkeypatch.chdir(tmp_path)
    stages = repro.changed_stages()
    assert next(iter(stages)) == "fetch_zoo"
    assert stages["fetch_zoo"] == set()
    assert "cache_representations" in stages["train_heads@accuracy"]
    assert "evaluate" in stages
