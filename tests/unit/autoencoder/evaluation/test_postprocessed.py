"""Finished methods: what is stored is counted, what can't be built is refused by name."""

from pathlib import Path

import numpy as np
import pytest

from wscore.autoencoder.coding.postprocess import DecodeConfig, has_statistics, tensor_norms
from wscore.autoencoder.evaluation.controls import Group, Noise, Quantized
from wscore.autoencoder.evaluation.postprocessed import Finished, Finishing, finish, finishing_figures
from wscore.autoencoder.evaluation.size_matched_coders import Compressed
from wscore.errors import DataError
from wscore.zoo.store import Zoo


class Halved:
    """Keeps 3 floats and gives back half of every weight."""

    def restore(self, group):
        return group.weights / 2

    def floats(self, layout):  # noqa: ARG002
        return 3.0


def groups(zoo: Zoo):
    for _, layout, rows in zoo.families():
        yield Group(layout, rows, zoo.weights(rows))


def setting(zoo, digits, *, norms=False, images=0):
    return Finishing(zoo, digits, DecodeConfig(norms=norms, batch_norm_images=images, seed=0))


def test_norms_are_restored_and_counted(tiny_zoo: Path, digits) -> None:
    zoo = Zoo(tiny_zoo)
    way = Finished(Halved(), setting(zoo, digits, norms=True))
    for group in groups(zoo):
        np.testing.assert_allclose(way.restore(group), group.weights, rtol=1e-4)
        np.testing.assert_allclose(
            tensor_norms(group.layout, way.restore(group)), tensor_norms(group.layout, group.weights), rtol=1e-5
        )
        assert way.floats(group.layout) == 3 + len(group.layout.tensors)


def test_norms_of_statistics_that_are_recomputed_are_not_kept(tiny_zoo: Path, digits) -> None:
    zoo = Zoo(tiny_zoo)
    way, seen = Finished(Halved(), setting(zoo, digits, norms=True, images=20)), set()
    for group in groups(zoo):
        running = sum(tensor.kind.startswith("running") for tensor in group.layout.tensors)
        assert way.floats(group.layout) == 3 + len(group.layout.tensors) - running
        assert has_statistics(group.layout) == (running > 0)
        same = np.allclose(way.restore(group), group.weights, rtol=1e-3, atol=1e-4)
        seen.add((running > 0, same))
    assert seen == {(False, True), (True, False)}


def test_without_options_nothing_is_finished_and_nothing_reported(tiny_zoo: Path, digits) -> None:
    ways = {"ours": Halved(), "int8": Quantized(8)}
    assert finish(ways, setting(Zoo(tiny_zoo), digits)) == ways
    assert finishing_figures(DecodeConfig(norms=False, batch_norm_images=0, seed=0)) == {}


def test_controls_of_the_same_size_follow(tiny_zoo: Path, digits) -> None:
    zoo, ours = Zoo(tiny_zoo), Halved()
    ways = {
        "ours": ours,
        "noise": Noise(ours, seed=1),
        "quantized": Compressed("quantized", ours),
        "int8": Quantized(8),
    }
    found = finish(ways, setting(zoo, digits, norms=True))
    layout = next(groups(zoo)).layout
    assert found["int8"] is ways["int8"]
    assert found["quantized"].floats(layout) == found["ours"].floats(layout) == 3 + len(layout.tensors)
    group = next(groups(zoo))
    np.testing.assert_allclose(found["noise"].restore(group), group.weights, atol=1e-4)  # as near as the finished ones


@pytest.mark.parametrize("lost", ["no architecture", "other images"])
def test_networks_that_can_not_be_built_are_refused_by_name(tiny_zoo: Path, digits, lost: str) -> None:
    zoo = Zoo(tiny_zoo)
    if lost == "no architecture":
        zoo.table["architecture"] = ""
    else:
        digits = digits._replace(x_train=digits.x_train.repeat(1, 1, 2, 2))
    way = Finished(Halved(), setting(zoo, digits, images=10))
    for group in groups(zoo):
        if not has_statistics(group.layout):
            way.restore(group)
            continue
        name = zoo.table["model_id"].iloc[group.rows[0]]
        with pytest.raises(DataError, match=rf"{name}.*running statistics.*decode\.batch_norm_images to 0"):
            way.restore(group)
