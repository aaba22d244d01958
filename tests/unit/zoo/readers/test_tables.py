"""Tables of networks: mapped columns, weights in several shapes, what is refused."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from wscore.config import load_section
from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.networks.layout import layout_of
from wscore.networks.records import RawNetwork, Rejected
from wscore.zoo.config import ZooConfig
from wscore.zoo.readers.tables import Piece, read_piece
from wscore.zoo.store import write_layouts, write_part

SHAPES = {"network.0.weight": (3, 2), "network.0.bias": (3,), "network.2.weight": (1, 3), "network.2.bias": (1,)}


def weights(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def flat(seed):
    return np.concatenate([value.ravel() for value in weights(seed).values()])


def write(folder, rows, name="train-00000-of-00001.parquet", **options):
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / name, **options)
    return folder


def subject_models(count):
    """Rows as public data sets of subject models have them: everything in two columns of JSON."""
    for seed in range(count):
        nested = {name: value.tolist() for name, value in weights(seed).items()}
        content = {"config": {"num_layers": 2, "activation": "relu"}, "weights": nested}
        known = {
            "final_accuracy": seed / 10, "selected_patterns": [["palindrome", "sorted ascending"], []][seed % 2],
            "training": {"lr": 0.01, "loss": [0.5, 0.4]},
        }  # fmt: skip
        yield {"example_id": seed, "model_weights": json.dumps(content), "metadata": json.dumps(known)}


def test_a_damaged_part_of_a_zoo_costs_its_rows(read_zoo, excluded, tmp_path):
    layout = layout_of({name: torch.from_numpy(value) for name, value in weights(0).items()})
    for part in range(2):
        names = [f"m{part}{row}" for row in range(3)]
        table = pd.DataFrame({"model_id": names, "run_id": names, "checkpoint": 0, "architecture": ""})
        write_part(
            tmp_path / f"in/rows/part-{part}.parquet",
            table.assign(layout=layout.identity),
            [flat(3 * part + row) for row in range(3)],
        )
    write_layouts(tmp_path / "in", [layout])
    path = tmp_path / "in/rows/part-0.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(0)
    place = chunk.column(chunk.num_columns - 1).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 8 : place + 48] = bytes(40)
    path.write_bytes(data)
    with pytest.warns(WscoreWarning, match="3 excluded"):
        zoo = read_zoo("hub", tmp_path / "in")
    assert list(zoo.table["model_id"]) == ["m10", "m11", "m12"]
    assert set(excluded().values()) == {"unreadable"}


def test_networks_and_metadata_in_json_are_taken_apart(read_zoo, tmp_path):
    folder = write(tmp_path / "in", list(subject_models(5)), row_group_size=2)
    columns = {"weights": "model_weights", "metadata": ("metadata",), "id": "example_id"}
    zoo = read_zoo("parquet", folder, reading={"columns": columns})
    table = zoo.table
    assert list(table["model_id"]) == list("01234")
    assert list(table["final_accuracy"]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert list(table["selected_patterns_palindrome"]) == [True, False, True, False, True]
    assert list(table["selected_patterns_sorted_ascending"]) == [True, False, True, False, True]
    assert set(table["config_num_layers"]) == {2}
    assert set(table["training_loss_1"]) == {0.4}
    state = zoo.layout(3).unflatten(torch.from_numpy(zoo.weights([3])[0]))
    assert all(np.array_equal(state[name].numpy(), value) for name, value in weights(3).items())


@pytest.mark.parametrize("shape", ["flat", "nested", "json", "layout column"])
def test_weights_come_in_several_shapes(read_zoo, tmp_path, shape):
    rows, layout = [], {}
    for seed in range(3):
        nested = {name: value.tolist() for name, value in weights(seed).items()}
        cell = {"flat": flat(seed), "nested": nested, "json": json.dumps(nested), "layout column": flat(seed)}[shape]
        rows.append({"w": cell, "run": f"r{seed // 2}", "epoch": seed, "acc": 0.5, "shapes": json.dumps(SHAPES)})
    folder = write(tmp_path / "in", rows)
    if shape == "flat":
        layout = SHAPES
    columns = {"weights": "w", "run": "run", "checkpoint": "epoch", "metadata": ("acc",)}
    if shape == "layout column":
        columns["layout"] = "shapes"
    zoo = read_zoo("parquet", folder, reading={"columns": columns, "layout": layout})
    assert list(zoo.table["run_id"]) == ["r0", "r0", "r1"]
    assert list(zoo.table["checkpoint"]) == [0, 1, 2]
    assert [spec.name for spec in zoo.layout(0).tensors] == list(SHAPES)
    assert np.array_equal(zoo.weights([2])[0], flat(2))


def test_rows_without_a_network_are_listed(read_zoo, excluded, tmp_path):
    cells = ["{", "text", json.dumps({"weights": {"a": [[1, 2], [3]]}}), json.dumps({"a": ["x"]}), None, "[]",
             json.dumps({"a": [1.0, float("nan")]}), json.dumps({"a": [0.5, 1.5]})]  # fmt: skip
    folder = write(tmp_path / "in", [{"id": f"n{place}", "weights": cell} for place, cell in enumerate(cells)])
    with pytest.warns(WscoreWarning, match="7 excluded"):
        zoo = read_zoo("parquet", folder, reading={"columns": {"id": "id"}})
    assert list(zoo.table["model_id"]) == ["n7"]
    found = excluded()
    assert (found["n0"], found["n1"], found["n2"]) == ("unreadable", "no_checkpoint", "unreadable")
    assert (found["n3"], found["n4"], found["n6"]) == ("not_real", "no_checkpoint", "not_finite")


def test_a_flat_list_of_another_length_is_listed(read_zoo, excluded, tmp_path):
    folder = write(tmp_path / "in", [{"weights": flat(0)}, {"weights": flat(1)[:-1]}])
    with pytest.warns(WscoreWarning, match="1 mismatched_layout"):
        assert len(read_zoo("parquet", folder, reading={"layout": SHAPES})) == 1
    assert excluded() == {"row-0000001": "mismatched_layout"}


def test_a_flat_list_of_many_tensors_is_read(read_zoo, tmp_path):
    shapes = {f"conv{number}.weight": (2, 1, 1, 1) for number in range(40)}
    rows = [{"weights": [float(row + number) for number in range(80)]} for row in range(2)]
    assert len(read_zoo("parquet", write(tmp_path / "in", rows), reading={"layout": shapes})) == 2


def test_columns_that_do_not_fit_the_schema_are_one_row_each(read_zoo, excluded, tmp_path):
    folder = write(tmp_path / "in", [{"weights": flat(row)} for row in range(2)])
    whole = (folder / "train-00000-of-00001.parquet").read_bytes()
    damaged = whole.replace(b"\x02\x18\x07weights", b"\x00\x18\x07weights", 1)  # optional becomes required
    assert damaged != whole
    (folder / "train-00001-of-00001.parquet").write_bytes(damaged)
    with pytest.warns(WscoreWarning, match="2 unreadable"):
        assert len(read_zoo("parquet", folder, reading={"layout": SHAPES})) == 2
    assert excluded() == {"row-0000002": "unreadable", "row-0000003": "unreadable"}


def test_columns_and_files_that_are_not_there_are_named(read_zoo, tmp_path):
    folder = write(tmp_path / "in", [{"w": flat(0), "acc": 0.5}])
    message = r"zoo\.reading\.columns\.weights=weights: no such column in train.*; expected one of w, acc"
    with pytest.raises(ConfigError, match=message):
        read_zoo("parquet", folder)
    with pytest.raises(ConfigError, match=r"columns\.metadata\[0\]=loss: no such column"):
        read_zoo("parquet", folder, reading={"columns": {"weights": "w", "metadata": ("loss",)}})
    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is not a readable parquet file"):
        read_zoo("parquet", folder)
    path.unlink()
    with pytest.raises(DataError, match="no parquet files here"):
        read_zoo("parquet", folder)


def test_a_table_from_the_hub_records_its_revision(read_zoo, tmp_path, monkeypatch):
    folder = write(tmp_path / "snapshots" / "0a1b2c", list(subject_models(2)))
    monkeypatch.setattr("wscore.zoo.readers.tables.download_zoo", lambda *_: folder)
    zoo = read_zoo("hub", tmp_path / "someone" / "models", reading={"columns": {"weights": "model_weights"}})
    assert len(zoo) == 2
    origin = json.loads((tmp_path / "zoo" / "source.json").read_text())
    assert origin["revision"] == "0a1b2c"


def test_rows_without_a_name_are_numbered_and_double_names_are_listed(read_zoo, excluded, tmp_path):
    rows = [{"weights": flat(seed), "name": name} for seed, name in enumerate(["a", None, "a", None])]
    with pytest.warns(WscoreWarning, match="1 same_checkpoint"):
        zoo = read_zoo("parquet", write(tmp_path / "in", rows), reading={"columns": {"id": "name"}})
    assert list(zoo.table["model_id"]) == ["a", "row-0000001", "row-0000003"]
    assert excluded() == {"a": "same_checkpoint"}


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path):
    rows = [[float(row), 1.0, 2.0] for row in range(6)]
    table = pa.table({"weights": pa.array(rows, pa.list_(pa.float32()))})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=2, compression="zstd", use_dictionary=False)
    meta = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[meta.data_page_offset : meta.data_page_offset + meta.total_compressed_size] = bytes(meta.total_compressed_size)
    path.write_bytes(data)
    found = list(read_piece(load_section(ZooConfig, "zoo").reading, Piece(str(path), (0, 1, 2), 0)))
    assert [isinstance(item, RawNetwork) for item in found] == [True, True, False, False, True, True]
    assert {item.model_id: item.reason for item in found[2:4]} == {
        "row-0000002": "unreadable",
        "row-0000003": "unreadable",
    }


def test_a_number_that_is_said_once_is_no_network(tmp_path):
    bomb = pa.array([np.zeros(20_000_000, np.float32)], pa.list_(pa.float32()))
    pq.write_table(pa.table({"weights": bomb}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 20_000
    (item,) = read_piece(load_section(ZooConfig, "zoo").reading, Piece(str(tmp_path / "t.parquet"), (0,), 0))
    assert isinstance(item, Rejected)
    assert item.reason == "too_large"


def test_one_unreadable_file_of_a_table_is_excluded(read_zoo, excluded, tmp_path):
    rows = pa.array([[1.0, 2.0, float(row)] for row in range(3)], pa.list_(pa.float32()))
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"weights": rows}), tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.warns(WscoreWarning, match="1 unreadable"):
        assert len(read_zoo("parquet", tmp_path / "in")) == 3
    assert excluded() == {"b.parquet": "unreadable"}
