"""Architectures of zoo networks: small image classifiers, each built from a frozen config.

Every network is a `Classifier`: named layers in order, the last one a linear `head`. Tensor names
identify the role, which permutation specs and state-dict readers rely on:

    mlp      linear1 .. linearK, head
    cnn      conv1 .. convK, head                      (convolutions with bias)
    cnn_bn   conv1, norm1 .. convK, normK, head        (convolutions without bias)
    resnet   conv1, norm1, block1 .. blockK-1, head    (block: conv1, norm1, conv2, norm2, shortcut if widths differ)
    residual_mlp    linear1, block1 .. blockK-1, head  (block: linear1, linear2 with a skip connection)
    depthwise_cnn   conv1, norm1, block1 .. blockK-1, head  (block: depthwise, norm1, pointwise, norm2)
    vit      patches, block1 .. blockK-1, tokens, head   (block: norm1, attention, norm2, linear1, linear2)
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.errors import DataError

Activation = Literal["relu", "tanh", "gelu", "silu", "leaky"]
Pooling = Literal["max", "avg", "none"]
Width = Annotated[int, msgspec.Meta(ge=1, le=4096)]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "leaky": nn.LeakyReLU,
}  # fmt: skip
POOLINGS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "max": (nn.MaxPool2d, nn.AdaptiveMaxPool2d),
    "avg": (nn.AvgPool2d, nn.AdaptiveAvgPool2d),
}
HEADS = 2  # attention heads, if the width is even
PATCHES = 4  # along height and width; more where these are not multiples of it
EXAMPLE = (
    '{"family":"cnn","input":[1,28,28],"classes":10,"widths":[8,16],"activation":"relu","pooling":"max"}'  # as JSON
)
GRID = 2  # height and width of the feature maps at the head, for any image size


class Architecture(Section):
    """Description of a network without its weights.

    Args:
        family: key of `FAMILIES`.
        input: channels, height and width of an image; 4 x 4 at least.
        classes: count of classes.
        widths: units or channels of the hidden layers, in order; for a residual MLP or vision transformer the width
            of the residual stream, then the inner width of each block.
        activation: between the layers.
        pooling: between convolutions; `none` for families without.

    >>> one = Architecture(family="mlp", input=(1, 8, 8), classes=10, widths=(16,), activation="tanh", pooling="none")
    >>> parse(one.to_json()) == one
    True
    """

    family: str
    input: tuple[int, int, int]
    classes: Annotated[int, msgspec.Meta(ge=2)]
    widths: Annotated[tuple[Width, ...], msgspec.Meta(min_length=1)]
    activation: Activation
    pooling: Pooling

    def to_json(self) -> str:
        """Return the JSON stored in the column `architecture`; `parse` is the inverse."""
        return msgspec.json.encode(self).decode()


class Classifier(nn.Sequential):
    """Named layers in order, ending with the linear `head`.

    logits = head(keep * body(images)), where `keep` is a dropout mask already divided by the keep probability; without it
    there is no dropout.

    Attributes:
        head: the last layer; its `in_features` is the width of a dropout mask.
    """

    head: nn.Linear

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Float[Tensor, "*shared batch channel height width"],
        keep: Float[Tensor, "*networks batch feature"] | None = None,
    ) -> Float[Tensor, "*networks batch classes"]:
        """Return the logits of images; leading axes index stacked networks (`wscore.networks.stacked`)."""
        *body, head = self.children()
        features = images
        for layer in body:
            features = layer(features)
        return head(features if keep is None else features * keep)


class ResidualBlock(nn.Module):
    """y = act(norm2(conv2(act(norm1(conv1(x))))) + shortcut(x)), where the shortcut is 1x1 if the widths differ."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = activation()
        self.conv2 = _conv(outputs, outputs, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.act2 = activation()

    def forward(
        self, x: Float[Tensor, "*networks batch channel height width"]
    ) -> Float[Tensor, "*networks batch out height width"]:
        """Return feature maps of the same height and width."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.act2(y + self.shortcut(x))


class ResidualLinear(nn.Module):
    """y = x + linear2(act(linear1(x)))."""

    def __init__(self, stream: int, inner: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.linear1 = nn.Linear(stream, inner)
        self.act = activation()
        self.linear2 = nn.Linear(inner, stream)

    def forward(self, x: Float[Tensor, "*networks batch feature"]) -> Float[Tensor, "*networks batch feature"]:
        """Return features of the same width."""
        return x + self.linear2(self.act(self.linear1(x)))


class DepthwiseBlock(nn.Module):
    """A 3x3 depthwise and a 1x1 pointwise convolution, both normalised."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.act1 = activation()
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act2 = activation()

    def forward(
        self, x: Float[Tensor, "*networks batch channel height width"]
    ) -> Float[Tensor, "*networks batch out height width"]:
        """Return feature maps of the same height and width."""
        x = self.act1(self.norm1(self.depthwise(x)))
        return self.act2(self.norm2(self.pointwise(x)))


class Patches(nn.Module):
    """A linear embedding of each image patch, plus a learned position embedding."""

    def __init__(self, channels: int, size: tuple[int, int], tokens: int, stream: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, stream, size, stride=size)
        self.position = Positions(tokens, stream)

    def forward(
        self, x: Float[Tensor, "*shared batch channel height width"]
    ) -> Float[Tensor, "*networks batch token feature"]:
        """Return one token per patch."""
        return self.position(self.embed(x).flatten(-2).transpose(-1, -2))


class Positions(nn.Module):
    """y = x + weight, one learned vector per token."""

    def __init__(self, tokens: int, stream: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(tokens, stream))

    def forward(
        self, x: Float[Tensor, "*networks batch token feature"]
    ) -> Float[Tensor, "*networks batch token feature"]:
        """Return tokens with position embeddings."""
        return x + self.weight


class AttentionBlock(nn.Module):
    """x <- x + attention(norm1(x)); x <- x + linear2(act(linear1(norm2(x))))."""

    def __init__(self, stream: int, inner: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stream)
        self.attention = nn.MultiheadAttention(stream, 1 if stream % HEADS else HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(stream)
        self.linear1 = nn.Linear(stream, inner)
        self.act = activation()
        self.linear2 = nn.Linear(inner, stream)

    def forward(
        self, x: Float[Tensor, "*networks batch token feature"]
    ) -> Float[Tensor, "*networks batch token feature"]:
        """Return tokens of the same shape."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.linear2(self.act(self.linear1(self.norm2(x))))


class TokenNorm(nn.Module):
    """The mean over tokens after layer normalisation."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(stream)

    def forward(self, x: Float[Tensor, "*networks batch token feature"]) -> Float[Tensor, "*networks batch feature"]:
        """Return one vector per image."""
        return self.norm(x).mean(-2)


def mlp(architecture: Architecture) -> Classifier:
    """Return a perceptron on flattened images."""
    channels, height, width = architecture.input
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = channels * height * width
    for number, outputs in enumerate(architecture.widths, start=1):
        layers[f"linear{number}"] = nn.Linear(inputs, outputs)
        layers[f"act{number}"] = ACTIVATIONS[architecture.activation]()
        inputs = outputs
    layers["head"] = nn.Linear(inputs, architecture.classes)
    return Classifier(layers)


def residual_mlp(architecture: Architecture) -> Classifier:
    """Return a perceptron with residual blocks of equal width."""
    stream, *rest = architecture.widths
    activation = ACTIVATIONS[architecture.activation]
    channels, height, width = architecture.input
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        flatten=nn.Flatten(), linear1=nn.Linear(channels * height * width, stream), act1=activation()
    )
    for number, inner in enumerate(rest, start=1):
        layers[f"block{number}"] = ResidualLinear(stream, inner, activation)
    layers["head"] = nn.Linear(stream, architecture.classes)
    return Classifier(layers)


def vit(architecture: Architecture) -> Classifier:
    """Return a vision transformer on about 4 x 4 patches with two attention heads and mean pooling over tokens."""
    stream, *rest = architecture.widths
    activation = ACTIVATIONS[architecture.activation]
    channels, height, width = architecture.input
    size = (height // PATCHES, width // PATCHES)
    patches = Patches(channels, size, (height // size[0]) * (width // size[1]), stream)
    layers: OrderedDict[str, nn.Module] = OrderedDict(patches=patches)
    for number, inner in enumerate(rest, start=1):
        layers[f"block{number}"] = AttentionBlock(stream, inner, activation)
    layers["tokens"] = TokenNorm(stream)
    layers["head"] = nn.Linear(stream, architecture.classes)
    return Classifier(layers)


def convolutions(architecture: Architecture, *, norm: bool) -> Classifier:
    """Return 3x3 convolutions with pooling between them, each followed by batch normalisation if `norm`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = architecture.input[0]
    for number, outputs in enumerate(architecture.widths, start=1):
        if number > 1:
            layers[f"pool{number - 1}"] = _pool(architecture, last=False)
        layers[f"conv{number}"] = _conv(inputs, outputs, bias=not norm)
        if norm:
            layers[f"norm{number}"] = nn.BatchNorm2d(outputs)
        layers[f"act{number}"] = ACTIVATIONS[architecture.activation]()
        inputs = outputs
    return _with_head(layers, inputs, architecture)


def blocks(
    architecture: Architecture, *, block: Callable[[int, int, Callable[[], nn.Module]], nn.Module]
) -> Classifier:
    """Return a normalised 3x3 convolution (the first width) and one block for each further width."""
    first, *rest = architecture.widths
    activation = ACTIVATIONS[architecture.activation]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_conv(architecture.input[0], first, bias=False), norm1=nn.BatchNorm2d(first), act1=activation()
    )
    inputs = first
    for number, outputs in enumerate(rest, start=1):
        layers[f"pool{number}"] = _pool(architecture, last=False)
        layers[f"block{number}"] = block(inputs, outputs, activation)
        inputs = outputs
    return _with_head(layers, inputs, architecture)


FAMILIES: dict[str, Callable[[Architecture], Classifier]] = {
    "mlp": mlp,
    "cnn": partial(convolutions, norm=False),
    "cnn_bn": partial(convolutions, norm=True),
    "resnet": partial(blocks, block=ResidualBlock),
    "residual_mlp": residual_mlp,
    "depthwise_cnn": partial(blocks, block=DepthwiseBlock),
    "vit": vit,
}


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """Building blocks of a family, used as targets of pattern heads."""

    has_conv_layers: bool = False
    has_batch_norm: bool = False
    has_residual: bool = False


TRAITS: dict[str, Traits] = {
    "mlp": Traits(),
    "cnn": Traits(has_conv_layers=True),
    "cnn_bn": Traits(has_conv_layers=True, has_batch_norm=True),
    "resnet": Traits(has_conv_layers=True, has_batch_norm=True, has_residual=True),
    "residual_mlp": Traits(has_residual=True),
    "depthwise_cnn": Traits(has_conv_layers=True, has_batch_norm=True),
    "vit": Traits(has_residual=True),
}


def build(architecture: Architecture | str) -> Classifier:
    """Return a freshly initialised network of an architecture or of its JSON text.

    Raises:
        DataError: if the text is malformed, the family is unknown, or the images are too small.

    >>> network = build(Architecture(
    ...     family="cnn", input=(1, 8, 8), classes=10, widths=(6, 10), activation="relu", pooling="max"
    ... ))
    >>> network(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    known = parse(architecture) if isinstance(architecture, str) else architecture
    if known.family not in FAMILIES:
        raise DataError("unknown family", where="architecture", expected=", ".join(FAMILIES), got=known.family)
    if min(known.input[1:]) < PATCHES and known.family == "vit":
        raise DataError("images are too small", where="architecture", expected="4 x 4 or more", got=known.input)
    convolves = TRAITS[known.family].has_conv_layers
    least = GRID * 2 ** (len(known.widths) - 1) if convolves else 1
    if min(known.input) < 1 or min(known.input[1:]) < least:
        raise DataError(
            "images are too small", where="architecture", expected=f"{least} x {least} or more", got=known.input
        )
    return FAMILIES[known.family](known)


def parse(text: str) -> Architecture:
    """Return the architecture described by the JSON text of a zoo row.

    Raises:
        DataError: if the text is empty (an imported network of unknown architecture) or malformed.
    """
    if not text:
        raise DataError("the architecture of this network is unknown, so it cannot be run", where="architecture")
    try:
        values = msgspec.json.decode(text)
        missing = [name for name in Architecture.__struct_fields__ if name not in values]
        if missing:
            raise DataError("lacks fields", where="architecture", expected=EXAMPLE, got=f"no {', '.join(missing)}")
        return msgspec.json.decode(text, type=Architecture)
    except (ValueError, TypeError, RecursionError) as error:
        got = f"{text[:80]!r}: {error}"
        raise DataError("is not a valid architecture", where="architecture", expected=EXAMPLE, got=got) from error


def _with_head(layers: OrderedDict[str, nn.Module], channels: int, architecture: Architecture) -> Classifier:
    layers["pool"] = _pool(architecture, last=True)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(channels * GRID * GRID, architecture.classes)
    return Classifier(layers)


def _conv(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _pool(architecture: Architecture, *, last: bool) -> nn.Module:
    if architecture.pooling not in POOLINGS:
        raise DataError(
            "needs a pooling", where="architecture.pooling", expected=", ".join(POOLINGS), got=architecture.pooling
        )
    between, final = POOLINGS[architecture.pooling]
    return final(GRID) if last else between(2)
