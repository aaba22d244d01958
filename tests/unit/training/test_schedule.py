"""Learning-rate schedules at steps computed by hand."""

import math

import pytest

from wscore.training.schedule import DECAYS, rate


@pytest.mark.parametrize(("schedule", "expected"), [
    ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
    ("cosine", [0.5, 1, 1, *(0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(1, 8))]),
])  # fmt: skip
def test_hand_computed(schedule, expected: list[float]) -> None:
    assert [rate(step, total=10, warmup=0.2, schedule=schedule) for step in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", DECAYS)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 3, 100])
def test_rate_is_positive_at_most_one_and_never_rises_after_the_warm_up(schedule, warmup: float, total: int) -> None:
    rates = [rate(step, total=total, warmup=warmup, schedule=schedule) for step in range(total)]
    assert 0 < min(rates) <= max(rates) <= 1
    decay = rates[int(warmup * total) :]
    assert decay[0] == 1
    assert decay == sorted(decay, reverse=True)
