import numpy as np
import pytest

from wscore.heads.conformal import Intervals, fit_intervals, half_width
from wscore.heads.targets import Continuous, Encoded

NUMBER = Continuous(name="n", scale="linear", floor=None, mean=0.0, std=1.0, weight=1.0)


def drawn(rows: int, seed: int) -> tuple[np.ndarray, Encoded]:
    """Predictions whose errors grow with them."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(0, 1, rows)
    truth = predicted + rng.normal(size=rows) * (0.05 + predicted)
    return predicted, Encoded(truth[:, None].astype(np.float32), np.ones((rows, 1), bool))


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_new_rows_are_held_as_often_as_asked_in_every_part(coverage: float):
    predicted, encoded = drawn(4000, 0)
    intervals = fit_intervals((NUMBER,), {"n": predicted[:, None]}, encoded, runs=np.arange(4000), coverage=coverage)[
        "n"
    ]
    new, truth = drawn(4000, 1)
    low, high = intervals.bounds(new)
    inside = (truth.values[:, 0] >= low) & (truth.values[:, 0] <= high)
    assert np.mean(inside) == pytest.approx(coverage, abs=0.02)
    assert np.mean(inside[new > 0.8]) == pytest.approx(coverage, abs=0.05)
    assert intervals.widths[-1] > 2 * intervals.widths[0]


def test_the_width_is_an_order_statistic_of_independent_errors():
    assert half_width(np.arange(1.0, 10.0), np.arange(9), 0.9) == 9  # ceil(10 x 0.9)
    assert half_width(np.arange(1.0, 20.0), np.arange(19), 0.5) == 10
    assert half_width(np.arange(1.0, 5.0), np.arange(4), 0.75) == 4  # ceil(5 x 0.75), and not ceil(4 x 0.75)
    assert half_width(np.array([3.0, 1.0]), np.arange(2), 0.99) == 3


def test_new_runs_are_covered_though_errors_of_a_run_are_alike():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        size = np.abs(rng.normal(size=13)).repeat(4)  # 12 calibration runs and a new one, all of one error per run
        width = half_width(size[:48], np.arange(12).repeat(4), 0.8)
        covered.append(size[-1] <= width)
    assert np.mean(covered) == pytest.approx(11 / 13, abs=0.04)  # 10 / 13 if networks counted as independent


def test_a_run_counts_once_however_many_networks_it_has():
    assert half_width(np.array([1.0, 2, 3, 9, 9, 9]), np.array([0, 1, 2, 3, 3, 3]), 0.6) == 3
    assert half_width(np.array([1.0, 2, 3, 9, 9, 9]), np.arange(6), 0.6) == 9
    assert half_width(np.array([0.4, 0.1, 0.2, 0.3]), np.array([1, 0, 1, 1]), coverage=0.3) == 0.1


def test_few_rows_make_one_group_and_nothing_known_makes_none():
    predicted, encoded = drawn(30, 0)
    assert (
        len(fit_intervals((NUMBER,), {"n": predicted[:, None]}, encoded, runs=np.arange(30), coverage=0.9)["n"].widths)
        == 1
    )
    nothing = encoded._replace(known=np.zeros((30, 1), bool))
    assert fit_intervals((NUMBER,), {"n": predicted[:, None]}, nothing, runs=np.arange(30), coverage=0.9) == {}


def test_groups_and_widths_must_fit():
    with pytest.raises(ValueError, match="one width more"):
        Intervals(coverage=0.9, edges=(0.0,), widths=(1.0,))
