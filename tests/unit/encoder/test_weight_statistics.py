from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wscore.encoder import weight_statistics as statistics
from wscore.encoder.weight_statistics import STATISTICS, statistics_table, tensor_roles, tensor_statistics
from wscore.networks.layout import Layout, TensorSpec
from wscore.zoo.store import Zoo, write_layouts, write_part


def loop(vector: np.ndarray) -> list[float]:
    """Statistics by sorting and linear interpolation, one tensor at a time."""
    values = sorted(float(v) for v in vector)
    mean = sum(values) / len(values)
    std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5

    def percentile(share: float) -> float:
        place = share * (len(values) - 1)
        low = int(place)
        return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])

    return [mean, std, *(percentile(share) for share in (0, 0.25, 0.5, 0.75, 1))]


def test_table_equals_a_loop(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(statistics, "CHUNK", 4)  # several chunks per layout, and a rest
    zoo = Zoo(tiny_zoo)
    found = statistics_table(zoo)
    assert found.values.shape == (len(zoo), len(found.names))
    for row, vector in zoo.stream():
        layout = zoo.layout(row)
        expected = dict.fromkeys(found.names, np.nan)
        for (kind, position), span in zip(tensor_roles(layout), layout.slices().values(), strict=True):
            for name, value in zip(STATISTICS, loop(vector[span]), strict=True):
                expected[f"{kind}[-{position}].{name}"] = value
        expected["layout"] = sorted(zoo.layouts).index(layout.identity)
        np.testing.assert_allclose(found.values[row], list(expected.values()), rtol=1e-9, atol=1e-12)


def test_roles_count_from_the_output():
    specs = [("linear", (2, 3)), ("bias", (2,)), ("linear", (1, 2)), ("bias", (1,))]
    layout = Layout(
        tensors=tuple(TensorSpec(name=str(n), shape=s, kind=k, layer=n) for n, (k, s) in enumerate(specs))  # pyright: ignore
    )
    assert tensor_roles(layout) == [("linear", 2), ("bias", 2), ("linear", 1), ("bias", 1)]


def test_a_tensor_of_one_number():
    layout = Layout(tensors=(TensorSpec(name="b", shape=(1,), kind="bias", layer=0),))
    assert tensor_statistics(layout, np.array([[2.5]], np.float32)).tolist() == [[[2.5, 0.0, 2.5, 2.5, 2.5, 2.5, 2.5]]]


def test_networks_of_different_depth_share_the_columns_of_the_last_layer(tmp_path: Path):
    shallow = Layout(tensors=(TensorSpec(name="h", shape=(2, 2), kind="linear", layer=0),))
    deep = Layout(
        tensors=(
            TensorSpec(name="a", shape=(3, 1), kind="linear", layer=0),
            TensorSpec(name="h", shape=(2, 2), kind="linear", layer=1),
        )
    )
    keys = ("model_id", "run_id", "checkpoint", "layout", "architecture")
    rows = [("a", "a", 0, shallow.identity, ""), ("b", "b", 0, deep.identity, "")]
    vectors = [np.full(4, 5.0, np.float32), np.array([1, 1, 1, 7, 7, 7, 7], np.float32)]
    write_part(tmp_path / "rows" / "p.parquet", pd.DataFrame(rows, columns=list(keys)), vectors)
    write_layouts(tmp_path, [shallow, deep])
    values, names = statistics_table(Zoo(tmp_path))
    assert values[:, names.index("linear[-1].mean")].tolist() == [5, 7]
    assert np.isnan(values[0, names.index("linear[-2].mean")])
    assert values[1, names.index("linear[-2].mean")] == 1


def test_percentiles_are_those_of_numpy_to_the_bit() -> None:
    for shape in ((1, 1), (3, 2), (5, 7), (4, 500)):
        values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        for percents in (statistics.PERCENTILES, (5, 25, 50, 75, 95, 99)):
            expected = np.percentile(values.astype(np.float64), percents, axis=1)
            np.testing.assert_array_equal(statistics.percentiles(values, percents), expected)
