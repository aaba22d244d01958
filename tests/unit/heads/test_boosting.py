import numpy as np
import pytest
import torch

from wscore.errors import DataError
from wscore.heads.boosting import Examples, Known, boosted, class_weights, fit_forest, split_gains
from wscore.heads.ensemble import to_predictions
from wscore.heads.targets import Binary, Continuous, Discrete, Encoded
from wscore.heads.train import target_kind

NUMBER = Continuous(name="n", scale="linear", floor=None, mean=0.0, std=1.0, weight=1.0)
LABEL = Binary(name="b", column="b", value=None, positive_weight=3.0, weight=1.0)
PAIR = Discrete(name="p", vocabulary=("a", "b"), class_weights=(0.5, 2.0), weight=1.0)
THREE = Discrete(name="t", vocabulary=("a", "b", "c"), class_weights=(1.0, 2.0, 0.5), weight=1.0)
TARGETS = (NUMBER, LABEL, PAIR, THREE)


def examples(rows: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[:, 2] = 1.0  # never varies
    y = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1])
    values = np.column_stack([y, y > 0, y > 0.5, np.digitize(y, [-0.5, 0.5])]).astype(np.float32)
    known = np.ones(values.shape, bool)
    known[::5, 0] = False
    return Examples(x, Encoded(values, known))


def test_a_forest_predicts_as_the_model_that_it_was_made_of():
    train, validation, test = examples(300), examples(80, 1), examples(50, 2)
    forest = fit_forest(TARGETS, train, validation, iterations=12, seed=0)
    found = to_predictions(
        forest(torch.from_numpy(test.features)), {target.name: target_kind(target) for target in TARGETS}
    )
    kept = [0, 1, 3]
    for number, target in enumerate(TARGETS):
        some = [
            Known(
                part.features[part.encoded.known[:, number]][:, kept],
                part.encoded.values[part.encoded.known[:, number], number],
            )
            for part in (train, validation)
        ]
        model = boosted(target, *some, iterations=12, seed=0)
        if isinstance(target, Continuous):
            expected = model.predict(test.features[:, kept])[:, None]
        else:
            share = model.predict_proba(test.features[:, kept]) * class_weights(target)  # pyright: ignore
            share /= share.sum(axis=1, keepdims=True)
            expected = share[:, 1:] if isinstance(target, Binary) else share
        assert found[target.name].numpy() == pytest.approx(expected, abs=1e-5), target.name


def test_gains_name_the_columns_that_tell():
    train = examples(300)
    known = train.encoded.known[:, 0]
    part = Known(train.features[known][:, [0, 1, 3]], train.encoded.values[known, 0])
    gains = split_gains(boosted(NUMBER, part, part, iterations=10, seed=0), np.array([0, 1, 3]))
    assert sum(gains.values()) == pytest.approx(1)
    assert gains[0] + gains[1] > 0.9


def test_features_that_never_vary_are_refused():
    train = examples(60)
    with pytest.raises(DataError, match="no feature varies"):
        fit_forest(TARGETS, train._replace(features=np.ones((60, 2), np.float32)), train, iterations=1, seed=0)
