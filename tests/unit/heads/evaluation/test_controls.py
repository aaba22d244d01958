from typing import Any

import numpy as np
import pytest

from wscore.heads.evaluation.controls import (
    CONTROLS,
    Case,
    ControlInputs,
    linear_probe,
    shape_numbers,
    shapes,
    shuffled,
    training_mean,
    untrained_latents,
)
from wscore.heads.targets import Binary, Continuous, Discrete, Target
from wscore.networks.layout import Layout, TensorSpec

NUMBER = Continuous(name="y", scale="linear", floor=None, mean=0.0, std=1.0, weight=1.0)
LABEL = Binary(name="y", column="y", value=None, positive_weight=1.0, weight=1.0)
NAME = Discrete(name="y", vocabulary=("a", "b", "c"), class_weights=(1.0, 1.0, 1.0), weight=1.0)


def rows(count: int, seed: int = 0) -> ControlInputs:
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(count, 4)).astype(np.float32)
    shape = rng.integers(0, 2, count)
    statistics = np.column_stack([latents[:, 0], rng.normal(size=count), shape])
    return ControlInputs(
        latents,
        statistics,
        latents,
        statistics,
        statistics[:, :2],
        shape,
        latents[:, :2],
        latents[:, 2:],
        ("a", "b", "c"),
    )


def case(
    target: Target,
    values: Any,
    *,
    train: ControlInputs,
    test: ControlInputs,
    validation: ControlInputs | None = None,
    truth: Any = (),
) -> Case:
    return Case(
        target=target,
        train=train,
        train_values=np.asarray(values, dtype=np.float32),
        validation=validation if validation is not None else rows(0),
        validation_values=np.asarray(truth, dtype=np.float32),
        test=test,
        iterations=5,
        seed=0,
    )


def test_mean_of_numbers_labels_and_names():
    given = {"train": rows(4), "test": rows(2)}
    assert training_mean(case(NUMBER, [1, 2, 3, 6], **given)).tolist() == [[3], [3]]
    assert training_mean(case(LABEL, [1, 0, 0, 0], **given)).tolist() == [[0.25], [0.25]]
    assert training_mean(case(NAME, [0, 2, 2, 2], **given)).tolist() == [[0.25, 0, 0.75]] * 2


def test_shapes_take_the_mean_of_equal_shapes_and_of_all_for_new_ones():
    train = rows(4)._replace(shapes=np.array([0, 0, 1, 1]))
    test = rows(3)._replace(shapes=np.array([1, 0, 7]))
    assert shapes(case(NUMBER, [1, 3, 5, 9], train=train, test=test))[:, 0].tolist() == [7, 2, 4.5]


def test_linear_probe_equals_ridge_by_the_normal_equations():
    train, test = rows(30), rows(5, seed=1)
    y = train.latents @ np.array([1.0, -2.0, 0.5, 0.0]) + 3 + np.random.default_rng(2).normal(size=30)
    found = linear_probe(case(NUMBER, y, train=train, test=test))[:, 0]  # no validation rows: strength 1
    y = y.astype(np.float32).astype(float)
    centre, spread = train.latents.mean(axis=0), train.latents.std(axis=0)
    x = (train.latents.astype(float) - centre) / spread
    weights = np.linalg.solve(x.T @ x + 30 * np.eye(4), x.T @ (y - y.mean()))
    assert found == pytest.approx((test.latents - centre) / spread @ weights + y.mean(), abs=1e-5)


def test_linear_probe_chooses_its_strength_on_the_validation_rows():
    train, validation, test = rows(30), rows(30, seed=1), rows(200, seed=2)
    slope = np.array([1.0, -2.0, 0.5, 0.0])
    exact = case(
        NUMBER, train.latents @ slope, train=train, test=test, validation=validation, truth=validation.latents @ slope
    )
    assert linear_probe(exact)[:, 0] == pytest.approx(test.latents @ slope, abs=0.02)
    noise = np.random.default_rng(3).normal(size=30)
    useless = case(NUMBER, noise, train=train, test=test, validation=validation, truth=np.full(30, noise.mean()))
    assert linear_probe(useless).std() < 1e-3


def test_linear_probe_survives_constant_and_duplicate_dimensions():
    train = rows(20)
    latents = np.column_stack([train.latents, train.latents[:, :1], np.full(20, 7, np.float32)])
    train = train._replace(latents=latents)
    found = linear_probe(
        case(LABEL, train.latents[:, 0] > 0, train=train, test=train, validation=train.take(np.arange(0)))
    )
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("target", [NUMBER, LABEL, NAME], ids=lambda target: type(target).__name__)
def test_every_control_returns_what_a_head_returns(name: str, target: Target):
    train, validation, test = rows(40), rows(10, seed=1), rows(7, seed=2)
    values = [np.digitize(part.latents[:, 0], [-0.3, 0.3]) for part in (train, validation)]
    values = [v > 1 for v in values] if target is LABEL else values
    given = case(target, values[0], train=train, test=test, validation=validation, truth=values[1])
    found = CONTROLS[name](given)
    assert found.shape == (7, target.width)
    assert np.isfinite(found).all()
    if target is not NUMBER:
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_know_nothing_of_other_test_rows(name: str):
    train, test = rows(40), rows(7, seed=2)
    given = case(NUMBER, train.latents[:, 0], train=train, test=test)
    alone = CONTROLS[name](given._replace(test=test.take(np.array([3]))))
    assert alone == pytest.approx(CONTROLS[name](given)[3:4])


def test_shape_numbers_ignore_names():
    def layout(name: str, shape: tuple[int, ...], kind: Any) -> Layout:
        return Layout(tensors=(TensorSpec(name=name, shape=shape, kind=kind, layer=0),))

    layouts = [layout("a", (2, 3), "linear"), layout("b", (2, 3), "linear"), layout("a", (3, 2), "linear")]
    assert shape_numbers([*layouts, layout("a", (2, 3), "other")]).tolist() == [0, 0, 1, 2]


def test_shuffled_labels_teach_nothing_that_the_labels_do():
    train, test = rows(300), rows(100, seed=1)
    given = case(NUMBER, train.latents[:, 0], train=train, test=test)
    truth = test.latents[:, 0]
    assert np.corrcoef(linear_probe(given)[:, 0], truth)[0, 1] > 0.99
    assert abs(np.corrcoef(shuffled(given)[:, 0], truth)[0, 1]) < 0.9


def test_probes_that_no_network_was_run_on_predict_the_mean():
    train, test = (rows(count)._replace(probes=np.full((count, 3), np.nan)) for count in (6, 2))
    given = case(NUMBER, [1, 2, 3, 4, 5, 6], train=train, test=test)
    np.testing.assert_array_equal(CONTROLS["probes"](given), training_mean(given))


def test_an_untrained_encoder_is_fitted_to_no_network_but_those_of_the_training():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 5)).astype(np.float32)
    features[::3, 0], features[:, 1] = np.nan, 7.0
    train = np.arange(20) < 10
    latents = untrained_latents(features, train, latent_dim=3, seed=0)
    assert latents.shape == (20, 3)
    assert np.isfinite(latents).all()
    moved = np.where(train[:, None], features, 100 * features)
    np.testing.assert_allclose(untrained_latents(moved, train, latent_dim=3, seed=0)[train], latents[train], atol=1e-6)
    assert not np.allclose(untrained_latents(features, train, latent_dim=3, seed=1), latents)
