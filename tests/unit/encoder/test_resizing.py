"""Networks are taken to other widths: wider ones keep their outputs."""

import msgspec
import pytest
import torch

from wscore.encoder.resizing import closest, resizing
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import Layout, layout_of

FAMILIES = {
    "mlp": ((6, 5), (6, 5), (9, 13)),
    "cnn": ((4, 6), (4, 6), (7, 12)),
    "cnn_bn": ((4, 6), (4, 6), (7, 12)),
    "resnet": ((4, 6), (4, 6), (7, 12)),
    "depthwise_cnn": ((4, 6), (4, 6), (8, 12)),
}


def architecture(family: str, widths: tuple[int, ...], size: int = 8) -> Architecture:
    pooling = "none" if family == "mlp" else "max"
    return Architecture(
        family=family, input=(1, size, size), classes=10, widths=widths, activation="gelu", pooling=pooling
    )


def network(family: str, widths: tuple[int, ...]) -> tuple[torch.nn.Module, Layout]:
    torch.manual_seed(0)
    module = build(architecture(family, widths)).eval()
    state = module.state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var", "bias")):
            tensor.uniform_(0.5, 1.5)
    return module, layout_of(state)


@pytest.mark.parametrize("family", FAMILIES)
def test_wider_networks_have_the_same_outputs(family: str) -> None:
    known, same, wide = FAMILIES[family]
    module, layout = network(family, known)
    vector, images = torch.from_numpy(layout.flatten(module.state_dict())), torch.rand(5, 1, 8, 8)
    for widths in (same, wide):
        other, asked = network(family, widths)
        index, factor, constant = resizing(asked, layout)
        other.load_state_dict(asked.unflatten(vector[index] * factor + constant))
        torch.testing.assert_close(other(images), module(images), atol=1e-5, rtol=1e-4)


def test_narrower_and_deeper_networks_have_every_weight() -> None:
    _, known = network("mlp", (6, 5))
    for widths in ((3,), (5, 4, 3)):
        _, asked = network("mlp", widths)
        index, factor, constant = resizing(asked, known)
        assert len(index) == asked.size
        assert index.max() < known.size
        assert (factor > 0).all()
        assert (constant == 0).all()


def test_a_tensor_without_a_counterpart_is_neutral() -> None:
    asked, known = layout_of(torch.nn.BatchNorm1d(3).state_dict()), network("mlp", (6,))[1]
    weights = resizing(asked, known).constant
    assert weights.tolist() == [1.0] * 3 + [0.0] * 6 + [1.0] * 3
    assert torch.equal(resizing(asked, None).constant, weights)


def test_the_closest_layout_has_the_same_layers_and_loses_no_units() -> None:
    known = [network(family, widths)[1] for family, widths in (("cnn", (8, 8)), ("mlp", (12,)), ("mlp", (30,)))]
    assert closest(network("mlp", (18,))[1], known) == 1
    assert closest(network("cnn", (7, 9))[1], known) == 0
    renamed = Layout(tensors=tuple(msgspec.structs.replace(spec, name=f"x.{spec.name}") for spec in known[2].tensors))
    assert closest(renamed, known) == 2
