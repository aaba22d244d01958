"""Networks on which the codec is evaluated: of many runs, grouped so that they can be run together."""

from typing import Any, cast

import numpy as np
import pytest

from wscore.autoencoder.evaluation.evaluate_codec import _alike, drawn
from wscore.networks.architectures import Architecture, parse
from wscore.networks.datasets import NetworkKey

RUNS = np.repeat([f"run{number}" for number in range(10)], 4)


@pytest.mark.parametrize(("most", "runs"), [(6, 6), (10, 10), (15, 10), (20, 10), (None, 10), (99, 10)])
def test_networks_are_of_as_many_runs_as_possible(most: int | None, runs: int) -> None:
    rows = drawn(RUNS, most, seed=3)
    counts = np.bincount(rows // 4, minlength=10)
    assert len(np.unique(rows)) == len(rows) == min(most or 40, 40)
    assert (counts > 0).sum() == runs
    assert counts.max() - counts[counts > 0].min() <= 1


def test_another_seed_draws_other_networks() -> None:
    first, second = (drawn(RUNS, 8, seed=seed) for seed in (0, 1))
    assert first.tolist() != second.tolist()
    assert len({int(row) % 4 for row in (*first, *second)}) > 1


def test_networks_that_differ_in_activation_and_pooling_are_run_together() -> None:
    def key(**changes: Any) -> NetworkKey:
        given = {
            "family": "cnn",
            "input": (1, 8, 8),
            "classes": 5,
            "widths": (4, 4),
            "activation": "relu",
            "pooling": "max",
        }
        return NetworkKey(Architecture(**cast("dict[str, Any]", given | changes)).to_json(), "", "digits")

    assert _alike(key()) == _alike(key(activation="gelu", pooling="avg"))
    assert _alike(key()) != _alike(key(widths=(4, 5)))
    assert _alike(key()) != _alike(key()._replace(task="mnist"))
    assert parse(key().architecture).pooling == "max"
    foreign = NetworkKey("", "mine:{}", "digits")
    assert _alike(foreign) == foreign
