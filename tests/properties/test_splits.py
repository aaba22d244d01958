"""A run is in one split, for good."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wscore.errors import ConfigError
from wscore.zoo.splits import SPLITS, assign_splits

runs = st.lists(st.text(min_size=1, max_size=6), max_size=40)
fractions = st.tuples(st.floats(0, 0.49), st.floats(0, 0.49))
seeds = st.integers(0, 10**9)


@given(runs, fractions, seeds)
def test_all_checkpoints_of_a_run_share_a_split(ids, parts, seed):
    doubled = ids + ids[::-1]
    found = assign_splits(doubled, validation_fraction=parts[0], test_fraction=parts[1], seed=seed)
    assert len(found) == len(doubled)
    assert set(found) <= set(SPLITS)
    assert len(set(zip(doubled, found.tolist(), strict=True))) == len(set(ids))


@given(runs, runs, fractions, seeds)
def test_other_runs_do_not_move_a_run(ids, others, parts, seed):
    options = {"validation_fraction": parts[0], "test_fraction": parts[1], "seed": seed}
    alone = assign_splits(ids, **options)
    among = assign_splits([*others, *ids], **options)
    assert np.array_equal(alone, among[len(others) :])


@given(seeds)
def test_a_larger_test_part_keeps_the_smaller_one(seed):
    ids = [f"run-{number}" for number in range(200)]
    small = assign_splits(ids, validation_fraction=0.1, test_fraction=0.1, seed=seed) == "test"
    large = assign_splits(ids, validation_fraction=0.1, test_fraction=0.3, seed=seed) == "test"
    assert (small <= large).all()


def test_the_fractions_are_met_in_expectation():
    ids = [f"run-{number}" for number in range(20_000)]
    found = assign_splits(ids, validation_fraction=0.15, test_fraction=0.2, seed=0)
    assert np.mean(found == "validation") == pytest.approx(0.15, abs=0.01)
    assert np.mean(found == "test") == pytest.approx(0.2, abs=0.01)


def test_the_split_is_the_same_for_ever():
    """A changed rule would mix what published models were trained on with what they are judged on."""
    ids = [f"run-{number:06d}" for number in range(8)]
    found = assign_splits(ids, validation_fraction=0.25, test_fraction=0.25, seed=0)
    assert found.tolist() == ["train", "test", "train", "train", "train", "train", "test", "train"]
    assert found.tolist() != assign_splits(ids, validation_fraction=0.25, test_fraction=0.25, seed=1).tolist()


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.2, -0.1), (0.0, 1.0)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(validation, test):
    with pytest.raises(ConfigError, match="nothing is left to train on"):
        assign_splits(["a"], validation_fraction=validation, test_fraction=test, seed=0)
