import math

import numpy as np
import pytest

from wscore.heads.evaluation.metrics import (
    aggregate,
    binary_scores,
    class_scores,
    hamming_loss,
    is_shape_leaked,
    kendall_tau,
    macro_f1,
    r2,
    regression_scores,
    skill,
    subset_accuracy,
    target_scores,
)
from wscore.heads.targets import Binary, Continuous, Discrete, Encoded

LABEL = Binary(name="norm", column="norm", value=None, positive_weight=1.0, weight=1.0)
NUMBER = Continuous(name="lr", scale="log", floor=1e-4, mean=-2.0, std=2.0, weight=1.0)
NAME = Discrete(name="family", vocabulary=("cnn", "mlp", "resnet"), class_weights=(1.0, 1.0, 1.0), weight=1.0)


def test_binary_scores_by_hand():
    truth = np.array([True, True, True, False, False])
    probability = np.array([0.9, 0.2, 0.3, 0.7, 0.1])  # predicted: 1 0 0 1 0
    assert binary_scores(truth, probability) == pytest.approx(
        {
            "n": 5,
            "accuracy": 2 / 5,
            "precision": 1 / 2,
            "recall": 1 / 3,
            "f1": 2 / 5,
            "roc_auc": 4 / 6,  # pairs (true, false) in the right order: .9>.7 .9>.1 .2>.1 .3>.1
            "average_precision": (1 / 1 + 2 / 3 + 3 / 4) / 3,
        }
    )
    assert binary_scores(np.array([True, False]), np.array([0.5, 0.4]))["recall"] == 1  # one half counts as true


def test_a_label_that_is_never_predicted_has_no_precision():
    scores = binary_scores(np.array([True, False]), np.array([0.4, 0.3]))
    assert (scores["precision"], scores["recall"], scores["f1"], scores["roc_auc"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("value", [True, False])
def test_one_valued_labels_have_an_accuracy_only(value: bool):
    assert binary_scores(np.array([value, value]), np.array([0.9, 0.1])) == {"n": 2.0, "accuracy": 0.5}
    assert binary_scores(np.zeros(0, bool), np.zeros(0)) == {"n": 0.0}


def test_regression_scores_by_hand():
    truth, prediction = np.array([0.0, 1.0, 2.0, 4.0]), np.array([1.0, 1.0, 3.0, 2.0])
    assert regression_scores(truth, prediction) == pytest.approx(
        {
            "n": 4,
            "mse": 6 / 4,
            "mae": 4 / 4,
            "rmse": math.sqrt(1.5),
            "relative_error": (0 + 1 / 2 + 2 / 4) / 3,
            "r2": 1 - 6 / 8.75,
            "kendall_tau": (4 - 1) / math.sqrt(6 * 5),  # one pair of predictions is tied
            "spearman": np.corrcoef([1, 2, 3, 4], [1.5, 1.5, 4, 3])[0, 1],
        }
    )


def test_regression_scores_of_degenerate_cases():
    assert regression_scores(np.ones(3), np.zeros(3)) == {"n": 3, "mse": 1, "mae": 1, "rmse": 1, "relative_error": 1}
    assert "relative_error" not in regression_scores(np.zeros(2), np.ones(2))
    assert regression_scores(np.zeros(0), np.zeros(0)) == {"n": 0}
    flat = regression_scores(np.array([1.0, 2.0]), np.array([1.5, 1.5]))
    assert (flat["r2"], flat["kendall_tau"], flat["spearman"]) == (0, 0, 0)


def test_r2_and_tau_are_undefined_for_a_one_valued_truth():
    assert math.isnan(r2(np.ones(3), np.arange(3.0)))
    assert math.isnan(kendall_tau(np.ones(3), np.arange(3.0)))


def test_class_scores_by_hand():
    truth, predicted = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2])
    assert class_scores(truth, predicted) == pytest.approx(
        {"n": 4, "accuracy": 3 / 4, "macro_f1": (4 / 5 + 1) / 2, "majority": 3 / 4}
    )
    assert class_scores(np.zeros(0, int), np.zeros(0, int)) == {"n": 0}


def test_multi_label_scores_count_known_labels_only():
    truth = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    predicted = np.array([[1, 1], [1, 0], [0, 1]], dtype=bool)
    known = np.array([[1, 0], [1, 1], [0, 0]], dtype=bool)
    wrong = truth != predicted
    assert hamming_loss(wrong, known) == 1 / 3
    assert subset_accuracy(wrong, known) == 1 / 2
    assert macro_f1(truth, predicted, known) == (1 + 0) / 2
    assert macro_f1(truth, predicted, np.ones_like(known)) == (1 + 1 / 2) / 2
    assert math.isnan(macro_f1(truth, predicted, np.zeros_like(known)))


def test_macro_f1_agrees_with_the_scores_of_single_labels():
    rng = np.random.default_rng(0)
    truth, probability = rng.random((50, 3)) < 0.4, rng.random((50, 3))
    single = [binary_scores(truth[:, k], probability[:, k])["f1"] for k in range(3)]
    assert macro_f1(truth, probability >= 0.5, np.ones_like(truth)) == pytest.approx(np.mean(single))


def test_target_scores_of_a_number_are_in_its_scaled_space():
    scores = target_scores(NUMBER, np.array([[-0.5], [0.5], [0.5]]), np.array([-0.5, 0.5, 1.0]))
    assert scores["mae"] == pytest.approx(0.5 / 3)


def test_target_scores_of_names_and_labels():
    names = target_scores(NAME, np.eye(3)[[0, 1, 1]] * 0.4, np.array([0.0, 1.0, 2.0]))
    assert names == pytest.approx({"n": 3, "accuracy": 2 / 3, "macro_f1": (1 + 2 / 3) / 3, "majority": 1 / 3})
    assert target_scores(LABEL, np.array([[0.6], [0.2]]), np.array([1.0, 0.0]))["f1"] == 1


def test_skill_is_zero_for_the_best_constant_and_one_for_the_truth():
    numbers, names = np.array([1.0, 2.0, 6.0]), np.array([0.0, 0.0, 2.0])
    assert skill(NUMBER, np.full((3, 1), 3.0), numbers) == 0
    assert skill(NUMBER, numbers[:, None], numbers) == 1
    assert skill(NAME, np.eye(3)[[0, 0, 0]], names) == 0
    assert skill(NAME, np.eye(3)[[0, 0, 2]], names) == 1
    assert skill(NAME, np.eye(3)[[1, 1, 2]], names) == pytest.approx(-1)
    assert skill(LABEL, np.array([[0.2], [0.1], [0.4]]), np.array([0.0, 0.0, 1.0])) == 0
    assert math.isnan(skill(NAME, np.eye(3), np.ones(3)))


def test_aggregate_is_the_mean_skill_with_bad_ones_cut_and_one_valued_ones_left_out():
    encoded = Encoded(
        np.array([[1.0, 0, 1], [2, 0, 1], [3, 2, 1]], dtype=np.float32), np.array([[True] * 3, [True] * 3, [True] * 3])
    )
    outputs = {"lr": np.array([[99.0], [0], [0]]), "family": np.eye(3)[[0, 0, 2]], "norm": np.zeros((3, 1))}
    assert aggregate((NUMBER, NAME, LABEL), outputs, encoded) == (-1 + 1) / 2
    hidden = Encoded(encoded.values, np.array([[False, True, True]] * 3))
    assert aggregate((NUMBER, NAME, LABEL), outputs, hidden) == 1
    assert math.isnan(
        aggregate((LABEL,), {"norm": np.zeros((3, 1))}, Encoded(encoded.values[:, 2:], encoded.known[:, 2:]))
    )


def test_shape_leaked_means_balanced_accuracy():
    truth = np.array([1.0] + [0.0] * 199)
    assert is_shape_leaked(LABEL, truth[:, None], truth)
    assert not is_shape_leaked(LABEL, np.zeros((200, 1)), truth)  # right 99.5% of the time, but never on the rare label
    assert is_shape_leaked(NAME, np.eye(3)[[0, 1, 2]], np.array([0.0, 1.0, 2.0]))
    assert not is_shape_leaked(NAME, np.eye(3)[[0, 1, 1]], np.array([0.0, 1.0, 2.0]))
    assert not is_shape_leaked(NUMBER, truth[:, None], truth)
