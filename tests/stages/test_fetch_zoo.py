"""The stage fetch_zoo: from parameters to a zoo with its figures, and what it says about bad ones."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML

from stages.fetch_zoo import main
from wscore.errors import WscoreWarning
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
    assert capsys.readouterr().out == "8 networks of 4 runs, 0 excluded\n"
    metrics = json.loads(Path("metrics/zoo.json").read_text())
    assert set(metrics) == {"zoo"}
    assert metrics["zoo"]["networks"] == len(Zoo(Path("data/zoo"))) == 8
    assert metrics["zoo"]["networks_resnet"] == 2
    assert all(isinstance(value, float) for value in metrics["zoo"].values())


def test_it_reads_a_zoo(workspace, tiny_zoo, capsys):
    shutil.copytree(tiny_zoo, "published")
    workspace(zoo={"source": "hub", "path": "published", "max_weight": 1.0e6})
    main(OPTIONS)
    assert capsys.readouterr().out == "24 networks of 12 runs, 0 excluded\n"


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
