"""The front table of the README."""

import pytest

from tests.unit.report.test_table import CODEC, FORECAST, HEADS, OURS, parts, tables
from wscore.report.front import COLUMNS, front_table
from wscore.report.table import STAGES


def front(**changes):
    (table,) = tables(front_table(parts(**changes)))
    return table


def test_a_row_names_the_strongest_baseline_and_what_beats_ours():
    row = front()["compress networks (20.2x smaller)"]
    assert row == [
        "agreement with the original", "**0.950** [0.700, 0.800]", "search without a zoo: 0.900",
        "int8 weights (3.9x smaller): 0.999",
    ]  # fmt: skip


def test_a_variant_of_ours_is_no_baseline():
    ratio = CODEC["20x"] | {"single_pass": OURS | {"agreement": 1.0}}
    row = front(codec_test=CODEC | {"20x": ratio})["compress networks (20.2x smaller)"]
    assert "single pass" not in "".join(row)
    found = HEADS | {"accuracy": HEADS["accuracy"] | {"linear_probe": {"r2": 0.99}}}
    assert "linear probe" not in "".join(front(heads_test=found)["predict the test accuracy"])


def test_a_loss_in_another_metric_is_reported_where_the_own_metric_is_won():
    better = {"r2": 0.5, "kendall_tau": 0.85}
    found = HEADS | {"accuracy": HEADS["accuracy"] | {"statistics": better}}
    row = front(heads_test=found)["predict the test accuracy"]
    assert row[2] == "weight statistics + boosting: 0.500"
    assert row[3] == "accuracy, Kendall's tau: 0.800, weight statistics + boosting 0.850"


def test_single_hyperparameters_that_a_baseline_predicts_better_are_named():
    ours = {"continuous_r2": 0.4, "discrete_accuracy": 0.8, "lr_r2": 0.5, "dropout_r2": 0.1}
    rival = {"continuous_r2": 0.3, "discrete_accuracy": 0.7, "lr_r2": 0.2, "dropout_r2": 0.2}
    row = front(heads_test={"hyperparameters": {"ours": ours, "statistics": rival}})["predict training hyperparameters"]
    assert row[3] == "dropout: 0.100, weight statistics + boosting 0.200"


def test_the_last_horizon_of_an_unseen_run_is_shown_and_a_lost_row_says_so():
    row = front(predictor_test=FORECAST | {"unseen_run": FORECAST["temporal"]})["forecast the weights of an unseen run"]
    assert row == ["skill, 2 ahead", "-0.500", "copy last: 0.000", "copy last: 0.000"]


def test_a_row_without_any_better_baseline_says_so():
    found = HEADS | {"accuracy": HEADS["accuracy"] | {"statistics": {"r2": 0.1}, "shapes": {"r2": 0.1}}}
    assert front(heads_test=found)["predict the test accuracy"][3] == "no measured baseline is better"


@pytest.mark.parametrize("found", [dict.fromkeys(STAGES), parts(heads_test=None, sae_test=None)])
def test_what_was_not_measured_has_no_row(found):
    (table,) = tables(front_table(found))
    assert table.pop(COLUMNS[0]) == list(COLUMNS[1:])
    assert not any(name.startswith(("predict", "rebuild networks from")) for name in table)
