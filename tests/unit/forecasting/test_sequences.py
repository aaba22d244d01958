import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wscore.errors import ConfigError, DataError
from wscore.forecasting import sequences
from wscore.forecasting.sequences import check_lengths, reaching_back, split_point, training_windows

SHAPES = st.fixed_dictionaries(
    {"length": st.integers(2, 5), "horizons": st.integers(1, 5), "stride": st.integers(1, 4)}
)


def steps(shape: dict[str, int]) -> dict[str, object]:
    return {**shape, "horizons": range(1, shape["horizons"] + 1)}


def test_training_windows_by_hand() -> None:
    found = training_windows(7, length=3, horizons=(1, 2), stride=2)
    assert found.history.tolist() == [[0, 2, 4]]
    assert found.targets.tolist() == [[6, 6]]  # snapshot 8 lies behind the split: its place is filled, and not known
    assert found.known.tolist() == [[True, False]]
    assert found.last.tolist() == [4]


def test_later_windows_by_hand() -> None:
    found = sequences.test_windows(4, 9, length=2, horizons=(1, 2), stride=2, furthest=2)
    assert found.history.tolist() == [[1, 3], [2, 4]]
    assert found.targets.tolist() == [[5, 7], [6, 8]]
    assert found.known.all()


def test_older_snapshots_by_hand() -> None:
    found = reaching_back(training_windows(13, length=3, horizons=(1,), stride=2), (3, 5))
    assert found.last.tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert found.history[[0, 3, 6]].tolist() == [[0, 0, 0, 2, 4], [0, 1, 3, 5, 7], [0, 4, 6, 8, 10]]


def test_a_far_target_counts_where_there_is_one() -> None:
    found = sequences.test_windows(3, 9, length=2, horizons=(1, 5), stride=1, furthest=1)
    assert found.last.tolist() == [2, 3, 4, 5, 6, 7]
    assert found.known.tolist() == [[True, True], [True, True]] + 4 * [[True, False]]
    assert found.targets.tolist()[:3] == [[3, 7], [4, 8], [5, 5]]


@given(SHAPES, st.integers(0, 40))
def test_nothing_that_is_learned_from_lies_behind_the_split(shape: dict[str, int], stop: int) -> None:
    found = training_windows(stop, **steps(shape))
    for part in (found.history, found.targets):
        assert part.size == 0 or (part.min() >= 0 and part.max() < stop)
    assert found.known[:, 0].all()
    wanted = found.last[:, None] + shape["stride"] * np.arange(1, shape["horizons"] + 1)
    assert np.array_equal(found.known, wanted < stop)
    assert np.array_equal(found.targets[found.known], wanted[found.known])
    assert len(found.last) == max(0, stop - shape["length"] * shape["stride"])  # every offset


@given(SHAPES, st.integers(0, 40), st.integers(0, 40))
def test_every_target_of_a_test_window_lies_behind_the_split(shape: dict[str, int], split: int, more: int) -> None:
    found = sequences.test_windows(split, split + more, **steps(shape), furthest=shape["horizons"])
    assert found.known.all()
    assert (found.targets >= split).all()
    assert (found.targets < split + more).all()
    assert (found.history >= 0).all()


@given(SHAPES, st.integers(2, 80), st.floats(0.05, 0.95))
def test_what_passes_the_check_has_windows_to_learn_from_and_to_test_on(
    shape: dict[str, int], count: int, share: float
) -> None:
    split = split_point(count, share)
    try:
        check_lengths("here", count, split, **shape, least=1)
    except (ConfigError, DataError):
        return
    assert len(sequences.test_windows(split, count, **steps(shape), furthest=shape["horizons"]).last)
    assert training_windows(split, **{**steps(shape), "stride": 1}).known.all(axis=1).any()


def test_too_short_is_told_from_badly_split() -> None:
    shape = {"length": 3, "horizons": 5, "stride": 2, "least": 1}
    with pytest.raises(
        DataError, match=r"seed-0: has too few snapshots; expected 15 or more .*; got 14; raise base\.epochs"
    ):
        check_lengths("seed-0", 14, 7, **shape)
    with pytest.raises(ConfigError, match=r"predictor\.train_split: leaves 7 of 15 snapshots to train on; expected 8"):
        check_lengths("seed-0", 15, 7, **shape)
    with pytest.raises(ConfigError, match=r"predictor\.train_split: leaves 9 of 20 snapshots to test on; expected 10"):
        check_lengths("seed-0", 20, 11, **shape)
    check_lengths("seed-0", 18, 8, **shape)
