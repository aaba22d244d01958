from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wscore.errors import DataError
from wscore.evaluation import statistics
from wscore.evaluation.statistics import STATISTICS, Known, boost, statistics_table, tensor_roles, tensor_statistics
from wscore.training.targets import Binary, Continuous, Discrete
from wscore.zoo.layout import Layout, TensorSpec
from wscore.zoo.store import Zoo, write_layouts, write_part

NUMBER = Continuous(name="y", scale="linear", floor=None, mean=0.0, std=1.0, weight=1.0)
LABEL = Binary(name="y", column="y", value=None, positive_weight=1.0, weight=1.0)
NAME = Discrete(name="y", vocabulary=("a", "b", "c"), class_weights=(1.0, 1.0, 1.0), weight=1.0)
NOTHING = Known(np.zeros((0, 3)), np.zeros(0))


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


def learnable(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with a signal, an empty column, a constant one with gaps, and a layout column."""
    rng = np.random.default_rng(rows)
    signal = rng.uniform(-1, 1, rows)
    gaps = np.where(rng.random(rows) < 0.5, np.nan, 3.0)
    layout = rng.integers(0, 3, rows)
    return np.column_stack([signal, np.full(rows, np.nan), gaps, layout]), signal + layout


def test_boosting_learns_numbers_labels_and_names():
    (x, y), (x_test, y_test), (x_val, y_val) = learnable(400), learnable(100), learnable(101)
    number = boost(NUMBER, Known(x, y), Known(x_val, y_val), x_test, iterations=60, seed=0)
    assert number.shape == (100, 1)
    assert np.corrcoef(number[:, 0], y_test)[0, 1] > 0.98
    label = boost(LABEL, Known(x, y > 1), Known(x_val, y_val > 1), x_test, iterations=60, seed=0)
    assert label.shape == (100, 1)
    assert np.mean((label[:, 0] >= 0.5) == (y_test > 1)) > 0.9
    classes = np.digitize(y, [0.5, 1.5]).astype(float)
    name = boost(NAME, Known(x, classes), NOTHING._replace(features=np.zeros((0, 4))), x_test, iterations=30, seed=0)
    assert name.shape == (100, 3)
    assert name.sum(axis=1) == pytest.approx(1)
    assert np.mean(name.argmax(axis=1) == np.digitize(y_test, [0.5, 1.5])) > 0.9


def test_boosting_is_repeatable_and_a_name_without_a_row_is_impossible():
    x, y = learnable(60)
    known = Known(x, np.where(y > 1, 2.0, 0.0))
    first, second = (
        boost(NAME, known, known, x, iterations=5, seed=1) for _ in range(2)
    )  # fmt: skip
    assert np.array_equal(first, second)
    assert not first[:, 1].any()


def test_probabilities_are_weighed_as_in_the_loss_of_the_head():
    x, y = learnable(200)
    known = Known(x, (y > 2).astype(float))
    plain = boost(LABEL, known, known, x, iterations=5, seed=0)[:, 0]
    heavy = Binary(name="y", column="y", value=None, positive_weight=9.0, weight=1.0)
    found = boost(heavy, known, known, x, iterations=5, seed=0)[:, 0]
    assert found == pytest.approx(9 * plain / (9 * plain + 1 - plain))


def test_boosting_needs_something_that_varies():
    with pytest.raises(DataError, match="y: no weight statistic varies"):
        boost(NUMBER, Known(np.ones((4, 3)), np.arange(4.0)), NOTHING, np.ones((1, 3)), iterations=1, seed=0)
