"""Controls of equal bytes fit their budget, use it, and keep what they say they keep."""

import numpy as np
import pytest

from wscore.autoencoder.evaluation.controls import LayoutGroup
from wscore.autoencoder.evaluation.size_matched_coders import CODERS, Compressed
from wscore.networks.layout import Layout, TensorSpec

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a.weight", shape=(20, 30), kind="linear", layer=0),
        TensorSpec(name="a.bias", shape=(20,), kind="bias", layer=0),
    )
)
WEIGHTS = np.random.default_rng(0).standard_normal((3, LAYOUT.size)).astype(np.float32)
GROUP = LayoutGroup(LAYOUT, np.arange(3), WEIGHTS)


class Budget:
    """A method that stores a fixed count of floats."""

    def __init__(self, floats: float) -> None:
        self.size = floats

    def restore(self, group: LayoutGroup) -> np.ndarray:
        return group.weights

    def floats(self, layout: Layout) -> float:  # noqa: ARG002
        return self.size


@pytest.mark.parametrize("coding", sorted(CODERS))
@pytest.mark.parametrize("floats", [40.0, 80.0])
def test_the_budget_is_kept_and_used(coding: str, floats: float) -> None:
    method = Compressed(coding, Budget(floats))
    sizes = [method.squeeze(LAYOUT, vector, 4 * floats)[1] for vector in WEIGHTS]
    assert method.floats(LAYOUT) == floats
    assert all(0.85 * 4 * floats < size <= 4 * floats for size in sizes)


@pytest.mark.parametrize("coding", sorted(CODERS))
def test_more_bytes_bring_networks_closer_until_nothing_is_lost_but_eight_bits(coding: str) -> None:
    errors = [np.abs(Compressed(coding, Budget(f)).restore(GROUP) - WEIGHTS).mean() for f in (15.0, 40.0, 80.0, 400.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < (0.15 if coding == "pruned_int4" else 0.01)


def test_a_budget_too_small_for_anything_gives_zeros() -> None:
    assert not Compressed("quantized", Budget(2.0)).restore(GROUP).any()


def test_pruning_keeps_the_largest_weights_and_all_biases() -> None:
    restored = Compressed("pruned_int8", Budget(40.0)).restore(GROUP)
    for before, after in zip(WEIGHTS, restored, strict=True):
        kept = after[:600] != 0
        assert 0 < kept.sum() < 300
        assert np.abs(before[:600][kept]).min() >= np.abs(before[:600][~kept]).max() - 0.02
        assert np.allclose(after[600:], before[600:], atol=0.02)


def test_quantised_weights_are_multiples_of_one_step() -> None:
    (restored,) = Compressed("quantized", Budget(30.0)).restore(LayoutGroup(LAYOUT, np.arange(1), WEIGHTS[:1]))
    values = np.unique(np.abs(restored[:600]))
    assert np.allclose(values / values[1], np.rint(values / values[1]), atol=1e-3)
