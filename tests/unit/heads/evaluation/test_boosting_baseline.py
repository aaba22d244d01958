import numpy as np
import pytest

from wscore.errors import DataError
from wscore.heads.boosting import Known
from wscore.heads.evaluation.boosting_baseline import boost
from wscore.heads.targets import Binary, Continuous, Discrete

NUMBER = Continuous(name="y", scale="linear", floor=None, mean=0.0, std=1.0, weight=1.0)
LABEL = Binary(name="y", column="y", value=None, positive_weight=1.0, weight=1.0)
NAME = Discrete(name="y", vocabulary=("a", "b", "c"), class_weights=(1.0, 1.0, 1.0), weight=1.0)
NOTHING = Known(np.zeros((0, 3)), np.zeros(0))


def learnable(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with a signal, an empty column, a constant one with gaps, and a layout column."""
    rng = np.random.default_rng(rows)
    signal = rng.uniform(-1, 1, rows)
    gaps = np.where(rng.random(rows) < 0.5, np.nan, 3.0)
    layout = rng.integers(0, 3, rows)
    return np.column_stack([signal, np.full(rows, np.nan), gaps, layout]), signal + layout


def test_boosting_learns_numbers_labels_and_names():
    (x, y), (x_test, y_test), (x_val, y_val) = learnable(400), learnable(100), learnable(101)
    number = boost(NUMBER, Known(x, y), Known(x_val, y_val), x_test, iterations=60, seed=0).outputs
    assert number.shape == (100, 1)
    assert np.corrcoef(number[:, 0], y_test)[0, 1] > 0.98
    label = boost(LABEL, Known(x, y > 1), Known(x_val, y_val > 1), x_test, iterations=60, seed=0).outputs
    assert label.shape == (100, 1)
    assert np.mean((label[:, 0] >= 0.5) == (y_test > 1)) > 0.9
    classes = np.digitize(y, [0.5, 1.5]).astype(float)
    name = boost(
        NAME, Known(x, classes), NOTHING._replace(features=np.zeros((0, 4))), x_test, iterations=30, seed=0
    ).outputs
    assert name.shape == (100, 3)
    assert name.sum(axis=1) == pytest.approx(1)
    assert np.mean(name.argmax(axis=1) == np.digitize(y_test, [0.5, 1.5])) > 0.9


def test_boosting_is_repeatable_and_a_name_without_a_row_is_impossible():
    x, y = learnable(60)
    known = Known(x, np.where(y > 1, 2.0, 0.0))
    first, second = (
        boost(NAME, known, known, x, iterations=5, seed=1).outputs for _ in range(2)
    )  # fmt: skip
    assert np.array_equal(first, second)
    assert not first[:, 1].any()


def test_probabilities_are_weighed_as_in_the_loss_of_the_head():
    x, y = learnable(200)
    known = Known(x, (y > 2).astype(float))
    plain = boost(LABEL, known, known, x, iterations=5, seed=0).outputs[:, 0]
    heavy = Binary(name="y", column="y", value=None, positive_weight=9.0, weight=1.0)
    found = boost(heavy, known, known, x, iterations=5, seed=0).outputs[:, 0]
    assert found == pytest.approx(9 * plain / (9 * plain + 1 - plain))


def test_boosting_needs_something_that_varies():
    with pytest.raises(DataError, match="y: no weight statistic varies"):
        boost(NUMBER, Known(np.ones((4, 3)), np.arange(4.0)), NOTHING, np.ones((1, 3)), iterations=1, seed=0)
