import numpy as np
import pytest

from wscore.evaluation.bootstrap import bounds
from wscore.heads.evaluation import bootstrap_metrics as resampled
from wscore.heads.evaluation.metrics import binary_scores, class_scores, regression_scores

rng = np.random.default_rng(0)
WEIGHTS = rng.integers(0, 4, size=(3, 60)).astype(float)


def repeated(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.repeat(values, weights.astype(int))


def test_every_metric_is_that_of_the_repeated_rows():
    truth = rng.random(60) < 0.4
    probability = np.round(rng.random(60), 1)  # with ties
    number, said = np.round(rng.normal(size=60), 1), np.round(rng.normal(size=60), 1)
    names, predicted = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    found = [
        resampled.binary(truth, probability, WEIGHTS),
        resampled.regression(number, said, WEIGHTS),
        resampled.classes(names, predicted, WEIGHTS),
    ]
    for sample, weights in enumerate(WEIGHTS):
        expected = [
            binary_scores(repeated(truth, weights), repeated(probability, weights)),
            regression_scores(repeated(number, weights), repeated(said, weights)),
            class_scores(repeated(names, weights), repeated(predicted, weights)),
        ]
        for one, other in zip(found, expected, strict=True):
            other.pop("n")
            assert {name: values[sample] for name, values in one.items()} == pytest.approx(other, abs=1e-9)


def test_what_is_not_defined_is_nan_and_left_out_of_the_bounds():
    ones = np.ones((2, 4))
    found = resampled.binary(np.ones(4, bool), np.linspace(0, 1, 4), ones)
    assert np.isnan(found["roc_auc"]).all()
    assert "roc_auc_low" not in bounds(found)
    assert bounds(found)["accuracy_low"] == 0.5
