"""Presets change values and nothing else."""

from pathlib import Path

import pytest

from wscore.config import read_yaml
from wscore.errors import ConfigError
from wscore.presets import apply_preset, main

PARAMS = """\
# Head of the file.
ae: # autoencoder
  latent_dim: 128 # numbers per network
  precision: "no" # no | bf16
  epochs: [4, 16] # fewest and most
  loss_weights: { mse: 1.0, mae: 0.0 }
  root: null # nowhere
  free: {}
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    return path


def test_values_change_and_comments_stay(params: Path, tmp_path: Path) -> None:
    apply_preset(write(tmp_path, "ae: {latent_dim: 16, epochs: [1, 2], loss_weights: {mae: 0.5}}"), params)
    text = params.read_text()
    assert text.startswith("# Head of the file.\nae: # autoencoder\n")
    assert "epochs: [1, 2] # fewest and most" in text
    assert "loss_weights: { mse: 1.0, mae: 0.5 }" in text
    assert 'precision: "no" # no | bf16' in text
    assert "root: null # nowhere" in text
    assert read_yaml(params)["ae"] == {
        "latent_dim": 16,
        "precision": "no",
        "epochs": [1, 2],
        "loss_weights": {"mse": 1.0, "mae": 0.5},
        "root": None,
        "free": {},
    }


def test_other_lines_stay_as_they_are(params: Path, tmp_path: Path) -> None:
    before = params.read_text().splitlines()
    apply_preset(write(tmp_path, "ae: {latent_dim: 16}"), params)
    after = params.read_text().splitlines()
    assert [line for line in after if line not in before] == ["  latent_dim: 16 # numbers per network"]
    assert len(after) == len(before)


def test_columns_of_a_zoo_are_replaced_as_a_whole(params: Path, tmp_path: Path) -> None:
    params.write_text("heads:\n  continuous: { lr: log, dropout: linear } # scale of each\n  epochs: 20\n")
    apply_preset(write(tmp_path, "heads: {continuous: {depth: linear}}"), params)
    assert read_yaml(params)["heads"] == {"continuous": {"depth": "linear"}, "epochs": 20}


def test_an_empty_mapping_takes_any_key(params: Path, tmp_path: Path) -> None:
    apply_preset(write(tmp_path, "ae: {free: {anything: 2}}"), params)
    assert read_yaml(params)["ae"]["free"] == {"anything": 2}


def test_applying_twice_changes_nothing_more(params: Path, tmp_path: Path) -> None:
    preset = write(tmp_path, "ae: {latent_dim: 16, epochs: [1, 2]}")
    apply_preset(preset, params)
    once = params.read_text()
    apply_preset(preset, params)
    assert params.read_text() == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ae: {latent_dimm: 16}", "ae.latent_dimm: no such parameter"),
        ("typo: {latent_dim: 16}", "typo: no such parameter"),
        ("ae: {loss_weights: {rmse: 1}}", "ae.loss_weights.rmse: no such parameter"),
        ("ae: {latent_dim: {a: 1}}", "ae.latent_dim: has another form"),
        ("ae: 3", "ae: has another form"),
        ("- 3", "does not hold sections"),
        ("ae: [", "is not valid YAML"),
    ],
)
def test_a_wrong_preset_is_refused_by_name_and_changes_nothing(
    params: Path, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        apply_preset(write(tmp_path, text), params)
    assert params.read_text() == PARAMS


def test_the_command_prints_one_line(params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["presets", str(write(tmp_path, "ae: {x: 1}")), str(params)])
    with pytest.raises(SystemExit, match=r"^presets: .*ae\.x: no such parameter"):
        main()
