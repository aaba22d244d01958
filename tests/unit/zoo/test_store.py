import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wscore.errors import DataError
from wscore.zoo import store
from wscore.zoo.store import Zoo, read_part, write_layouts, write_part


def rows(count, layout="a"):
    return pd.DataFrame({
        "model_id": [f"m{n}" for n in range(count)], "run_id": [f"r{n // 2}" for n in range(count)],
        "checkpoint": [n % 2 for n in range(count)], "layout": layout, "architecture": "",
    })  # fmt: skip


def write(folder, *parts):
    for number, (table, weights) in enumerate(parts):
        write_part(folder / "rows" / f"part-{number:05d}.parquet", table, weights)
    write_layouts(folder, [])
    return folder


def test_rows_come_back_in_any_order_across_files_and_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROW_GROUP", 3)
    vectors = np.random.default_rng(0).standard_normal((17, 5)).astype(np.float32)
    zoo = Zoo(write(tmp_path, (rows(10), vectors[:10]), (rows(7), vectors[10:])))
    order = [16, 0, 9, 10, 3, 3, 11]
    assert np.array_equal(zoo.weights(order), vectors[order])
    numbers, streamed = zip(*zoo.stream(), strict=True)
    assert numbers == tuple(range(17))
    assert np.array_equal(np.stack(streamed), vectors)
    assert zoo.weights([]).shape == (0, 0)


def test_a_part_that_was_written_again_is_read_again(tmp_path):
    for value in (1.0, 2.0):
        zoo = Zoo(write(tmp_path, (rows(2), np.full((2, 3), value, np.float32))))
        assert (zoo.weights([0, 1]) == value).all()


def test_networks_of_different_size_lie_side_by_side(tmp_path):
    vectors = [np.full(size, size, np.float32) for size in (3, 1, 2)]
    zoo = Zoo(write(tmp_path, (rows(3), vectors)))
    assert [weights.tolist() for _, weights in zoo.stream()] == [[3, 3, 3], [1], [2, 2]]
    with pytest.raises(DataError, match=r"different layouts.*\[1, 3\]"):
        zoo.weights([0, 1])


def test_a_part_comes_back_whole(tmp_path):
    table, vectors = rows(4), [np.arange(n + 1, dtype=np.float32) for n in range(4)]
    write_part(tmp_path / "part.parquet", table, vectors)
    found, weights = read_part(tmp_path / "part.parquet")
    pd.testing.assert_frame_equal(found, table)
    assert all(np.array_equal(a, b) for a, b in zip(weights, vectors, strict=True))


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
def test_other_kinds_of_lists_are_read(tmp_path, kind):
    table = pa.Table.from_pandas(rows(3)).append_column("weights", pa.array([[1, 2], [3, 4], [5, 6]], kind))
    (tmp_path / "rows").mkdir()
    pq.write_table(table, tmp_path / "rows" / "x.parquet")
    write_layouts(tmp_path, [])
    found = Zoo(tmp_path).weights([2, 0])
    assert found.dtype == np.float32
    assert found.tolist() == [[5, 6], [1, 2]]


def test_identity_follows_the_content(tmp_path):
    first = Zoo(write(tmp_path / "a", (rows(2), np.ones((2, 3))))).identity
    assert Zoo(write(tmp_path / "b", (rows(2), np.ones((2, 3))))).identity == first
    assert Zoo(write(tmp_path / "c", (rows(2), np.zeros((2, 3))))).identity != first


def test_bad_zoos_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no zoo here.*dvc repro fetch_zoo"):
        Zoo(tmp_path)
    with pytest.raises(DataError, match="the zoo is empty"):
        Zoo(write(tmp_path / "empty", (rows(0), [])))
    with pytest.raises(DataError, match=r"columns are missing.*run_id"):
        Zoo(write(tmp_path / "bare", (rows(1).drop(columns="run_id"), np.ones((1, 2)))))
    cut = write(tmp_path / "cut", (rows(2), np.ones((2, 3))))
    part = cut / "rows" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(DataError, match=r"part-00000\.parquet: is not a readable parquet file"):
        Zoo(cut)
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_part(part)


def test_families_are_sets_of_alike_rows(tiny_zoo):
    zoo = Zoo(tiny_zoo)
    found = list(zoo.families())
    assert sorted(np.concatenate([numbers for _, _, numbers in found]).tolist()) == list(range(24))
    for architecture, layout, numbers in found:
        assert set(zoo.table.loc[numbers, "architecture"]) == {architecture}
        assert zoo.weights(numbers).shape == (len(numbers), layout.size)


def test_last_checkpoints_are_those_of_each_run_whatever_the_order(tmp_path):
    table = rows(6).assign(checkpoint=[1, 0, 3, 5, 2, 1])
    zoo = Zoo(write(tmp_path, (table, [np.zeros(2)] * 6)))
    assert zoo.last_checkpoints().tolist() == [0, 3, 4]
    assert zoo.last_checkpoints(np.array([5, 1, 2])).tolist() == [1, 2, 5]
