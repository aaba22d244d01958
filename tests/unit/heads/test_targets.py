import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wscore.config import convert, to_plain
from wscore.errors import DataError
from wscore.heads.targets import (
    Binary,
    Continuous,
    Discrete,
    Targets,
    encode_targets,
    fit_binary,
    fit_continuous,
    fit_discrete,
)


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "has_norm": [True, False, False, False],
            "maybe": [True, None, False, True],
            "pooling": ["max", "avg", None, "max"],
            "lr": [0.1, 0.01, 0.001, math.nan],
            "weight_decay": [0.0, 1e-4, 1e-2, 0.0],
            "optimizer": ["sgd", "adam", "sgd", None],
            "batch_size": [32, 64, 32, 64],
            "same": [1.0, 1.0, 1.0, math.nan],
            "empty": [None, None, None, None],
        }
    )


def binary(*names: str, balance: bool = True, weights: dict | None = None) -> Targets:
    return fit_binary(names, table(), balance=balance, weights=weights or {}, key="heads.patterns")


def continuous(**scales) -> Targets:
    return fit_continuous(scales, table(), weights={}, key="heads.continuous")


def discrete(*names: str, balance: bool = True) -> Targets:
    return fit_discrete(names, table(), balance=balance, weights={}, key="heads.discrete")


def test_binary_columns_and_values():
    targets = binary("has_norm", "maybe", "pooling_max", "batch_size_64", weights={"maybe": 0.5})
    assert [(t.column, t.value) for t in targets if isinstance(t, Binary)] == [
        ("has_norm", None), ("maybe", None), ("pooling", "max"), ("batch_size", "64"),
    ]  # fmt: skip
    values, known = encode_targets(targets, table())
    assert values.dtype == np.float32
    assert known.tolist() == [[True] * 4, [True, False, True, True], [True, True, False, True], [True] * 4]
    assert values[known].tolist() == [1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1]
    assert [t.positive_weight for t in targets if isinstance(t, Binary)] == [3.0, 0.5, 0.5, 1.0]
    assert [t.weight for t in targets] == [1, 0.5, 1, 1]
    assert [t.positive_weight for t in binary("has_norm", balance=False) if isinstance(t, Binary)] == [1.0]


def test_the_longest_column_names_a_label():
    both = table().assign(pooling_kind=["max", "avg", "max", "avg"])
    (target,) = fit_binary(["pooling_kind_max"], both, balance=True, weights={}, key="k")
    assert (target.column, target.encode(both).tolist()) == ("pooling_kind", [1, 0, 1, 0])


def test_linear_scale_is_the_z_score():
    (target,) = continuous(batch_size="linear")
    assert target == Continuous(
        name="batch_size", scale="linear", floor=None, mean=48.0, std=16.0, weight=1.0, limits=(0.0, None)
    )
    assert target.encode(table()).tolist() == [-1, 1, -1, 1]
    assert target.restore(np.array([-1.0, 0.5])).tolist() == [32, 56]


def test_log_scale_with_zeros():
    (target,) = continuous(weight_decay="log")
    assert isinstance(target, Continuous)
    assert target.floor == pytest.approx(1e-5)
    logs = np.array([-5.0, -4.0, -2.0, -5.0])
    assert target.encode(table()) == pytest.approx((logs - logs.mean()) / logs.std())
    assert target.restore(target.encode(table())) == pytest.approx([0, 1e-4, 1e-2, 0])
    assert target.restore(target.encode(table()))[0] == 0


def test_a_prediction_between_zero_and_the_smallest_value_goes_to_the_nearer():
    (target,) = continuous(weight_decay="log")
    assert isinstance(target, Continuous)
    near = (np.array([-4.51, -4.49]) - target.mean) / target.std
    assert target.restore(near) == pytest.approx([0, 10**-4.49])


@given(st.lists(st.floats(1e-12, 1e6), min_size=2, max_size=20, unique=True), st.integers(0, 3))
def test_log_scale_inverts(values: list[float], zeros: int):
    column = pd.DataFrame({"x": [0.0] * zeros + values})
    if len(np.unique(np.log10(values))) < 2:
        return
    (target,) = fit_continuous({"x": "log"}, column, weights={}, key="k")
    assert target.restore(target.encode(column)) == pytest.approx(column["x"].to_numpy(), rel=1e-6)


def test_a_huge_prediction_stays_finite_when_squared():
    (target,) = continuous(lr="log")
    assert np.isfinite(np.asarray(target.restore(np.array([1e9]))) ** 2).all()


def test_discrete_vocabulary_and_weights():
    targets = discrete("optimizer", "batch_size")
    assert [t.vocabulary for t in targets if isinstance(t, Discrete)] == [("adam", "sgd"), ("32", "64")]
    assert [t.class_weights for t in targets if isinstance(t, Discrete)] == [(1.5, 0.75), (1.0, 1.0)]
    values, known = encode_targets(targets, table())
    assert known[:, 0].tolist() == [True, True, True, False]
    assert values.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert targets[0].restore(np.array([1, 0])) == ["sgd", "adam"]
    assert [t.class_weights for t in discrete("optimizer", balance=False) if isinstance(t, Discrete)] == [(1.0, 1.0)]


def test_an_unseen_name_counts_as_missing():
    (target,) = discrete("optimizer")
    assert np.isnan(target.encode(pd.DataFrame({"optimizer": ["lion"]}))).all()


def test_targets_survive_json():
    targets = (*binary("pooling_max"), *continuous(weight_decay="log"), *discrete("optimizer"))
    assert tuple(convert(to_plain(target), type(target), where="x") for target in targets) == targets


def test_only_the_given_rows_decide():
    (target,) = fit_continuous({"lr": "log"}, table().iloc[:2], weights={}, key="k")
    assert isinstance(target, Continuous)
    assert (target.mean, target.std) == pytest.approx((-1.5, 0.5))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: binary("has_nrom"), r"heads.patterns: the zoo has no column for the label 'has_nrom'.*has_norm, maybe"),
        (lambda: binary("optimizer"), r"optimizer: is not a boolean column.*\['sgd', 'adam'\].*optimizer_VALUE"),
        (lambda: binary("lr"), "lr: is not a boolean column"),
        (lambda: binary("has_norm", "pooling_min", "same"), r"heads.patterns.*pooling_min \(only False\), same \(only True\)"),
        (lambda: binary("has_norm", "pooling_min"), "leave these out, keep: has_norm"),
        (lambda: continuous(learning_rate="log"), "heads.continuous: learning_rate: the zoo has no column 'learning_rate'"),
        (lambda: continuous(optimizer="linear"), r"heads.continuous: optimizer: column is not numeric.*\['sgd', 'adam'\]"),
        (lambda: continuous(lr="log", same="linear"), r"heads.continuous.*same \(only 1.0\).*keep: lr"),
        (lambda: continuous(empty="linear"), r"empty \(no value\)"),
        (lambda: discrete("optimiser"), "heads.discrete: the zoo has no column 'optimiser'"),
        (lambda: discrete("same"), r"heads.discrete.*same \(only 1.0\)"),
        (lambda: discrete("empty"), r"empty \(no value\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_by_name(function, message: str):
    with pytest.raises(DataError, match=message):
        function()


@pytest.mark.parametrize(("value", "message"), [(-1.0, "negative value on a log scale"), (math.inf, "infinite")])
def test_values_that_a_log_scale_cannot_take(value: float, message: str):
    bad = table().assign(lr=[0.1, 0.2, 0.3, value])
    with pytest.raises(DataError, match=f"lr: .*{message}"):
        fit_continuous({"lr": "log"}, bad, weights={}, key="heads.continuous")


def test_predictions_stay_within_what_is_possible() -> None:
    table = pd.DataFrame({"fraction": [0.1, 0.9], "count": [3.0, 50.0], "any": [-1.0, 2.0]})
    scales = dict.fromkeys(table, "linear")
    far = np.array([-50.0, 50.0])
    found = {target.name: target for target in fit_continuous(scales, table, weights={}, key="x")}
    assert found["fraction"].possible(far).tolist() == [0.0, 1.0]
    assert found["count"].possible(far)[0] == 0.0
    assert found["count"].possible(far)[1] > 50
    assert found["any"].possible(far)[0] < -1
