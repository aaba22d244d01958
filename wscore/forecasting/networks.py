"""The networks whose training is recorded, and how good a weight vector of one is on images."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, NamedTuple

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from wscore.config import Section
from wscore.errors import ConfigError
from wscore.zoo.layout import Layout, layout_of

IMAGES_AT_ONCE = 1000


class NetworkSpec(Section):
    """One recorded network but for its weights.

    Args:
        name: key of `NETWORKS`.
        channels: of an image.
        size: height and width of an image.
        classes: count of classes.
    """

    name: str
    channels: Annotated[int, msgspec.Meta(ge=1)]
    size: Annotated[int, msgspec.Meta(ge=4)]
    classes: Annotated[int, msgspec.Meta(ge=2)]


class Judgement(NamedTuple):
    """How good M networks are on some images.

    Attributes:
        accuracy: share of the images that each puts in the right class.
        loss: mean cross-entropy of each (nats).
    """

    accuracy: Float[Tensor, " networks"]
    loss: Float[Tensor, " networks"]


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


NETWORKS: dict[str, Callable[[NetworkSpec], nn.Sequential]] = {"lenet5": lenet5, "mlp": mlp}


def build_network(spec: NetworkSpec, seed: int = 0) -> nn.Sequential:
    """Return a network initialised from a seed; the global random state stays as it is.

    Raises:
        ConfigError: if the name is unknown or the images don't fit the network.
    """
    if spec.name not in NETWORKS:
        raise ConfigError("unknown network", where="base.network", expected=", ".join(NETWORKS), got=spec.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[spec.name](spec)
        return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def network_layout(spec: NetworkSpec) -> Layout:
    """Return where each tensor of a network lies in its flat weight vector."""
    return layout_of(build_network(spec).state_dict())


def judge(
    spec: NetworkSpec,
    vectors: Float[Tensor, "networks weights"],
    images: Float[Tensor, "images channel height width"],
    labels: Int[Tensor, " images"],
) -> Judgement:
    """Return accuracy and loss of networks given as flat weight vectors, on the device of the images."""
    network, layout = build_network(spec).to(images.device).eval(), network_layout(spec)
    rows = [_judge_one(network, layout.unflatten(vector.to(images.device)), images, labels) for vector in vectors]
    scores = torch.tensor(rows, dtype=torch.float32).reshape(-1, 2)
    return Judgement(accuracy=scores[:, 0], loss=scores[:, 1])


@torch.no_grad()
def _judge_one(network: nn.Module, state: dict[str, Tensor], images: Tensor, labels: Tensor) -> tuple[float, float]:
    correct, loss = 0, 0.0
    for some, wanted in zip(images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE), strict=True):
        logits = functional_call(network, state, (some.contiguous(memory_format=torch.channels_last),))
        correct += int((logits.argmax(-1) == wanted).sum())
        loss += float(nn.functional.cross_entropy(logits, wanted, reduction="sum"))
    return correct / len(images), loss / len(images)
