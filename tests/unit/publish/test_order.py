"""Whoever reads representations finds a network by its id, in whatever order they are."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.publish.test_dataset import CONFIG, ORIGIN
from tests.unit.publish.work import Work
from wscore.heads.dataset import read_head_data
from wscore.io import read_json
from wscore.publish.dataset import write_representations
from wscore.publish.neighbours import Neighbours


@pytest.fixture(scope="module")
def work(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tiny_zoo, tmp_path_factory.mktemp("order"))


@pytest.fixture(scope="module")
def folders(work: Work) -> list[Path]:
    """The representations as they are, and the same with their rows in another order."""
    other = Path(shutil.copytree(work.folder / "representations", work.folder / "shuffled"))
    table = pd.read_parquet(other / "representations.parquet")
    table.sample(frac=1, random_state=0).to_parquet(other / "representations.parquet", index=False)
    assert list(pd.read_parquet(other / "representations.parquet")["model_id"]) != list(table["model_id"])
    return [work.folder / "representations", other]


def test_heads(work: Work, folders: list[Path]) -> None:
    first, other = (read_head_data(folder, work.zoo, work.cache) for folder in folders)
    order = other.table.reset_index().set_index("model_id").loc[first.table["model_id"], "index"].to_numpy()
    assert np.array_equal(first.latents, other.latents[order])
    assert np.array_equal(first.table["test_accuracy"], other.table["test_accuracy"].to_numpy()[order])
    for name, block in first.blocks.items():
        assert np.array_equal(block.values, other.blocks[name].values[order], equal_nan=True), name


def test_neighbours(folders: list[Path]) -> None:
    encoder = read_json(folders[0] / "manifest.json")["encoder"]
    first, other = (Neighbours.load(str(folder), encoder) for folder in folders)
    assert first.nearest(first.latents[4], 5) == other.nearest(first.latents[4], 5)


def test_published_representations(work: Work, folders: list[Path], tmp_path: Path) -> None:
    tables = []
    for place, folder in enumerate(folders):
        write_representations(tmp_path / str(place), folder, work.zoo, ORIGIN, CONFIG)
        parts = [pd.read_parquet(path) for path in sorted((tmp_path / str(place) / "data").glob("*.parquet"))]
        tables.append(pd.concat(parts).set_index("model_id").sort_index())
    assert list(map(list, tables[0]["latent"])) == list(map(list, tables[1]["latent"]))
    assert tables[0].drop(columns="latent").equals(tables[1].drop(columns="latent"))
    truth = work.zoo.table.set_index("model_id")["test_accuracy"]
    assert np.allclose(tables[1]["test_accuracy"], truth.loc[tables[1].index])
