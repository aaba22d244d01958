"""The stage fetch_zoo: from parameters to a zoo with its figures, and what it says about bad ones."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from stages.fetch_zoo import main
from wscore.errors import WscoreWarning
from wscore.presets import apply_preset
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
OPTIONS = ["--out", "data/zoo", "--report", "plots/zoo/report.csv", "--metrics", "metrics/zoo.json"]
TINY = {
    "zoo": {"n_runs": 4, "checkpoints": 2, "epochs": [2, 2], "train_fraction": [0.5, 1.0]},
    "data": {"max_train": 150, "max_test": 50},
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with params.yaml; `change(zoo={...}, data={...})` edits it."""
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    content = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))

    def change(**sections):
        for section, values in sections.items():
            content[section].update(values)
        with Path("params.yaml").open("w", encoding="utf-8") as stream:
            yaml.dump(content, stream)

    change(**TINY)
    return change


def test_it_writes_a_zoo_and_its_figures(workspace, capsys):
    main(OPTIONS)
    assert capsys.readouterr().out.startswith("8 networks of 4 runs, 0 excluded\n")
    metrics = json.loads(Path("metrics/zoo.json").read_text())
    assert set(metrics) == {"zoo"}
    assert metrics["zoo"]["networks"] == len(Zoo(Path("data/zoo"))) == 8
    assert metrics["zoo"]["networks_resnet"] == 2
    assert all(isinstance(value, float) for value in metrics["zoo"].values())


def test_it_reads_a_zoo(workspace, tiny_zoo, capsys):
    shutil.copytree(tiny_zoo, "published")
    workspace(zoo={"source": "hub", "path": "published", "max_weight": 1.0e6})
    main(OPTIONS)
    assert capsys.readouterr().out.startswith("24 networks of 12 runs, 0 excluded\n")


def test_it_reports_what_is_excluded(workspace, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, value in (("a", 1.0), ("b", 1.0), ("c", float("nan")), ("d", 3.0)):
        torch.save({"fc.weight": value * torch.arange(8.0).reshape(2, 4)}, folder / f"{name}.pt")
    (folder / "e.pt").write_text("?")
    workspace(zoo={"source": "folder", "path": str(folder)})
    with pytest.warns(WscoreWarning, match="3 excluded"):
        main(OPTIONS)
    rows = pd.read_csv("plots/zoo/report.csv").set_index("reason")
    assert rows["networks"].to_dict() == {"kept": 2, "duplicate": 1, "not_finite": 1, "no_checkpoint": 1}
    metrics = json.loads(Path("metrics/zoo.json").read_text())["zoo"]
    assert (metrics["networks"], metrics["excluded"], metrics["excluded_duplicate"], metrics["groups"]) == (
        2,
        3,
        1,
        2,
    )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"zoo": {"n_runs": 0}}, "zoo.n_runs"),
        ({"zoo": {"lr": [1, "1e-5"]}}, "zoo.lr"),
        ({"zoo": {"families": ["mlp", "gnn"]}}, "zoo.families: unknown family"),
        ({"zoo": {"source": "folder"}}, "zoo.path: is missing"),
        ({"zoo": {"source": "folder", "path": "nowhere"}}, "zoo.path=nowhere: no such folder"),
        ({"data": {"dataset": "mnits"}}, "data.dataset: unknown data set"),
        ({"data": {"root": "nowhere"}}, "data.root=nowhere: no such folder"),
    ],
)
def test_bad_parameters_end_in_one_line_and_no_output(workspace, sections, message):
    workspace(**sections)
    with pytest.raises(SystemExit) as stop:
        main(OPTIONS)
    assert message in str(stop.value)
    assert "\n" not in str(stop.value)
    assert not Path("data/zoo").exists()
    assert not Path("metrics/zoo.json").exists()


def write_networks(runs, columns):
    """Write one small network per run into `networks`, of which only the weights are known, with columns by run."""
    torch.manual_seed(0)
    rows = []
    for run in range(runs):
        Path(f"networks/run{run}").mkdir(parents=True)
        torch.save({"body.0.weight": torch.randn(3, 4)}, f"networks/run{run}/last.pt")
        rows.append(
            {"file": f"run{run}/last.pt", **{name: values[run % len(values)] for name, values in columns.items()}}
        )
    pd.DataFrame(rows).to_csv("networks/metadata.csv", index=False)


LABELS = {"test_accuracy": [0.5, 0.6, 0.7], "lr": [0.1, 0.2], "activation": ["relu", "tanh", "relu", "tanh", "tanh"]}
NEEDS = {
    "no accuracy": (50, {"top1": [0.5, 0.6, 0.7], "lr": [0.1, 0.2], "activation": ["relu", "tanh"]}, [
        ("heads.accuracy_target  test_accuracy: the zoo has no column of this name; set it to some of top1, lr, or take "
        "accuracy out of heads.tasks")]),
    "five runs": (5, LABELS, [
        ("tokens.test_fraction  1 of 5 runs in the test split: results will be imprecise; add runs: 50 are enough; or set "
        "zoo.run_pattern if these are not your runs")]),
    "four runs": (4, LABELS, [
        "tokens  no run falls in the validation split; add runs (zoo.n_runs), or change the fractions or tokens.unseen_widths"]),
    "a constant and a missing column": (50, {"test_accuracy": [0.5, 0.6], "lr": [0.1]}, [
        ("heads.continuous  lr: nothing to learn, one value in all training rows; set it to some of test_accuracy, or take "
        "hyperparameters out of heads.tasks"),
        "heads.discrete  activation: the zoo has no column of this name; take hyperparameters out of heads.tasks"]),
    "a column that is no number": (50, {**LABELS, "lr": ["fast", "slow"]}, [
        "heads.continuous  lr: column is not numeric; set it to some of test_accuracy, or leave out lr"]),
    "nothing": (50, LABELS, []),
}  # fmt: skip


@pytest.mark.parametrize(("runs", "columns", "lines"), NEEDS.values(), ids=NEEDS)
def test_all_that_later_stages_will_miss_is_said_at_once(workspace, capsys, runs, columns, lines):
    write_networks(runs, columns)
    apply_preset(ROOT / "presets/own_zoo.yaml", Path("params.yaml"))
    main(OPTIONS)
    summary, *needs = capsys.readouterr().out.splitlines()
    assert summary.startswith(f"{runs} networks of {runs} runs by their folders")
    assert [" ".join(line.split()) for line in needs[1:]] == [" ".join(line.split()) for line in lines]
    assert bool(needs) == bool(lines)


def test_an_own_zoo_without_the_preset_says_that_no_network_can_be_run(workspace, capsys):
    write_networks(50, LABELS)
    workspace(zoo={"source": "folder", "path": "networks"})
    main(OPTIONS)
    printed = capsys.readouterr().out
    assert "ae.behaviour.share  no network has a known architecture" in printed
    assert "weight_decay, dropout, init_scale, train_fraction: the zoo has no column of this name" in printed


def test_files_that_hold_no_network_are_counted_by_reason(workspace, capsys):
    write_networks(50, LABELS)
    Path("networks/run0/broken.pt").write_bytes(b"PK\x03\x04 no zip")
    torch.save({"w": torch.full((3, 3), float("nan"))}, "networks/run1/nan.pt")
    Path("networks/run2/half.safetensors").write_bytes(b"\x09" + bytes(7))
    apply_preset(ROOT / "presets/own_zoo.yaml", Path("params.yaml"))
    with pytest.warns(WscoreWarning) as caught:
        main(OPTIONS)
    assert re.match("3 excluded: 1 unreadable .*, 1 not_finite .*, 1 no_checkpoint", str(caught[-1].message))
    assert capsys.readouterr().out == (
        "50 networks of 50 runs by their folders (zoo.run_pattern changes this), 3 excluded\n"
    )
