"""Decoded networks finished: norms by hand, running statistics as a loop over single networks gives them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wscore.autoencoder.coding.postprocess import recompute_statistics, restore_norms, tensor_norms
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import Layout, TensorSpec, layout_of
from wscore.networks.stacked import skeleton

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="head.weight", shape=(1, 2), kind="linear", layer=0),
        TensorSpec(name="head.bias", shape=(1,), kind="bias", layer=0),
    )
)


def test_norms_by_hand():
    norms = tensor_norms(LAYOUT, np.array([[3.0, 4.0, -2.0]], np.float32))
    assert norms.tolist() == [[5.0, 2.0]]
    restored = restore_norms(LAYOUT, np.array([[0.6, -0.8, 8.0]], np.float32), norms)
    np.testing.assert_allclose(restored, [[3.0, -4.0, 2.0]], rtol=1e-6)


def test_a_tensor_without_a_direction_stays_as_it_is():
    norms = np.array([[5.0, 2.0]], np.float32)
    restored = restore_norms(LAYOUT, np.array([[0.0, 0.0, np.nan]], np.float32), norms)
    np.testing.assert_array_equal(restored, [[0.0, 0.0, np.nan]])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), networks=st.integers(1, 4))
def test_restored_tensors_have_the_norm_they_had_and_the_direction_they_got(seed, networks):
    rng = np.random.default_rng(seed)
    original, decoded = (rng.standard_normal((networks, 3)).astype(np.float32) for _ in range(2))
    restored = restore_norms(LAYOUT, decoded, tensor_norms(LAYOUT, original))
    np.testing.assert_allclose(tensor_norms(LAYOUT, restored), tensor_norms(LAYOUT, original), rtol=1e-5)
    for part in LAYOUT.slices().values():
        along = (restored[:, part] * decoded[:, part]).sum(1)
        np.testing.assert_allclose(
            along, np.linalg.norm(restored[:, part], axis=1) * np.linalg.norm(decoded[:, part], axis=1), rtol=1e-4
        )
    again = restore_norms(LAYOUT, restored, tensor_norms(LAYOUT, original))
    np.testing.assert_allclose(again, restored, rtol=1e-5)


@pytest.mark.parametrize("family", ["cnn_bn", "resnet"])
def test_statistics_are_those_that_torch_computes_network_by_network(family, digits):
    architecture = Architecture(
        family=family, input=(1, 8, 8), classes=10, widths=(4, 5), activation="relu", pooling="max"
    )
    networks = [build(architecture) for _ in range(10)]  # more than go together
    layout = layout_of(networks[0].state_dict())
    vectors = np.stack([layout.flatten(network.state_dict()) for network in networks])
    images = digits.x_train[:50]
    found = recompute_statistics(architecture, layout, vectors, images)
    for network, vector, before in zip(networks, found, vectors, strict=True):
        torch.optim.swa_utils.update_bn([images], network)
        np.testing.assert_allclose(vector, layout.flatten(network.state_dict()), rtol=1e-3, atol=1e-5)
        statistics = np.concatenate([np.full(t.size, t.kind.startswith("running")) for t in layout.tensors])
        assert np.array_equal(vector[~statistics], before[~statistics])
        assert not np.allclose(vector[statistics], before[statistics])
    again = recompute_statistics(architecture, layout, found, images)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-6)  # what was there before has no say
    assert not skeleton(architecture).training


def test_networks_without_normalisation_stay_as_they_are(digits):
    architecture = Architecture(
        family="mlp", input=(1, 8, 8), classes=10, widths=(5,), activation="relu", pooling="none"
    )
    layout = layout_of(build(architecture).state_dict())
    vectors = np.ones((2, layout.size), np.float32)
    assert recompute_statistics(architecture, layout, vectors, digits.x_train[:5]) is vectors
