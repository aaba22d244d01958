"""Inputs of the encoders that ours is compared with."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.weight_encoders import BATCH, Rows, layers_of, of_one_depth
from wscore.networks.architectures import build, parse
from wscore.zoo.store import Zoo


def test_batches_hold_every_network_once_and_one_layout_each() -> None:
    keys = np.array(["a", "b", "a", "c"] * 40)
    rows = Rows(keys, np.zeros(160), np.arange(160), np.arange(0))
    batches = list(rows.batches(rows.train[:150], np.random.default_rng(0)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(150))
    assert all(len(set(keys[batch])) == 1 and len(batch) <= BATCH for batch in batches)


def test_networks_of_other_depths_and_families_are_left_out(make_tiny_zoo, tmp_path: Path) -> None:
    widths = ({"mlp": (5,), "cnn": (3, 4)}, {"mlp": (6,), "cnn": (3, 4)}, {"mlp": (4, 4), "cnn": (3, 4)})
    zoo = Zoo(make_tiny_zoo(tmp_path / "zoo", families=("mlp", "cnn"), widths=widths))
    shapes = [parse(text).widths for text in zoo.table["architecture"][of_one_depth(zoo, "mlp")]]
    assert sorted(set(shapes)) == [(5,), (6,)]


def test_the_head_of_a_convolutional_network_reads_a_kernel_of_each_channel(tiny_zoo: Path) -> None:
    zoo = Zoo(tiny_zoo)
    row = int(np.flatnonzero(zoo.table["family"] == "cnn")[0])
    pairs = layers_of(zoo.layout(row), zoo.weights(np.array([row])))
    (first, _), (second, _), (head, _) = pairs
    order = torch.arange(second.shape[2]).roll(1)
    network = build(parse(zoo.table["architecture"][row])).eval()
    network.load_state_dict(zoo[row])
    x = torch.rand(5, 1, 8, 8)
    expected = network(x)
    reordered = [first, second[:, :, order], head[:, :, :, order]]
    names = [name for name in network.state_dict() if name.endswith("weight")]
    biases = [name for name in network.state_dict() if name.endswith("bias")]
    shapes = [network.state_dict()[name].shape for name in names]
    weights = {name: weight.reshape(shape) for name, weight, shape in zip(names, reordered, shapes, strict=True)}
    values = [pairs[0][1], pairs[1][1][:, :, order], pairs[2][1]]
    network.load_state_dict(weights | {name: value.flatten() for name, value in zip(biases, values, strict=True)})
    torch.testing.assert_close(network(x), expected)
