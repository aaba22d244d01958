import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from wscore.evaluation.bootstrap import bounds, mean, rank_correlations, run_weights

RUNS = np.repeat([f"run-{number}" for number in range(30)], 4)


def interval(values, runs=RUNS, **options):
    return bounds({"x": mean(values, run_weights(runs, **({"samples": 400, "seed": 0} | options)))})


def test_a_constant_has_no_spread():
    assert interval(np.full(120, 0.25)) == {"x_low": 0.25, "x_high": 0.25}


def test_runs_are_the_units():
    """Four equal checkpoints per run say no more than one: the standard error is that of 30 runs, not of 120 rows."""
    runs = np.random.default_rng(1).normal(size=30)
    found = interval(np.repeat(runs, 4), samples=2000)
    half = 1.96 * runs.std() / np.sqrt(30)
    assert found["x_high"] - found["x_low"] == pytest.approx(2 * half, rel=0.1)
    assert found["x_low"] < runs.mean() < found["x_high"]


def test_an_interval_leaves_out_as_much_below_as_above():
    """Of 0, 1, ..., 1000 it leaves out 2.5 % on either side."""
    assert bounds({"x": np.arange(1001.0)}) == pytest.approx({"x_low": 25.0, "x_high": 975.0})


def test_same_seed_same_bits():
    values = np.random.default_rng(0).normal(size=120)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


def test_order_of_rows_does_not_matter_to_runs_drawn():
    values = np.random.default_rng(0).normal(size=120)
    order = np.random.default_rng(2).permutation(120)
    assert interval(values[order], RUNS[order]) == pytest.approx(interval(values))


def test_whole_runs_are_drawn_each_as_often_for_all_of_its_rows():
    runs = np.array(["a", "a", "b", "c", "c", "c"])
    weights = run_weights(runs, samples=50, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


@pytest.mark.parametrize(("runs", "samples"), [(RUNS, 0), (np.array(["one"] * 5), 100)])
def test_nothing_is_drawn_without_samples_or_runs(runs, samples):
    assert run_weights(runs, samples=samples, seed=0).shape == (0, len(runs))


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlations_are_those_of_the_repeated_rows(seed):
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 5, size=(2, 120)).astype(float)
    weights = run_weights(RUNS, samples=5, seed=seed)
    found = rank_correlations(a, b, weights)
    for sample, row in enumerate(weights):
        one, other = (np.repeat(values, row.astype(int)) for values in (a, b))
        assert found["spearman"][sample] == pytest.approx(spearmanr(one, other).statistic)
        assert found["kendall_tau"][sample] == pytest.approx(kendalltau(one, other).statistic)


def test_a_constant_ranks_nothing():
    weights = run_weights(RUNS, samples=5, seed=0)
    for pair in [(np.arange(120.0), np.ones(120)), (np.ones(120), np.arange(120.0))]:
        assert not rank_correlations(*pair, weights)["spearman"].any()
