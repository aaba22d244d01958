"""A run is in one split, for good."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wscore.errors import ConfigError
from wscore.zoo.readers.hygiene import join_groups
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


names = st.sampled_from([f"run-{number}" for number in range(30)])


@given(st.lists(names, min_size=1), st.lists(st.tuples(names, names), max_size=25), fractions, seeds)
def test_related_runs_share_a_split(ids, relations, parts, seed):
    groups = join_groups(ids, relations)
    found = assign_splits(groups, validation_fraction=parts[0], test_fraction=parts[1], seed=seed)
    split = dict(zip(ids, found.tolist(), strict=True))
    assert all(split[a] == split[b] for a, b in relations if a in split and b in split)
    assert [split[run] for run in ids] == found.tolist()


@given(st.lists(names), st.lists(st.tuples(names, names), max_size=25))
def test_groups_join_nobody_else(ids, relations):
    network = nx.Graph(relations)
    network.add_nodes_from(ids)
    parts = {run: min(component) for component in nx.connected_components(network) for run in component}
    assert join_groups(ids, relations) == [parts[run] for run in ids]
