"""What later stages will miss in a zoo is said at once, with the setting that answers it."""

import shutil
from pathlib import Path

import pytest

from tests.contract.imports import ROOT
from wscore.needs import needs_of
from wscore.presets import apply_preset
from wscore.zoo.store import Zoo

PRESET = """
heads: {accuracy_target: activation, continuous: {depth: linear, lr: log}, discrete: [colour, family], patterns: [has_wings]}
"""


@pytest.fixture
def zoo(tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return Zoo(tiny_zoo)


def test_the_default_misses_nothing_but_runs(zoo: Zoo) -> None:
    assert [need.parameter for need in needs_of(zoo)] == ["tokens.test_fraction"]  # of the twelve runs of the tests


def test_missing_columns_and_architectures_are_named_together(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text(PRESET, encoding="utf-8")
    apply_preset(tmp_path / "preset.yaml", tmp_path / "params.yaml")
    zoo.table["architecture"] = ""
    found = {need.parameter: need for need in needs_of(zoo)}
    assert set(found) == {"heads.accuracy_target", "heads.continuous", "heads.discrete", "heads.patterns",
                          "ae.behaviour.share", "tokens.test_fraction"}  # fmt: skip
    assert found["heads.accuracy_target"].missing == "activation: column is not numeric"
    assert "test_accuracy" in found["heads.accuracy_target"].fix
    assert found["heads.continuous"].missing == "depth: the zoo has no column of this name"
    assert found["heads.continuous"].fix.endswith("or leave out depth")
    assert found["heads.discrete"].missing == "colour: the zoo has no column of this name"
    assert found["heads.patterns"].fix.endswith("take patterns out of heads.tasks")


def test_parameters_that_cannot_be_read_are_a_need(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("tokens: {seed: -1}\n", encoding="utf-8")
    assert [need.parameter for need in needs_of(zoo)] == ["params.yaml"]


def test_elsewhere_nothing_is_missing(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").unlink()
    assert needs_of(zoo) == []
