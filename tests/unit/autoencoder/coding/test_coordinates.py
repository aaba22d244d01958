"""Weights as coordinates, and back."""

import pytest
import torch

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import Layout, layout_of


def layout_in_order(*, reverse: bool) -> Layout:
    kind = Architecture(family="cnn_bn", input=(1, 8, 8), classes=5, widths=(4, 6), activation="relu", pooling="max")
    state = build(kind).state_dict()
    return layout_of(dict(reversed(state.items())) if reverse else state)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_quick_inverse_is_the_inverse(*, reverse: bool) -> None:
    code = WeightCodec().coordinates(layout_in_order(reverse=reverse))
    y = torch.randn(3, code.size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(code.quick_inverse(y), code.inverse(y), atol=1e-5)
