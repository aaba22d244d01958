"""Accuracies that networks come with, next to those measured on the images of section `data`."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from msgspec import structs

from wscore.errors import WscoreWarning
from wscore.networks.architectures import build
from wscore.networks.datasets import Tasks
from wscore.networks.images import Images, ImagesConfig, load_images
from wscore.zoo.stated_accuracy import check_accuracies, compare_accuracies
from wscore.zoo.store import Zoo, read_part, write_part

DIGITS = ImagesConfig(
    dataset="digits", root=None, revision=None, size=None, max_train=None, max_test=None, normalize=None
)


def accuracy(zoo: Zoo, row: int, images: Images) -> float:
    network = build(zoo.table["architecture"].iloc[row]).eval()
    network.load_state_dict(zoo.state_dict(row))
    with torch.no_grad():
        return float((network(images.x_test).argmax(1) == images.y_test).float().mean())


@pytest.fixture
def zoo(tiny_zoo: Path, tmp_path: Path) -> Path:
    """A zoo whose networks state what they score on digits, in per cent; `set_stated` adds to that of the first run."""
    folder = tmp_path / "zoo"
    shutil.copytree(tiny_zoo, folder)
    images, opened = load_images(DIGITS), Zoo(folder)
    set_stated(folder, np.array([100 * accuracy(opened, row, images) for row in range(len(opened))]))
    return folder


def set_stated(folder: Path, values: np.ndarray) -> None:
    part = folder / "rows" / "part-00000.parquet"
    table, weights = read_part(part)
    write_part(part, table.drop(columns="test_accuracy", errors="ignore").assign(acc=values), weights)


def test_right_accuracies_are_listed_and_not_warned_of(zoo: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_accuracies(zoo, DIGITS)
    table = pd.read_csv(zoo / "accuracy.csv")
    assert list(table) == ["model_id", "stated", "measured"]
    assert len(table) == Zoo(zoo).table["run_id"].nunique()
    assert np.abs(table["stated"] - table["measured"]).max() < 1e-6


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_of_more_than_a_point_is_warned_of_by_name(zoo: Path, sign: int) -> None:
    stated, rows = Zoo(zoo).table["acc"].to_numpy().copy(), Zoo(zoo).last_checkpoints()
    stated[rows[0]] += sign * 0.9
    stated[rows[1]] += sign * 1.2
    set_stated(zoo, stated)
    with pytest.warns(WscoreWarning) as caught:
        check_accuracies(zoo, DIGITS)
    name = Zoo(zoo).table["model_id"].iloc[rows[1]]
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(f"1 of {len(rows)} networks differ from their acc by more than a point ({name}: ")
    assert "see accuracy.csv, data.dataset and data.normalize" in message


def test_images_that_are_normalized_otherwise_are_noticed(zoo: Path) -> None:
    with pytest.warns(WscoreWarning, match="differ from their acc by more than a point"):
        check_accuracies(zoo, structs.replace(DIGITS, normalize=((0.5,), (0.05,))))


def test_few_images_have_a_wider_margin(zoo: Path) -> None:
    images = load_images(DIGITS)
    tasks = Tasks([images._replace(x_test=images.x_test[:100], y_test=images.y_test[:100])])
    margins = [compare_accuracies(Zoo(zoo), "acc", tasks, limited=limited).margins for limited in (False, True)]
    assert (margins[0] == 0.01).all()
    assert margins[1].max() > 0.03


def test_without_images_or_networks_that_run_nothing_is_written(zoo: Path) -> None:
    with pytest.warns(
        WscoreWarning, match="acc is not compared to measured accuracies: data.root=nowhere: no such folder"
    ):
        check_accuracies(zoo, structs.replace(DIGITS, root="nowhere"))
    check_accuracies(zoo, structs.replace(DIGITS, size=12))
    assert not (zoo / "accuracy.csv").exists()
