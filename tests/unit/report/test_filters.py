"""Images of first layers."""

import numpy as np

from wscore.report import filters
from wscore.report.filters import first_layer_images


def test_filters_stand_side_by_side_with_a_gap():
    layer = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    (image,) = first_layer_images([layer])
    assert np.array_equal(image, [[0, 1, np.nan, 12, 13], [2, 3, np.nan, 14, 15]], equal_nan=True)


def test_inputs_of_a_linear_layer_fill_a_square_or_a_row():
    square, row = first_layer_images([np.ones((1, 9)), np.ones((1, 5))])
    assert square.shape == (3, 3)
    assert row.shape == (1, 5)


def test_layers_of_other_axes_have_no_image():
    assert first_layer_images([None, np.ones(4), np.ones((2, 3, 4)), np.ones((0, 4))]) == [None] * 4


def test_many_or_large_filters_are_cut_to_the_size_of_the_sheet(monkeypatch):
    monkeypatch.setattr(filters, "SHEET", 2 * 40)
    images = first_layer_images([np.ones((64, 1, 3, 3)), np.ones((8, 784))])
    assert all(image.size <= 40 for image in images)
    assert first_layer_images([np.ones((2, 1000))])[0].shape[1] <= filters.WIDEST
