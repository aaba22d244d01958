"""A run is in one split, in the counts that were asked for, and unseen widths are in none of the fits."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wscore.errors import ConfigError
from wscore.networks.architectures import Architecture
from wscore.zoo.readers.hygiene import join_groups
from wscore.zoo.splits import SPLITS, absent_widths, assign_splits, have_widths, largest_remainder

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


@given(runs, fractions, seeds)
def test_counts_of_runs_are_those_of_the_fractions(ids, parts, seed):
    unique = sorted(set(ids))
    found = assign_splits(unique, validation_fraction=parts[0], test_fraction=parts[1], seed=seed)
    for split, fraction in zip(("validation", "test"), parts, strict=True):
        assert abs(np.sum(found == split) - fraction * len(unique)) < 1
    assert np.array_equal(found, assign_splits(unique, validation_fraction=parts[0], test_fraction=parts[1], seed=seed))


@given(st.integers(0, 500), st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any))
def test_largest_remainder_adds_up_and_is_off_by_less_than_one(total, weights):
    shares = np.array(weights) / sum(weights)
    counts = largest_remainder(total, shares.tolist())
    assert sum(counts) == total
    assert np.all(np.abs(counts - total * shares) < 1)


@given(
    st.sets(st.text(min_size=1, max_size=6), min_size=1, max_size=40), st.sets(st.text(min_size=1, max_size=6)), seeds
)
def test_other_runs_keep_the_ranking(ids, others, seed):
    """Whoever is ranked before a test run is a test run too, so that other runs move only those at the edges."""
    options = {"validation_fraction": 0.25, "test_fraction": 0.25, "seed": seed}
    order = {name: place for place, name in enumerate(("test", "validation", "train"))}
    names = sorted(ids)
    alone, among = assign_splits(names, **options), assign_splits([*names, *sorted(others)], **options)[: len(names)]
    pairs = [(order[a], order[b]) for a, b in zip(alone.tolist(), among.tolist(), strict=True)]
    assert not any(first[0] < other[0] and first[1] > other[1] for first in pairs for other in pairs)


@given(seeds)
def test_a_larger_test_part_keeps_the_smaller_one(seed):
    ids = [f"run-{number}" for number in range(200)]
    small = assign_splits(ids, validation_fraction=0.1, test_fraction=0.1, seed=seed) == "test"
    large = assign_splits(ids, validation_fraction=0.1, test_fraction=0.3, seed=seed) == "test"
    assert (small <= large).all()


def test_the_split_is_the_same_for_ever():
    """A changed rule would mix what published models were trained on with what they are evaluated on."""
    ids = [f"run-{number:06d}" for number in range(8)]
    found = assign_splits(ids, validation_fraction=0.25, test_fraction=0.25, seed=0)
    assert found.tolist() == ["train", "test", "validation", "train", "validation", "train", "test", "train"]
    assert found.tolist() != assign_splits(ids, validation_fraction=0.25, test_fraction=0.25, seed=1).tolist()


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.2, -0.1), (0.0, 1.0)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(validation, test):
    with pytest.raises(ConfigError, match="nothing is left to train on"):
        assign_splits(["a"], validation_fraction=validation, test_fraction=test, seed=0)


def architecture(family: str, *widths: int) -> str:
    known = Architecture(family=family, input=(1, 8, 8), classes=10, widths=widths, activation="relu", pooling="none")
    return known.to_json()


def test_widths_are_those_of_a_family_in_order():
    texts = [architecture("mlp", 4), architecture("mlp", 4, 4), architecture("cnn", 4, 5), architecture("cnn", 5, 4),
             "", '{"name": "mixer"}', "nan"]  # fmt: skip
    widths = {"mlp": [[4]], "cnn": [[5, 4]], "resnet": [[4, 5]]}
    assert have_widths(texts, widths).tolist() == [True, False, False, True, False, False, False]
    assert not have_widths(texts, {}).any()
    assert have_widths([], widths).shape == (0,)


def test_absent_widths_are_named_for_families_that_are_there():
    texts = [architecture("mlp", 4), ""]
    assert absent_widths(texts, {"mlp": [[4], [5]], "cnn": [[2, 3]]}) == {"mlp": [[5]]}
    assert absent_widths(texts, {"mlp": [[4]]}) == {}


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
