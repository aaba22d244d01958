"""The codec of a finished `dvc repro` on networks that are not from its zoo: sizes asked and got, agreement, errors of weights.

    python -m benchmarks.codec_networks [--codec models/codec] [--steps 60]

Prints a Markdown table: for each network and ratio the ratio of the file, agreement on test images and R^2 of the weights, single
pass and search, beside tensors rounded one by one to as many bytes, and 8 bits a weight behind a range coder; all have the
header of the codec's file. Networks are trained briefly on the built-in digits, those of five inputs on Gaussian numbers. Last,
what a network gets that is too small.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.autoencoder.coding.adaptive import encode_matrix
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.format import Content, Mode
from wscore.autoencoder.coding.problem import SearchConfig
from wscore.autoencoder.coding.state import entries_of, exact_values, weights_of
from wscore.autoencoder.evaluation.codec_controls import Networks, plain
from wscore.config import convert
from wscore.errors import ModelError
from wscore.networks.architectures import Architecture, build
from wscore.networks.images import ImagesConfig, load_images
from wscore.networks.inference import ModuleAnswer, differentiable
from wscore.networks.layout import layout_of
from wscore.networks.lenet import NetworkSpec, lenet5

STEPS, BATCH = 300, 64  # of training
SEARCHED = 1 << 19  # weights of the largest network that is searched: steps of larger ones take a second each


class Data(NamedTuple):
    """Inputs of a network and, to train it, their classes; others on which it is compared."""

    inputs: Float[Tensor, "n ..."]
    classes: Int[Tensor, " n"]
    held: Float[Tensor, "m ..."]


class Case(NamedTuple):
    """A trained network."""

    name: str
    network: nn.Module
    data: Data
    ratios: tuple[float, ...]


class Residual(nn.Module):
    """Two convolutions beside the input (He et al. 2016), which is subsampled and padded with zeros where sizes differ."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.more = after // before, after - before
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, self.stride, 1, bias=False), nn.BatchNorm2d(after))
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))

    def forward(
        self, x: Float[Tensor, "batch before height width"]
    ) -> Float[Tensor, "batch after small_height small_width"]:
        """Return the maps behind the block."""
        beside = nn.functional.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return (self.second(self.first(x).relu()) + beside).relu()


class RowTransformer(nn.Module):
    """Four transformer layers over the rows of an image of 8 x 8 pixels: 0.8 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.places = nn.Linear(8, 128), nn.Parameter(0.1 * torch.randn(8, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(128, 10)

    def forward(self, x: Float[Tensor, "batch 1 8 8"]) -> Float[Tensor, "batch 10"]:
        """Return the logits."""
        return self.head(self.layers(self.rows(x[:, 0]) + self.places).mean(1))


def cases() -> Iterator[Case]:
    """Yield trained networks."""
    digits, ratios = of_digits(8), (10.0, 20.0)
    for family in ("mlp", "cnn"):
        for width in (7, 9):
            widths = (width,) * (2 if family == "cnn" else 1)
            kind = Architecture(
                family=family, input=(1, 8, 8), classes=10, widths=widths, activation="relu", pooling="max"
            )
            yield Case(f"{family} of width {width}", trained(build(kind), digits), digits, ratios)
    lenet, large = lenet5(NetworkSpec(name="lenet5", channels=1, size=28, classes=10)), of_digits(28)
    yield Case("LeNet-5", trained(lenet, large), large, ratios)
    yield Case("ResNet-20", trained(resnet20(), digits), digits, ratios)
    yield Case("transformer", trained(RowTransformer(), digits), digits, ratios)
    numbers = of_numbers()
    yield Case("perceptron of 5 inputs", trained(perceptron(16), numbers), numbers, (4.0, 10.0))
    yield Case("deep perceptron of 5 inputs", trained(perceptron(*[50] * 6), numbers), numbers, (10.0, 67.0))


def of_digits(size: int) -> Data:
    """Return digits of so many pixels squared."""
    plain: dict[str, str | int | None] = dict.fromkeys(("root", "revision", "max_train", "max_test", "normalize"))
    images = load_images(convert(plain | {"dataset": "digits", "size": size}, ImagesConfig, where="images"))
    return Data(images.x_train, images.y_train, images.x_test)


def of_numbers() -> Data:
    """Return five Gaussian numbers, whose class is the largest."""
    inputs = torch.randn(2000, 5)
    return Data(inputs[:1500], inputs[:1500].argmax(1), inputs[1500:])


def perceptron(*widths: int) -> nn.Module:
    """Return a perceptron of five inputs and five classes."""
    layers: list[nn.Module] = []
    for before, after in zip((5, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 5))


def resnet20() -> nn.Module:
    """Return a ResNet-20 of 10 classes for images of one channel."""
    widths = [16] * 3 + [32] * 3 + [64] * 3
    blocks = [Residual(before, after) for before, after in zip([16, *widths], widths, strict=False)]
    first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def trained(network: nn.Module, data: Data) -> nn.Module:
    """Return the network after `STEPS` steps of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(STEPS):
        rows = torch.randint(len(data.inputs), (BATCH,))
        loss = nn.functional.cross_entropy(network(data.inputs[rows]), data.classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


class Comparison(NamedTuple):
    """A network that came back: its bytes, agreement with the original and R^2 of its weights."""

    size: int
    agreement: float
    r2: float

    def text(self, weights: int, *, r2: bool = False) -> str:
        """Return ratio, agreement and, if asked for, R^2 as the cell of a table."""
        return f"{4 * weights / self.size:.1f}x, {self.agreement:.3f}" + (f", {self.r2:.3f}" if r2 else "")


class Original:
    """A network beside which others are compared."""

    def __init__(self, case: Case) -> None:
        state = case.network.state_dict()
        self.layout, self.held = layout_of(state), case.data.held
        self.weights = weights_of(self.layout, state)
        self.answer = ModuleAnswer(differentiable(case.network), self.layout, alone=True)
        self.classes = self._classes(self.weights)

    @torch.no_grad()
    def _classes(self, weights: Tensor) -> Tensor:
        return self.answer(weights, self.held[None])[0].argmax(1)

    def compare(self, weights: Tensor, size: int) -> Comparison:
        """Return how near other weights (1, D) are, which took some bytes."""
        agreement = (self._classes(weights) == self.classes).float().mean()
        error = (weights - self.weights).square().sum() / (self.weights - self.weights.mean()).square().sum()
        return Comparison(size, float(agreement), 1 - float(error))


def by_codec(codec: WeightCodec, case: Case, original: Original, ratio: float, steps: int) -> Comparison:
    """Return a network that went through a file; without steps it is not run."""
    run = {"images": case.data.inputs, "search": SearchConfig(steps=steps)} if steps else {"search": None}
    data = codec.compress(case.network, ratio=ratio, **run)
    return original.compare(weights_of(original.layout, codec.decompress(data)), len(data))


def header_of(codec: WeightCodec, case: Case) -> int:
    """Return the bytes of a file without numbers, which rivals are granted too."""
    state = case.network.state_dict()
    return len(codec.file(Content(Mode.BLOCKS, entries_of(state), b"", exact_values(state), 0, b"")))


def by_rounding(original: Original, ratio: float, header: int) -> Comparison:
    """Return a network rounded tensor by tensor."""
    room = torch.tensor([int(4 * original.layout.size / ratio) - header])
    back = plain(Networks(original.layout, None, original.weights, torch.zeros(0)), room)
    return original.compare(back.vectors, int(back.sizes) + header)


def by_bytes(original: Original, header: int) -> Comparison:
    """Return a network in 8 bits a weight behind a range coder."""
    back, numbers = original.weights.clone(), []
    for place in original.layout.slices().values():
        step = (back[:, place].abs().max() / 127).clamp_min(1e-30)
        numbers.append((back[:, place] / step).round())
        back[:, place] = numbers[-1] * step
    size = len(encode_matrix([tensor.long().numpy() for tensor in numbers])) + 4 * len(numbers) + header
    return original.compare(back, size)


def rows(case: Case, codec: WeightCodec, steps: int) -> Iterator[str]:
    """Yield rows of the table."""
    original = Original(case)
    weights, header = original.layout.size, header_of(codec, case)
    eight = by_bytes(original, header)
    for ratio in case.ratios:
        rounded, tensors = by_codec(codec, case, original, ratio, 0), by_rounding(original, ratio, header)
        searched = by_codec(codec, case, original, ratio, steps).text(weights) if weights <= SEARCHED else "-"
        cells = [case.name, f"{weights:,}", f"{ratio:g}x", rounded.text(weights, r2=True), searched]
        yield f"| {' | '.join([*cells, tensors.text(weights, r2=True), eight.text(weights)])} |"


def main() -> None:
    """Print the table, and what a network of 30 weights gets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, default=Path("models/codec"))
    parser.add_argument("--steps", type=int, default=60, help="of the search")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = WeightCodec.from_folder(options.codec)
    print("| network | weights | asked | single pass | search | tensor by tensor | 8 bits + coder |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for case in cases():
        for row in rows(case, codec, options.steps):
            print(row, flush=True)
    try:
        codec.compress(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), ratio=20)
    except ModelError as error:
        print(f"\n30 weights, 20x: {error}")


if __name__ == "__main__":
    main()
