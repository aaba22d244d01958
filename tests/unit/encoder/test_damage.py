"""Damage does what it says, and only that."""

import numpy as np
import pytest
import torch
from torch import nn

from wscore.encoder.damage import DAMAGE, damaged
from wscore.networks.layout import layout_of

NETWORK = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
LAYOUT = layout_of(NETWORK.state_dict())
VECTORS = np.random.default_rng(0).normal(size=(200, LAYOUT.size)).astype(np.float32)
VECTORS[:, LAYOUT.slices()["1.running_var"]] = np.abs(VECTORS[:, LAYOUT.slices()["1.running_var"]])
BAD = damaged(LAYOUT, VECTORS, np.random.default_rng(0))


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_network_is_changed_and_variances_stay_positive(kind: str) -> None:
    bad = BAD[kind]
    assert bad.shape == VECTORS.shape
    assert bad.dtype == np.float32
    assert (bad != VECTORS).any(axis=1).all()
    assert (bad[:, LAYOUT.slices()["1.running_var"]] >= 0).all()
    np.testing.assert_array_equal(damaged(LAYOUT, VECTORS, np.random.default_rng(0))[kind], bad)


def test_shuffling_keeps_the_entries_and_noise_their_spread() -> None:
    span = LAYOUT.slices()["3.weight"]
    np.testing.assert_array_equal(np.sort(BAD["shuffled"][:, span]), np.sort(VECTORS[:, span]))
    ratio = BAD["noise"][:, span].std(axis=1) / VECTORS[:, span].std(axis=1)
    assert ratio.mean() == pytest.approx(1, abs=0.05)


def test_one_matrix_is_reset_or_swapped() -> None:
    matrices = [LAYOUT.slices()[name] for name in ("0.weight", "3.weight")]
    for kind in ("reset_layer", "swapped_layer"):
        changed = np.stack([(BAD[kind] != VECTORS)[:, span].all(axis=1) for span in matrices])
        np.testing.assert_array_equal(changed.sum(axis=0), 1)
    swapped = np.where(BAD["swapped_layer"] != VECTORS, np.roll(VECTORS, 100, axis=0), VECTORS)
    np.testing.assert_array_equal(BAD["swapped_layer"], swapped)  # never of a neighbour: neighbours are of one run
    assert (np.abs(BAD["untrained"][:, LAYOUT.slices()["3.weight"]]) <= 1 / 4).all()
    torch.testing.assert_close(
        torch.from_numpy(BAD["untrained"][:, LAYOUT.slices()["1.weight"]]), torch.ones(200, 4), atol=0, rtol=0
    )


def test_scaling_is_by_one_factor_of_at_least_two_and_a_half() -> None:
    factor = BAD["rescaled"] / VECTORS
    np.testing.assert_allclose(factor, factor[:, :1].repeat(LAYOUT.size, 1), rtol=1e-4)
    assert (np.abs(np.log10(factor[:, 0])) >= 0.39).all()
