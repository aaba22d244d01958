"""Networks with recorded training trajectories, and the accuracy and loss of their weight vectors."""

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
from wscore.networks.architectures import Activation, Architecture, Pooling, build
from wscore.networks.inference import ModuleAnswer, Scores, logits, scores
from wscore.networks.layout import Layout, layout_of


class NetworkSpec(Section):
    """Description of a recorded network without its weights.

    Args:
        name: key of `NETWORKS`, or a custom `module:function` that builds a network from this specification.
        channels: of an image.
        size: height and width of an image.
        classes: count of classes.
    """

    name: str
    channels: Annotated[int, msgspec.Meta(ge=1)]
    size: Annotated[int, msgspec.Meta(ge=4)]
    classes: Annotated[int, msgspec.Meta(ge=2)]


Builder = Callable[[NetworkSpec], nn.Module]


class HalvingMaxPool(nn.MaxPool2d):
    """Maximum over squares of two by two pixels; without gradients in slices, 7 times as fast as torch on 6 channels."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image channel row2 column2"]:  # noqa: A002
        """Return images of half the height and width."""
        if torch.is_grad_enabled() or input.shape[-2] % 2 or input.shape[-1] % 2:
            return nn.functional.max_pool2d(input, self.kernel_size)
        rows = torch.maximum(input[..., ::2, :], input[..., 1::2, :])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


def lenet5(spec: NetworkSpec) -> nn.Sequential:
    """Return LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: 61,706 weights for one channel and ten classes.

    The first convolution pads 28x28 images to the 32x32 of the paper.

    Raises:
        ConfigError: for image sizes other than 28 or 32.
    """
    if spec.size not in (28, 32):
        raise ConfigError("does not fit lenet5", where="base.size", expected="28 or 32", got=spec.size)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(spec.channels, 6, 5, padding=(32 - spec.size) // 2),  # (B, 6, 28, 28)
            relu1=nn.ReLU(),
            pool1=HalvingMaxPool(),  # (B, 6, 14, 14)
            conv2=nn.Conv2d(6, 16, 5),  # (B, 16, 10, 10)
            relu2=nn.ReLU(),
            pool2=HalvingMaxPool(),  # (B, 16, 5, 5)
            flatten=nn.Flatten(),  # (B, 400)
            fc1=nn.Linear(400, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, spec.classes),
        )
    )


def of_zoo(family: str, *widths: int, activation: Activation = "relu", pooling: Pooling = "none") -> Builder:
    """Return a builder for networks of a zoo family with these widths."""

    def made(spec: NetworkSpec) -> nn.Module:
        shape = (spec.channels, spec.size, spec.size)
        known = Architecture(
            family=family, input=shape, classes=spec.classes, widths=widths, activation=activation, pooling=pooling
        )
        return build(known)

    return made


NETWORKS: dict[str, Builder] = {
    "lenet5": lenet5,
    "mlp": of_zoo("mlp", 32, 32),
    "cnn_bn": of_zoo("cnn_bn", 16, 32, pooling="max"),
    "vit": of_zoo("vit", 32, 64, 64, activation="gelu"),
}


def build_network(spec: NetworkSpec, seed: int = 0) -> nn.Module:
    """Return a network initialised from a seed; the global random state is unchanged.

    Raises:
        ConfigError: if the name is unknown or the images do not match the network.
    """
    builder = find_builder(spec.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = builder(spec)
    if not isinstance(network, nn.Module):
        got = type(network).__name__
        raise ConfigError("returns no network", where=f"base.network: {spec.name}", expected="a torch module", got=got)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def find_builder(name: str) -> Builder:
    """Return the builder of a name, or of a custom `module:function`.

    Raises:
        ConfigError: if there is none.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    module, colon, function = name.partition(":")
    if not colon:
        expected = f"{', '.join(NETWORKS)} or a custom module:function"
        raise ConfigError("unknown network", where="base.network", expected=expected, got=name)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        fix = "name a function that can be imported from the root of the repository"
        raise ConfigError("cannot be imported", where="base.network", got=f"{name}: {error}", fix=fix) from error


def network_layout(spec: NetworkSpec) -> Layout:
    """Return the layout of a network."""
    return layout_of(build_network(spec).state_dict())


def accuracy_and_loss(
    spec: NetworkSpec,
    vectors: Float[Tensor, "networks weights"],
    images: Float[Tensor, "images channel height width"],
    labels: Int[Tensor, " images"],
) -> Scores:
    """Return accuracy and loss of networks given as flat weight vectors, on the device of the images."""
    return scores(run_networks(build_network(spec), network_layout(spec), vectors.to(images.device), images), labels)


def run_networks(
    network: nn.Module,
    layout: Layout,
    vectors: Float[Tensor, "networks weights"],
    images: Float[Tensor, "images channel height width"],
) -> Float[Tensor, "networks images classes"]:
    """Return the logits of networks on images, one network after the other: fast for channels-last convolutions."""
    answer = ModuleAnswer(network.to(images.device), layout, alone=True)
    return logits(answer, vectors, images.contiguous(memory_format=torch.channels_last), chunk=1)
