import msgspec
import pytest
import torch
from torch import nn

from wscore.errors import DataError
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import layout_of


def state():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).state_dict()


def test_kinds_and_layers_are_told_from_names_and_shapes():
    layout = layout_of(state())
    assert [(spec.name, spec.kind, spec.layer) for spec in layout.tensors] == [
        ("0.weight", "conv", 0),
        ("0.bias", "bias", 0),
        ("1.weight", "norm_weight", 1),
        ("1.bias", "norm_bias", 1),
        ("1.running_mean", "running_mean", 1),
        ("1.running_var", "running_var", 1),
        ("3.weight", "linear", 2),
        ("3.bias", "bias", 2),
    ]
    assert layout.counters == {"1.num_batches_tracked": ()}
    assert layout.offsets[:3] == (0, 54, 57)


def test_counters_come_back_as_zeros():
    layout = layout_of(state())
    back = layout.unflatten(torch.zeros(2, layout.size))
    assert back["1.num_batches_tracked"].dtype == torch.long
    assert back["1.num_batches_tracked"].shape == (2,)


def test_half_precision_is_kept_exactly():
    half = {name: value.half() if value.is_floating_point() else value for name, value in state().items()}
    layout = layout_of(half)
    back = layout.unflatten(torch.from_numpy(layout.flatten(half)))
    assert all(torch.equal(back[name].half(), value) for name, value in half.items() if value.is_floating_point())


def test_what_does_not_fit_is_named():
    layout = layout_of(state())
    with pytest.raises(DataError, match=r"3\.bias: tensor is missing"):
        layout.flatten({name: value for name, value in state().items() if name != "3.bias"})
    with pytest.raises(DataError, match=r"3\.bias: wrong shape; expected \(4,\); got \(5,\)"):
        layout.flatten({**state(), "3.bias": torch.zeros(5)})
    with pytest.raises(DataError, match="does not match the layout"):
        layout.unflatten(torch.zeros(layout.size + 1))


def test_the_identity_names_the_layout_for_ever():
    """Published zoos and caches refer to layouts by it."""
    known = Architecture(family="cnn_bn", input=(1, 8, 8), classes=10, widths=(8, 8), activation="relu", pooling="max")
    layout = layout_of(build(known).state_dict())
    assert layout.identity == "2d56bdea4df9bc9e"
    renamed = msgspec.structs.replace(layout.tensors[0], name="other")
    assert msgspec.structs.replace(layout, tensors=(renamed, *layout.tensors[1:])).identity != layout.identity
