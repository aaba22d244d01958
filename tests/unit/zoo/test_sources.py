import shutil

import numpy as np
import pytest

from wscore.errors import ConfigError, DataError
from wscore.io import hash_folder
from wscore.zoo import sources
from wscore.zoo.images import ImagesConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.store import Zoo, read_part, write_layouts, write_part

DATA = ImagesConfig(dataset="digits", root=None, revision=None, size=None, max_train=100, max_test=50)


def test_a_zoo_is_generated_on_the_images_of_the_data_section(zoo_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fetch_zoo(zoo_config(source="generate", n_runs=4), DATA, tmp_path / "zoo") == 0
    assert set(Zoo(tmp_path / "zoo").table["family"]) == {"mlp", "cnn", "cnn_bn", "resnet"}
    assert set(Zoo(tmp_path / "zoo").table["dataset"]) == {"digits"}


def test_a_local_copy_of_a_published_zoo_is_taken_over(zoo_config, tiny_zoo, tmp_path):
    assert fetch_zoo(zoo_config(source="hub", path=str(tiny_zoo)), DATA, tmp_path / "zoo") == 0
    assert hash_folder(tmp_path / "zoo") == hash_folder(tiny_zoo)


def test_a_published_zoo_is_downloaded_at_its_revision(zoo_config, tiny_zoo, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "download_zoo", lambda *request: asked.append(request) or tiny_zoo)
    fetch_zoo(zoo_config(source="hub", path="someone/zoo", revision="abc"), DATA, tmp_path / "zoo")
    assert asked == [("someone/zoo", "abc")]
    assert len(Zoo(tmp_path / "zoo")) == 24


def changed(tiny_zoo, folder, change):
    shutil.copytree(tiny_zoo, folder)
    table, weights = read_part(folder / "rows" / "part-00000.parquet")
    weights[5] = change(weights[5])
    write_part(folder / "rows" / "part-00000.parquet", table, weights)
    return folder, table["model_id"][5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights[:-1], "weights don't fit the layout"),
        (lambda weights: np.where(np.arange(weights.size) == 3, np.inf, weights), "not finite; got 1"),
    ],
)
def test_rows_that_are_no_networks_are_named(zoo_config, tiny_zoo, tmp_path, change, message):
    folder, name = changed(tiny_zoo, tmp_path / "in", change)
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        fetch_zoo(zoo_config(source="hub", path=str(folder)), DATA, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_missing_paths_layouts_and_rows_are_named(zoo_config, tiny_zoo, tmp_path):
    with pytest.raises(ConfigError, match=r"zoo\.path: is missing"):
        fetch_zoo(zoo_config(source="hub"), DATA, tmp_path / "zoo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no zoo here"):
        fetch_zoo(zoo_config(source="hub", path=str(tmp_path / "empty")), DATA, tmp_path / "zoo")
    shutil.copytree(tiny_zoo, tmp_path / "in")
    write_layouts(tmp_path / "in", [])
    with pytest.raises(DataError, match=r"layouts\.json: layouts are missing"):
        fetch_zoo(zoo_config(source="hub", path=str(tmp_path / "in")), DATA, tmp_path / "zoo")
