import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from wscore.autoencoder.evaluation.fidelity import (
    SMALLEST_VARIANCE,
    compare,
    intervals,
    rank_correlation,
    repair,
    summarise,
)
from wscore.networks.layout import layout_of

LOGITS = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]]])  # answers 0 1 0 1
LABELS = torch.tensor([0, 1, 1, 1])
NORM = layout_of({f"bn.{name}": torch.zeros(2) for name in ("weight", "bias", "running_mean", "running_var")})


def table(original, accuracy, **columns):
    defaults = {"agreement": 1.0, "kl": 0.0, "non_finite": 0.0}
    return pd.DataFrame({"accuracy_original": original, "accuracy": accuracy} | defaults | columns)


def test_perfect_reconstruction():
    found = compare(LOGITS, LOGITS, LABELS)
    assert found.agreement == pytest.approx(1)
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.accuracy == pytest.approx(0.75)
    assert found.accuracy_original == pytest.approx(0.75)
    assert found.non_finite == pytest.approx(0)


def test_values_by_hand():
    flipped = LOGITS.clone()
    flipped[0, 0] = torch.tensor([0.0, 2.0])
    found = compare(LOGITS, flipped, LABELS)
    assert found.agreement == pytest.approx(0.75)
    assert found.accuracy == pytest.approx(0.5)
    p = 1 / (1 + np.exp(-2.0))
    assert found.kl == pytest.approx((p * np.log(p / (1 - p)) + (1 - p) * np.log((1 - p) / p)) / 4)


def test_divergence_is_from_the_original_to_the_rebuilt():
    sure, unsure = torch.tensor([[[9.0, 0.0]]]), torch.zeros(1, 1, 2)
    labels = torch.tensor([0])
    assert compare(sure, unsure, labels).kl[0] == pytest.approx(np.log(2), abs=0.01)
    assert compare(unsure, sure, labels).kl[0] > 3


def test_the_mean_shift_of_logits_changes_nothing():
    found = compare(LOGITS, LOGITS + 7, LABELS)
    assert found.agreement == pytest.approx(1)
    assert found.kl == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_logits_count_as_wrong_and_as_chance(value):
    broken = LOGITS.clone()
    broken[0, :2, 0] = value  # label 0 would be argmax of nan or inf
    found = compare(LOGITS, broken, LABELS)
    assert found.non_finite == pytest.approx(0.5)
    assert found.agreement == pytest.approx(0.5)
    assert found.accuracy == pytest.approx(0.25)
    assert np.isfinite(found.kl).all()
    assert found.kl[0] > 0


def test_broken_originals_agree_with_nothing():
    broken = torch.full_like(LOGITS, float("nan"))
    found = compare(broken, broken, LABELS)
    assert found.agreement == pytest.approx(0)
    assert found.accuracy_original == pytest.approx(0)


def test_huge_logits_do_not_overflow():
    huge = torch.tensor([[[3e38, -3e38]]])
    assert np.isfinite(compare(huge, -huge, torch.tensor([0])).kl).all()


def test_networks_are_judged_one_by_one():
    both = torch.cat([LOGITS, -LOGITS])
    found = compare(torch.cat([LOGITS, LOGITS]), both, LABELS)
    assert found.agreement.tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_equals_scipy_with_ties(seed):
    a, b = np.random.default_rng(seed).integers(0, 5, size=(2, 40)).astype(float)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_a_constant_ranks_nothing():
    assert rank_correlation(np.arange(4.0), np.ones(4)) == 0


def test_summary_by_hand():
    rows = table(
        [0.9, 0.5, 0.1], [0.8, 0.7, 0.1], agreement=[1.0, 0.5, 0.0], kl=[0.0, 1.0, 5.0], non_finite=[0, 0, 0.3]
    )
    found = summarise(rows)
    assert found == {
        "accuracy_original": pytest.approx(0.5),
        "accuracy": pytest.approx(1.6 / 3),
        "accuracy_change": pytest.approx(0.1),
        "agreement": pytest.approx(0.5),
        "kl": pytest.approx(2),
        "kl_median": pytest.approx(1),
        "rank_correlation": pytest.approx(1),
        "non_finite_share": pytest.approx(0.1),
    }


def test_changes_up_and_down_do_not_cancel():
    found = summarise(table([0.5, 0.5], [0.6, 0.4]))
    assert found["accuracy"] == pytest.approx(found["accuracy_original"])
    assert found["accuracy_change"] == pytest.approx(0.1)


def test_intervals_hold_the_point_estimate():
    random = np.random.default_rng(0)
    original = random.uniform(size=60)
    rows = table(original, original + random.normal(scale=0.1, size=60), agreement=random.uniform(size=60))
    rows["run_id"] = np.repeat([f"r{number}" for number in range(15)], 4)
    point, found = summarise(rows), intervals(rows, samples=200, seed=0)
    assert set(found) == {
        f"{name}_{end}" for name in ("agreement", "accuracy_change", "rank_correlation") for end in ("low", "high")
    }
    for name in ("agreement", "accuracy_change", "rank_correlation"):
        assert found[f"{name}_low"] < point[name] < found[f"{name}_high"]


def test_possible_weights_are_left_alone():
    vectors = np.array([[1, -1, 0, 2, -3, 4, 0, 1e-7]], np.float32)
    found = repair(NORM, vectors)
    assert found.weights is vectors
    assert (found.variances, found.others) == (0, 0)


def test_impossible_weights_are_replaced_and_counted():
    vectors = np.array([[1, np.nan, 0, 2, np.inf, 4, -0.5, np.nan], [1, -1, 0, 2, -3, 4, 0.5, 1]], np.float32)
    found = repair(NORM, vectors)
    assert (found.variances, found.others) == (2, 2)
    assert found.weights[0].tolist() == [
        1,
        0,
        0,
        2,
        0,
        4,
        pytest.approx(SMALLEST_VARIANCE),
        pytest.approx(SMALLEST_VARIANCE),
    ]
    assert found.weights[1].tolist() == vectors[1].tolist()
    assert found.weights.dtype == np.float32
