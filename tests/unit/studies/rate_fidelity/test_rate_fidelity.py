"""Bits saved at equal agreement, and the choice of learning rates."""

import math

import pandas as pd
import pytest

from studies.rate_fidelity.rate_fidelity import (
    RateFidelityConfig,
    bd_rate,
    best_rates,
    rate_differences,
    rate_scores,
    sentence,
)
from wscore.config import convert
from wscore.errors import ConfigError

RATIOS = [6.0, 10.0, 20.0, 31.0, 45.0]
AGREEMENT = [0.99, 0.97, 0.93, 0.9, 0.8]


def rates(**curves: list[float]) -> pd.DataFrame:
    return pd.DataFrame([
        {"ratio": ratio, "method": method, "compression_ratio": ratio, "agreement": value}
        for method, values in curves.items()
        for ratio, value in zip(RATIOS, values, strict=True)
    ])  # fmt: skip


def test_half_the_bits_at_equal_agreement() -> None:
    first = pd.DataFrame({"compression_ratio": [12, 20, 40], "agreement": [0.99, 0.95, 0.9]})
    assert bd_rate(first, first.assign(compression_ratio=[6, 10, 20])) == pytest.approx(-0.5)
    assert bd_rate(first, first) == pytest.approx(0)


def test_curves_that_never_agree_have_no_difference() -> None:
    first = pd.DataFrame({"compression_ratio": [10, 20], "agreement": [0.9, 0.8]})
    assert math.isnan(bd_rate(first, first.assign(agreement=[0.5, 0.4])))


def test_rivals_are_compared_between_the_bounds_only() -> None:
    worse = [value - 0.05 for value in AGREEMENT]
    inside = rate_differences(rates(search=AGREEMENT, plain=worse))
    assert list(inside["method"]) == ["plain"]
    assert inside["bd_rate"][0] < 0
    beyond = rate_differences(rates(search=[*AGREEMENT[:-1], 0.0], plain=worse))
    assert beyond["bd_rate"][0] == inside["bd_rate"][0]
    assert "fewer bits" in sentence(rates(search=AGREEMENT, plain=worse), inside)


def test_the_best_rate_of_each_search_is_taken() -> None:
    rows = pd.DataFrame({"method": ["search", "own_search", "plain"], "agreement": [0.9, 0.7, 1.0]})
    other = rows.assign(agreement=[0.8, 0.75, 1.0])
    scores = pd.DataFrame(rate_scores(rows, 0.1) + rate_scores(other, 0.2))
    assert best_rates(scores) == {"search": 0.1, "own_search": 0.2}


@pytest.mark.parametrize("change", [{"ratios": [20]}, {"ratios": [0.5, 20]}, {"learning_rates": []}, {"networks": 0}])
def test_bad_values_are_refused(change: dict) -> None:
    whole = {"ratios": [6, 20], "networks": 2, "validation_networks": 2, "learning_rates": [0.1]} | change
    with pytest.raises(ConfigError, match=f"rate_fidelity.{next(iter(change))}"):
        convert(whole, RateFidelityConfig, where="rate_fidelity")
