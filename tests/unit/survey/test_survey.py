"""A folder of networks with planted relatives, damage and strangers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wscore.cli.main import main
from wscore.errors import DataError
from wscore.io import write_tensors
from wscore.networks.architectures import Architecture, build
from wscore.survey.survey import Survey, survey

State = dict[str, torch.Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:no predicted accuracy")
ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(3))


def network(seed: int, width: int = 16, outputs: int = 10) -> State:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, outputs))
    state = {name: tensor.detach().clone() for name, tensor in layers.state_dict().items()}
    return {name: tensor + 0.05 * torch.randn(tensor.shape) for name, tensor in state.items()}  # no longer uniform


def planted() -> dict[str, State]:
    states = {f"stranger{number}": network(number) for number in range(4)}
    root = states["stranger0"]
    states["copy"] = {name: tensor.clone() for name, tensor in root.items()}
    states["shuffled"] = {
        "0.weight": root["0.weight"][ORDER], "0.bias": root["0.bias"][ORDER],
        "2.weight": root["2.weight"][:, ORDER], "2.bias": root["2.bias"],
    }  # fmt: skip
    states["grown"] = {name: tensor * (1 + tensor.abs()) for name, tensor in root.items()}
    states["new head"] = {**network(9, outputs=7), "0.weight": root["0.weight"], "0.bias": root["0.bias"]}
    states["dead"] = network(5)
    states["dead"]["0.weight"][3] = 0
    states["<script>alert(1)</script>"] = network(6)
    states["other shape"] = {"weight": torch.randn(3, 5)}
    torch.manual_seed(7)
    states["transformer"] = dict(nn.TransformerEncoderLayer(8, 2, 16).state_dict())
    residual = Architecture(
        family="resnet", input=(3, 16, 16), classes=7, widths=(12, 8), activation="relu", pooling="max"
    )
    states["resnet"] = {
        name: tensor + 0.05 * torch.rand(tensor.shape) if tensor.is_floating_point() else tensor
        for name, tensor in build(residual).state_dict().items()
    }
    return states


@pytest.fixture(scope="module")
def result() -> Survey:
    return survey(planted())


def row_of(result: Survey, name: str) -> dict[str, Any]:
    return next(row for row in result.networks if row["network"] == name)


def test_planted_relatives_are_one_family_and_strangers_are_alone(result: Survey) -> None:
    families = {name: row_of(result, name)["family"] for name in planted()}
    relatives = ("stranger0", "copy", "shuffled", "grown", "new head")
    assert len({families[name] for name in relatives}) == 1
    assert families["stranger0"] is not None
    assert all(family is None for name, family in families.items() if name not in relatives)


def test_relations_are_named(result: Survey) -> None:
    relations = {frozenset((row["first"], row["second"])): row for row in result.edges}
    assert relations[frozenset(("stranger0", "copy"))]["relation"] == "copy"
    assert relations[frozenset(("stranger0", "shuffled"))]["relation"] == "reordered copy"
    assert relations[frozenset(("stranger0", "grown"))]["relation"] == "related"
    assert all(row["p_value"] < 1e-6 for row in result.edges)
    assert len(result.steps) == 4
    assert row_of(result, "grown")["ancestor"] in ("stranger0", "copy", "new head")


def test_damage_and_what_cannot_be_compared_are_reported(result: Survey) -> None:
    assert [(finding.network, finding.cause) for finding in result.findings] == [
        ("dead", "dead channels"), ("transformer", "untrained"),
    ]  # fmt: skip
    assert row_of(result, "dead")["health"] == "dead channels"
    assert result.summary["not comparable"] == ["other shape", "transformer", "resnet"]
    assert row_of(result, "resnet")["health"] == "no finding"
    assert result.summary["networks with a predicted accuracy"] == 0


def test_one_network_alone_has_no_relatives() -> None:
    result = survey({"alone": network(0)})
    assert result.summary["pairs"] == 0
    assert result.edges == []


def test_labels_become_columns_and_must_name_networks() -> None:
    states = {"a": network(0), "b": network(1)}
    assert row_of(survey(states, labels={"a": {"lr": 0.1}}), "b")["lr"] is None
    with pytest.raises(DataError, match="labels name networks that are not there; got c"):
        survey(states, labels={"c": {"lr": 0.1}})


def test_no_network_is_an_error() -> None:
    with pytest.raises(DataError, match="no network can be read"):
        survey({})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "nets"
    for number, state in enumerate(planted().values()):
        write_tensors(
            folder / f"net{number}.safetensors", {name: tensor.contiguous() for name, tensor in state.items()}
        )
    (folder / "broken.pt").write_bytes(b"no network")
    write_tensors(folder / "nan.safetensors", {"0.weight": torch.full((4, 4), torch.nan)})
    write_tensors(folder / "<script>alert(2)<br>.safetensors", network(8))
    (folder / "notes.txt").write_text("no network")
    (folder / "labels.csv").write_text("network,lr\nnet0.safetensors,0.1\nbroken.pt,0.2\n")
    return folder


def run(folder: Path, *arguments: object) -> None:
    main(["survey", str(folder), "--model", str(folder / "nowhere"), *map(str, arguments)])


def test_the_command_writes_tables_findings_and_a_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, "--out", out, "--labels", folder / "labels.csv")
    assert {path.name for path in out.iterdir()} == {"networks.csv", "edges.csv", "findings.json", "index.html"}
    rows = list(csv.DictReader((out / "networks.csv").read_text().splitlines()))
    assert len(rows) == len(planted()) + 1
    assert "<script>alert(2)" not in (out / "index.html").read_text()
    assert {row["network"]: row["lr"] for row in rows}["net0.safetensors"] == "0.1"
    found = {row["network"]: row for row in json.loads((out / "findings.json").read_text())["findings"]}
    assert found["broken.pt"]["cause"] == found["nan.safetensors"]["cause"] == "unreadable"
    assert "not finite" in found["nan.safetensors"]["evidence"]


def test_a_result_is_never_overwritten(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="already exists and is not empty"):
        run(folder, "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file\nnet99.safetensors\n", "labels name networks that are not there; got net99.safetensors"),
        ("name,lr\nnet0.safetensors,1\n", "names no networks; expected a column network or file or model_id"),
        ("network\nnet0.safetensors\nnet0.safetensors\n", "names a network twice; got net0.safetensors"),
    ],
)
def test_bad_labels_are_one_line(folder: Path, tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(table)
    with pytest.raises(SystemExit, match=message):
        run(folder, "--out", tmp_path / "out", "--labels", tmp_path / "bad.csv")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_networks_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SystemExit, match="no networks here"):
        run(tmp_path, "--out", tmp_path / "out")


def test_names_with_markup_are_escaped(result: Survey, tmp_path: Path) -> None:
    from wscore.survey.files import write_survey

    write_survey(tmp_path / "out", result, "<b>folder</b>")
    page = (tmp_path / "out/index.html").read_text()
    assert "<script>alert(1)" not in page
    assert "<b>folder" not in page
    assert np.isfinite(result.coordinates).all()
