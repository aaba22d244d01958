"""The networks whose training is recorded, and how good a weight vector of one is on images."""

import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.config import Section
from wscore.errors import ConfigError
from wscore.networks.inference import ModuleAnswer, Scores, logits, scores
from wscore.networks.layout import Layout, layout_of


class NetworkSpec(Section):
    """One recorded network but for its weights.

    Args:
        name: key of `NETWORKS`, or `module:function` of your own that makes a network of this specification.
        channels: of an image.
        size: height and width of an image.
        classes: count of classes.
    """

    name: str
    channels: Annotated[int, msgspec.Meta(ge=1)]
    size: Annotated[int, msgspec.Meta(ge=4)]
    classes: Annotated[int, msgspec.Meta(ge=2)]


def lenet5(spec: NetworkSpec) -> nn.Sequential:
    """Return LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: 61,706 weights for one channel and ten classes.

    The first convolution pads 28x28 images to the 32x32 of the paper.

    Raises:
        ConfigError: for images of another size than 28 or 32.
    """
    if spec.size not in (28, 32):
        raise ConfigError("does not fit lenet5", where="base.size", expected="28 or 32", got=spec.size)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(spec.channels, 6, 5, padding=(32 - spec.size) // 2),  # (B, 6, 28, 28)
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # (B, 6, 14, 14)
            conv2=nn.Conv2d(6, 16, 5),  # (B, 16, 10, 10)
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # (B, 16, 5, 5)
            flatten=nn.Flatten(),  # (B, 400)
            fc1=nn.Linear(400, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, spec.classes),
        )
    )


def mlp(spec: NetworkSpec) -> nn.Sequential:
    """Return a perceptron with two hidden layers of 32 units."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(spec.channels * spec.size**2, 32),
            relu1=nn.ReLU(),
            fc2=nn.Linear(32, 32),
            relu2=nn.ReLU(),
            fc3=nn.Linear(32, spec.classes),
        )
    )


def cnn_bn(spec: NetworkSpec) -> nn.Sequential:
    """Return two 3x3 convolutions of 8 and 16 channels, each with batch normalisation, ReLU and 2x2 max pooling.

    The running statistics belong to the weight vector: a snapshot without them is no network.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(spec.channels, 8, 3, padding=1, bias=False),  # (B, 8, S, S)
            norm1=nn.BatchNorm2d(8),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # (B, 8, S/2, S/2)
            conv2=nn.Conv2d(8, 16, 3, padding=1, bias=False),  # (B, 16, S/2, S/2)
            norm2=nn.BatchNorm2d(16),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # (B, 16, S/4, S/4)
            flatten=nn.Flatten(),
            fc=nn.Linear(16 * (spec.size // 4) ** 2, spec.classes),
        )
    )


def vit(spec: NetworkSpec) -> nn.Sequential:
    """Return a vision transformer (Dosovitskiy et al. 2021) of 4x4 patches, width 32, two blocks and mean pooling.

    Raises:
        ConfigError: for images whose size is no multiple of 4.
    """
    if spec.size % PATCHES:
        raise ConfigError("does not fit vit", where="base.size", expected=f"a multiple of {PATCHES}", got=spec.size)
    patch = spec.size // PATCHES
    return nn.Sequential(
        OrderedDict(
            patches=nn.Conv2d(spec.channels, VIT_WIDTH, patch, stride=patch),  # (B, H, 4, 4)
            tokens=_Tokens(),  # (B, 16, H)
            block1=_Block(VIT_WIDTH),
            block2=_Block(VIT_WIDTH),
            norm=nn.LayerNorm(VIT_WIDTH),
            pool=_Mean(),  # (B, H)
            fc=nn.Linear(VIT_WIDTH, spec.classes),
        )
    )


PATCHES, VIT_WIDTH, VIT_HEADS = 4, 32, 4


class _Tokens(nn.Module):
    """Patches in a row, each with a learned position added."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(PATCHES**2, VIT_WIDTH))

    def forward(self, maps: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch token dim"]:
        return maps.flatten(2).transpose(1, 2) + self.positions


class _Mean(nn.Module):
    """Mean over the tokens."""

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch dim"]:
        return tokens.mean(1)


class _Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm2, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, VIT_HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)  # (B, heads, T, H / heads)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.down(nn.functional.gelu(self.up(self.norm2(tokens))))


NETWORKS: dict[str, Callable[[NetworkSpec], nn.Module]] = {"lenet5": lenet5, "mlp": mlp, "cnn_bn": cnn_bn, "vit": vit}


def build_network(spec: NetworkSpec, seed: int = 0) -> nn.Module:
    """Return a network initialised from a seed; the global random state stays as it is.

    Raises:
        ConfigError: if the name is unknown or the images don't fit the network.
    """
    builder = find_builder(spec.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = builder(spec)
    if not isinstance(network, nn.Module):
        got = type(network).__name__
        raise ConfigError("makes no network", where=f"base.network: {spec.name}", expected="a torch module", got=got)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def find_builder(name: str) -> Callable[[NetworkSpec], nn.Module]:
    """Return the function that makes networks of a name, `module:function` for one of your own.

    Raises:
        ConfigError: if there is none.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    module, colon, function = name.partition(":")
    if not colon:
        expected = f"{', '.join(NETWORKS)} or module:function of your own"
        raise ConfigError("unknown network", where="base.network", expected=expected, got=name)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        fix = "name a function that can be imported from the root of the repository"
        raise ConfigError("cannot be imported", where="base.network", got=f"{name}: {error}", fix=fix) from error


def network_layout(spec: NetworkSpec) -> Layout:
    """Return where each tensor of a network lies in its flat weight vector."""
    return layout_of(build_network(spec).state_dict())


def judge(
    spec: NetworkSpec,
    vectors: Float[Tensor, "networks weights"],
    images: Float[Tensor, "images channel height width"],
    labels: Int[Tensor, " images"],
) -> Scores:
    """Return accuracy and loss of networks given as flat weight vectors, on the device of the images."""
    return scores(run(build_network(spec), network_layout(spec), vectors.to(images.device), images), labels)


def run(
    network: nn.Module,
    layout: Layout,
    vectors: Float[Tensor, "networks weights"],
    images: Float[Tensor, "images channel height width"],
) -> Float[Tensor, "networks images classes"]:
    """Return the logits of networks on images, one network after the other: fast for channels-last convolutions."""
    answer = ModuleAnswer(network.to(images.device), layout, alone=True)
    return logits(answer, vectors, images.contiguous(memory_format=torch.channels_last), chunk=1)
