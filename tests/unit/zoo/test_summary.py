import numpy as np
import pytest

from wscore.zoo.store import Zoo
from wscore.zoo.summary import zoo_statistics


def test_figures_are_those_of_the_table(tiny_zoo):
    zoo = Zoo(tiny_zoo)
    found = zoo_statistics(zoo)
    assert (found["networks"], found["runs"], found["excluded"], found["networks_cnn"]) == (24, 12, 0, 6)
    assert found["test_accuracy_q50"] == pytest.approx(np.median(zoo.table["test_accuracy"]))
    last = zoo.table[(zoo.table["checkpoint"] == 1) & (zoo.table["family"] == "mlp")]
    assert found["final_accuracy_mlp"] == pytest.approx(np.median(last["test_accuracy"]))
    assert found["weights_least"] < found["weights_median"] < found["weights_most"]
    assert (found["groups"], found["groups_joined"], found["networks_early"]) == (12, 0, 12)
    assert all(isinstance(value, float) for value in found.values())


def test_a_foreign_zoo_has_fewer_figures(tiny_zoo):
    zoo = Zoo(tiny_zoo)
    zoo.table = zoo.table[["model_id", "run_id", "checkpoint", "layout", "architecture"]]
    assert set(zoo_statistics(zoo)) == {
        "networks", "runs", "excluded", "layouts", "weights_least", "weights_median", "weights_most",
        "groups", "groups_joined", "networks_early",
    }  # fmt: skip
