import shutil

import numpy as np
import pandas as pd
import pytest

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.networks.images import ImagesConfig
from wscore.zoo.readers import tables
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.store import Zoo, read_part, write_layouts, write_part

DATA = ImagesConfig(dataset="digits", root=None, revision=None, size=None, max_train=100, max_test=50, normalize=None)


def test_a_zoo_is_generated_on_the_images_of_the_data_section(zoo_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fetch_zoo(zoo_config(source="generate", n_runs=4), DATA, tmp_path / "zoo") == 0
    assert set(Zoo(tmp_path / "zoo").table["family"]) == {"mlp", "cnn", "cnn_bn", "resnet"}
    assert set(Zoo(tmp_path / "zoo").table["dataset"]) == {"digits"}


def test_a_local_copy_of_a_published_zoo_is_taken_over(zoo_config, tiny_zoo, tmp_path):
    assert fetch_zoo(zoo_config(source="hub", path=str(tiny_zoo), max_weight=1e6), DATA, tmp_path / "zoo") == 0
    taken, given = Zoo(tmp_path / "zoo"), Zoo(tiny_zoo)
    pd.testing.assert_frame_equal(taken.table[list(given.table)], given.table)
    assert set(taken.table) - set(given.table) == {"group", "dtype"}
    assert list(taken.table["group"]) == list(taken.table["run_id"])
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(taken.stream(), given.stream(), strict=True))
    assert taken.layouts == given.layouts


def test_a_published_zoo_is_downloaded_at_its_revision(zoo_config, tiny_zoo, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tables, "download_zoo", lambda *request: asked.append(request) or tiny_zoo)
    fetch_zoo(zoo_config(source="hub", path="someone/zoo", revision="abc", max_weight=1e6), DATA, tmp_path / "zoo")
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
        (lambda weights: weights[:-1], "mismatched_layout"),
        (lambda weights: np.where(np.arange(weights.size) == 3, np.inf, weights), "not_finite"),
    ],
)
def test_rows_that_are_no_networks_are_excluded_by_name(zoo_config, tiny_zoo, tmp_path, change, message):
    folder, name = changed(tiny_zoo, tmp_path / "in", change)
    with pytest.warns(WscoreWarning, match=rf"1 excluded: 1 {message}"):
        assert fetch_zoo(zoo_config(source="hub", path=str(folder), max_weight=1e6), DATA, tmp_path / "zoo") == 1
    listed = pd.read_csv(tmp_path / "zoo" / "set_aside.csv")
    assert listed[["model_id", "reason"]].to_numpy().tolist() == [[name, message]]
    assert len(Zoo(tmp_path / "zoo")) == 23


def test_missing_paths_layouts_and_rows_are_named(zoo_config, tiny_zoo, tmp_path):
    with pytest.raises(ConfigError, match=r"zoo\.path: is missing"):
        fetch_zoo(zoo_config(source="hub"), DATA, tmp_path / "zoo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no parquet files here"):
        fetch_zoo(zoo_config(source="hub", path=str(tmp_path / "empty")), DATA, tmp_path / "zoo")
    shutil.copytree(tiny_zoo, tmp_path / "in")
    write_layouts(tmp_path / "in", [])
    with pytest.raises(DataError, match=r"layouts\.json: layouts are missing"):
        fetch_zoo(zoo_config(source="hub", path=str(tmp_path / "in")), DATA, tmp_path / "zoo")
