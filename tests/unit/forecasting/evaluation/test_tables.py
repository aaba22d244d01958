"""Pooled metrics by hand."""

import math

import pandas as pd
import pytest

from wscore.forecasting.evaluation.tables import Entry, ForecastResults, WindowKey, layers, pooled_metrics

NAN = math.nan


def entry(mse: float, copied: float, run: str) -> Entry:
    return Entry(WindowKey(run, "sgd", "temporal", 3, later=True), 1, "ours", mse, copied, NAN, NAN, NAN, NAN)


def test_skill_is_one_minus_a_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    entries = [entry(1.0, 2.0, "a"), entry(3.0, 100.0, "a"), entry(6.0, 4.0, "b")]
    (pooled,) = pooled_metrics(ForecastResults(entries, [], {}, [], []))
    assert pooled.skill == pytest.approx(1 - 10 / 106)
    assert pooled.skill_worst == pytest.approx(-0.5)
    assert pooled.skill_positive == pytest.approx(2 / 3)
    assert pooled.skill_sd == pytest.approx(float(pd.Series([1 - 4 / 102, -0.5]).std()))


def test_the_skill_of_a_tensor_compares_squared_errors() -> None:
    errors = {("temporal", True, 1, "ours"): {"w": (1.0, 4.0), "b": (8.0, 2.0)}}
    table = layers(ForecastResults([entry(1.0, 2.0, "a")], [], errors, [], []))
    assert dict(zip(table["tensor"], table["skill"], strict=True)) == {"w": 0.75, "b": -3.0}
