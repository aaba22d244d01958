"""Specs are derived from the network, hold numerically, and unknown layers are refused by name."""

import pytest
import torch
from torch import nn

from wscore.errors import ModelError
from wscore.networks.architectures import TRAITS, Architecture, build
from wscore.symmetry.spec import Axis, PermutationSpec
from wscore.symmetry.trace import derive_spec
from wscore.symmetry.verify import verify_spec

WIDTHS = {"mlp": (9, 7), "cnn": (5, 6), "cnn_bn": (5, 6), "resnet": (5, 6, 6), "residual_mlp": (9, 7, 8),
          "depthwise_cnn": (5, 6), "vit": (6, 9)}  # fmt: skip


class VisionTransformer(nn.Module):
    """One block of self-attention over patches, as small as it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 12, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.place = nn.Parameter(torch.randn(1, 5, 12))
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(images.shape[0], -1, -1), x], 1) + self.place
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x[:, 0])


class Depthwise(nn.Sequential):
    """Depthwise and pointwise convolution, global pooling."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        )  # fmt: skip


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_family_has_a_spec_that_holds(family: str, activation: str) -> None:
    pooling = "avg" if TRAITS[family].has_conv_layers else "none"
    description = Architecture(
        family=family, input=(1, 16, 16), classes=10, widths=WIDTHS[family], activation=activation, pooling=pooling
    )
    network, images = build(description), torch.rand(6, 1, 16, 16)
    verdict = verify_spec(network, derive_spec(network, images), images)
    assert verdict.coupled < 1e-5
    assert verdict.uncoupled > 1e-4


@pytest.mark.parametrize("network", [VisionTransformer(), Depthwise()], ids=["transformer", "depthwise"])
def test_attention_and_depthwise_layers_are_followed(network: nn.Module) -> None:
    images = torch.rand(4, 1, 8, 8)
    spec = derive_spec(network, images)
    verdict = verify_spec(network, spec, images)
    assert verdict.coupled < 1e-5
    assert verdict.uncoupled > 1e-4
    assert set(spec.units.values()) == ({12, 3, 20} if isinstance(network, VisionTransformer) else {6, 8})


def test_hidden_units_of_a_perceptron_are_one_group_and_its_ends_are_fixed() -> None:
    spec = derive_spec(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)), torch.rand(2, 1, 8, 8)
    )
    free, fixed = Axis(group="g0", repeat=1, block=1), Axis(group=None, repeat=1, block=1)
    assert spec.units == {"g0": 5}
    assert spec.axes == {"1.weight": (free, fixed), "1.bias": (free,), "3.weight": (fixed, free), "3.bias": (fixed,)}


def test_a_residual_sum_ties_its_branches() -> None:
    description = Architecture(
        family="resnet", input=(1, 8, 8), classes=10, widths=(5, 6), activation="relu", pooling="max"
    )
    spec = derive_spec(build(description), torch.rand(2, 1, 8, 8))
    assert spec.axes["block1.conv2.weight"][0].group == spec.axes["block1.shortcut.weight"][0].group
    assert spec.axes["block1.conv1.weight"][0].group != spec.axes["block1.conv2.weight"][0].group


def test_a_wrong_spec_is_refused() -> None:
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)), torch.rand(4, 1, 4, 4)
    spec = derive_spec(network, images)
    broken = PermutationSpec(units=spec.units, axes={**spec.axes, "1.bias": (Axis(group=None, repeat=1, block=1),)})
    with pytest.raises(ModelError, match="changes the function"):
        verify_spec(network, broken, images)


class Unknown(nn.Module):
    """Mixes neighbouring units without a name for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.odd = nn.Linear(8, 4), nn.Bilinear(4, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.odd(self.first(x), self.first(x))


class Branching(nn.Module):
    """Its graph depends on the values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_unknown_layers_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="odd: no symmetry rule for this layer"):
        derive_spec(Unknown(), torch.rand(2, 8))
    with pytest.raises(ModelError, match="can't be traced"):
        derive_spec(Branching(), torch.rand(2, 8))
