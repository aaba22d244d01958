import numpy as np
import pytest
import torch

from wscore.autoencoder.evaluation.weight_errors import StructureErrors, kind_columns, measure, metrics
from wscore.networks.layout import layout_of

LAYOUT = layout_of({"fc.weight": torch.zeros(1, 2), "fc.bias": torch.zeros(1)})
ORIGINAL = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]], np.float32)
RESTORED = np.array([[3.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
MEAN = np.array([1.0, 2.0, 1.0])


def errors(original=ORIGINAL, restored=RESTORED, batches=1):
    found = StructureErrors(lambda layout: MEAN[: layout.size])
    for part in np.array_split(np.arange(len(original)), batches):
        found.add(LAYOUT, original[part], restored[part])
    return found


def test_every_metric_equals_its_value_by_hand():
    found = errors().overall()
    assert found["mse"] == pytest.approx((16 + 1) / 6)
    assert found["mae"] == pytest.approx((4 + 1) / 6)
    assert found["rmse"] == pytest.approx(((16 + 1) / 6) ** 0.5)
    assert found["cosine"] == pytest.approx((9 / (5 * 3) + 2 / (2 * 1)) / 2)
    assert found["relative_error"] == pytest.approx((4 / 5 + 1 / 2) / 2)
    variation = (2**2 + 2**2 + 1) + (1 + 2**2 + 1)
    assert found["r2"] == pytest.approx(1 - 17 / variation)


def test_kinds_are_judged_apart():
    found = errors().by_kind()
    assert list(found) == ["linear", "bias"]
    assert found["linear"]["mse"] == pytest.approx(16 / 4)
    assert found["linear"]["relative_error"] == pytest.approx(4 / 5)  # the second network's weights are zero
    assert found["linear"]["cosine"] == pytest.approx((9 / 15 + 1) / 2)  # zeros rebuilt as zeros
    assert found["bias"]["mse"] == pytest.approx(1 / 2)
    assert found["bias"]["r2"] == pytest.approx(1 - 1 / 2)


def test_batches_change_nothing():
    assert errors(batches=1).overall() == pytest.approx(errors(batches=2).overall())


def test_perfect_reconstruction():
    found = errors(restored=ORIGINAL).overall()
    assert found == {"mse": 0, "mae": 0, "rmse": 0, "cosine": pytest.approx(1), "relative_error": 0, "r2": 1}


def test_the_reference_itself_has_r2_zero():
    found = errors(restored=np.tile(MEAN.astype(np.float32), (2, 1))).overall()
    assert found["r2"] == pytest.approx(0)


def test_networks_of_other_layouts_are_pooled_by_weight():
    wide = layout_of({"fc.weight": torch.zeros(1, 1)})
    found = errors()
    found.add(wide, np.array([[2.0]], np.float32), np.array([[0.0]], np.float32))
    assert found.overall()["mse"] == pytest.approx((17 + 4) / 7)
    assert found.overall()["cosine"] == pytest.approx((9 / 15 + 1 + 0) / 3)


def test_a_diverged_reconstruction_is_not_hidden():
    broken = RESTORED.copy()
    broken[0, 0] = np.nan
    assert np.isnan(errors(restored=broken).overall()["mse"])


def test_nothing_measured_gives_no_number():
    assert np.isnan(metrics(measure(ORIGINAL[:0], RESTORED[:0], MEAN))["mse"])


def test_kind_columns_cover_each_weight_once():
    columns = kind_columns(LAYOUT)
    assert sorted(np.concatenate(list(columns.values())).tolist()) == list(range(LAYOUT.size))
