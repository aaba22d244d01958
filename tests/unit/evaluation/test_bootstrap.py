import numpy as np
import pytest

from wscore.evaluation.bootstrap import bootstrap, mean_of

RUNS = np.repeat([f"run-{number}" for number in range(30)], 4)


def interval(values, **options):
    return bootstrap(RUNS, {"x": mean_of(values)}, **({"samples": 400, "seed": 0} | options))


def test_a_constant_has_no_spread():
    assert interval(np.full(120, 0.25)) == {"x_low": 0.25, "x_high": 0.25}


def test_runs_are_the_units():
    """Four equal checkpoints per run say no more than one: the standard error is that of 30 runs, not of 120 rows."""
    runs = np.random.default_rng(1).normal(size=30)
    found = interval(np.repeat(runs, 4), samples=2000)
    half = 1.96 * runs.std() / np.sqrt(30)
    assert found["x_high"] - found["x_low"] == pytest.approx(2 * half, rel=0.1)
    assert found["x_low"] < runs.mean() < found["x_high"]


def test_same_seed_same_bits():
    values = np.random.default_rng(0).normal(size=120)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


def test_order_of_rows_does_not_matter_to_runs_drawn():
    values = np.random.default_rng(0).normal(size=120)
    order = np.random.default_rng(2).permutation(120)
    shuffled = bootstrap(RUNS[order], {"x": mean_of(values[order])}, samples=400, seed=0)
    assert shuffled == pytest.approx(interval(values))


@pytest.mark.parametrize(("runs", "samples"), [(RUNS, 0), (np.array(["one"] * 5), 100)])
def test_no_interval_without_samples_or_runs(runs, samples):
    assert bootstrap(runs, {"x": mean_of(np.zeros(len(runs)))}, samples=samples, seed=0) == {}
