from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from wscore.config import load_section
from wscore.heads.evaluation.ood import ASIDE, hold_out, learnable, ood_summary_line
from wscore.heads.train import HeadsConfig

PARAMS = Path(__file__).parents[4] / "params.yaml"


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "split": ["train", "train", "validation", "test", "test", "train"],
            "family": ["mlp", "cnn", "cnn", "mlp", "cnn", "mlp"],
            "test_accuracy": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            "has_conv_layers": [False, True, True, False, True, False],
            "optimizer": ["sgd", "adam", "adam", "sgd", "adam", "adam"],
            "lr": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        }
    )


@pytest.fixture
def heads():
    return msgspec.structs.replace(
        load_section(HeadsConfig, "heads", PARAMS),
        patterns=("has_conv_layers",), continuous={"lr": "log"}, discrete=("optimizer", "family"), target_weights={"lr": 2.0},
    )  # fmt: skip


def test_networks_held_out_neither_teach_nor_choose_and_the_others_are_not_judged(table):
    split = hold_out(table, "family", "mlp")
    assert split.tolist() == [ASIDE, "train", "validation", "test", ASIDE, ASIDE]


def test_every_test_network_is_judged_once_over_all_held_out_values(table):
    judged = np.stack([hold_out(table, "family", name) == "test" for name in ("mlp", "cnn")])
    assert (judged.sum(axis=0) == (table["split"] == "test")).all()


def test_targets_of_one_value_and_the_column_itself_are_left_out(table, heads):
    kept = learnable(heads, "family", table[table["family"] == "mlp"])
    assert "patterns" not in kept.tasks  # has_conv_layers is false in all of them
    assert kept.discrete == ("optimizer",)
    assert dict(kept.continuous) == {"lr": "log"}
    assert dict(kept.target_weights) == {"lr": 2.0}


def test_a_weight_of_a_target_that_is_left_out_goes_with_it(table, heads):
    same = table.assign(lr=0.1)
    kept = learnable(heads, "family", same)
    assert dict(kept.continuous) == {}
    assert dict(kept.target_weights) == {}
    assert "hyperparameters" in kept.tasks  # names of optimizers remain


def test_the_headline_counts_ties_for_ours():
    found = {"mlp": {"accuracy": {"ours": {"r2": 0.5}, "statistics": {"r2": 0.5}}},
             "cnn": {"patterns": {"ours": {"macro_f1": 0.4}, "statistics": {"macro_f1": 0.6}}}}  # fmt: skip
    assert ood_summary_line(found) == "held out: ours at least as good in 1 of 2"
