"""The stage report: the page from the outputs of the other stages."""

import json
import re
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from stages.report import SHOWN, main
from tests.stages.test_evaluate import FIGURES
from wscore.io import write_csv, write_json
from wscore.zoo.store import Zoo

OPTIONS = ["--metrics", "metrics", "--plots", "plots", "--zoo", "data/zoo", "--representations", "data/representations",
           "--out", "plots/report.html"]  # fmt: skip
TRUE = np.array([0.9, 0.5, 0.7])


@pytest.fixture
def workspace(tmp_path: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for key, figures in FIGURES.items():
        write_json(tmp_path / "metrics" / f"{'autoencoder' if key == 'ae' else key}.json", {key: figures})
    shutil.copytree(tiny_zoo, "data/zoo")
    table = Zoo("data/zoo").table[["model_id", "run_id", "checkpoint"]].assign(split="test")
    table["latent"] = list(np.random.default_rng(0).normal(size=(len(table), 4)))
    Path("data/representations").mkdir()
    table.to_parquet("data/representations/representations.parquet")
    write_csv(Path("plots/sae/history.csv"), {"epoch": [1, 2], "train_loss": [2, 1], "validation_loss": [3, 2]})
    points = {"model_id": ["<best>", "<worst>", "<good>"], "true": TRUE, "ours": TRUE - np.array([0, 0.4, -0.1])}
    write_csv(Path("plots/heads_test/accuracy_points.csv"), {**points, "low": TRUE - 0.5, "high": TRUE + 0.5})
    matplotlib.image.imsave("plots/sae/codes.png", np.zeros((4, 4)))
    Path("params.yaml").write_text("".join(f"{name}:\n  layers: [1, 2]\n" for name in SHOWN), encoding="utf-8")
    return tmp_path


@pytest.fixture
def page(workspace: Path) -> str:
    main(OPTIONS)
    return Path("plots/report.html").read_text(encoding="utf-8")


def rows(page: str, caption: str) -> list[list[str]]:
    body = page.partition(f"<caption>{caption}")[2].partition("<tbody>")[2].partition("</tbody>")[0]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", body)]


def test_every_network_lies_on_the_map_with_what_is_known_of_it(page: str) -> None:
    table = Zoo("data/zoo").table
    content = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    found = content["map"]
    assert found["names"] == table["model_id"].tolist()
    assert [column["name"] for column in found["columns"]][:2] == ["accuracy", "family"]
    assert found["columns"][0]["numbers"] == pytest.approx(table["test_accuracy"].tolist(), rel=1e-4)
    assert found["tiles"]["known"] == [1] * len(table)
    assert found["columns"][-1]["name"] == "finding"
    assert [line["name"] for line in content["curves"][0]["lines"]] == ["train", "validation"]


def test_steps_of_descent_join_checkpoints_of_one_run(page: str) -> None:
    runs = Zoo("data/zoo").table["run_id"].tolist()
    edges = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["map"]["edges"]
    assert len(edges) == len(runs) - len(set(runs))
    assert all(runs[ancestor] == runs[descendant] for ancestor, descendant in edges)


def test_results_say_what_wins_loses_or_is_open(page: str) -> None:
    results = {row[0] + ": " + row[1]: row[2:] for row in rows(page, "What wins")}
    assert results["Autoencoder: agreement with the original ↑"] == ["0.75", "", "", "0.5", "PCA, same length", "wins"]
    assert results["Heads: accuracy, R² ↑"][-1] == "loses"
    assert results["Sparse dictionary: fraction of variance unexplained, rows ↓"][-1] == "wins"
    assert results["Autoencoder: R² of the weights ↑"][-1] == "open"


def test_failures_come_worst_first_and_escaped(page: str) -> None:
    table = rows(page, "Accuracy predicted from weights")
    assert [row[0] for row in table] == ["&lt;worst&gt;", "&lt;good&gt;", "&lt;best&gt;"]
    assert "Rebuilt by the autoencoder, most" not in page  # its file is missing


def test_parameters_and_pictures_are_in_the_page(page: str) -> None:
    assert rows(page, "Parameters") == [[f"{name}.layers", "[1, 2]"] for name in SHOWN]
    assert "<figcaption>sae/codes</figcaption>" in page


def test_representations_of_other_networks_stop_the_stage(workspace: Path) -> None:
    file = Path("data/representations/representations.parquet")
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    with pytest.raises(SystemExit, match=r"data/representations: does not hold the networks of the zoo"):
        main(OPTIONS)
    assert not Path("plots/report.html").exists()
