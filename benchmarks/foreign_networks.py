"""Benchmark: predictions of accuracy for networks that do not come from the zoo.

    python -m benchmarks.foreign_networks [--models models/published] [--trajectories data/trajectories] [--fashion FOLDER]

Prints a Markdown table: predicted and true accuracy, p-value `inside` (means over the last networks of runs), and, for
runs of snapshots, Kendall's tau between predicted and true accuracies, mean and range over runs. LeNet-5 runs come from
`train_base`; with a folder of Fashion-MNIST files one more is trained on up to 2,000 images of it. The others are made here: a
network of the zoo with other names of layers, with shuffled or larger weights, Gaussian noise of its shapes, an untrained
ResNet-20 and a transformer layer.
Less than a minute of one core.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wscore.config import convert
from wscore.encoder.weight_encoder import OUTSIDE, WeightEncoder
from wscore.errors import WscoreWarning
from wscore.forecasting.trajectories.store import open_trajectories
from wscore.heads.evaluation.metrics import kendall_tau
from wscore.networks.images import Images, ImagesConfig, load_images
from wscore.networks.lenet import NetworkSpec, lenet5
from wscore.publish.pretrained import PublishedHead
from wscore.zoo.store import Zoo

SNAPSHOTS = 9  # of a run
NAME = "test_accuracy"
State = dict[str, Tensor]


class Run(NamedTuple):
    """Networks of one run with their true accuracies; NaN where unknown."""

    states: list[State]
    accuracies: list[float]


class Residual(nn.Module):
    """Block of a ResNet for CIFAR."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1 + (inputs != outputs), 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)


def main() -> None:
    """Print one row per kind of network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="models/published")
    parser.add_argument("--trajectories", type=Path, default=Path("data/trajectories"))
    parser.add_argument("--zoo", type=Path, default=Path("data/zoo"))
    parser.add_argument("--fashion", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = WeightEncoder.from_pretrained(options.models)
    head = PublishedHead.from_pretrained(options.models, part="heads/accuracy", encoder=encoder)
    print("| network | predicted | true | inside | reported | tau within runs |\n|---|---:|---:|---:|---:|---:|")
    for name, runs in groups(options.trajectories, Zoo(options.zoo), options.fashion):
        print(row(name, runs, head), flush=True)


def groups(trajectories: Path, zoo: Zoo, fashion: Path | None) -> Iterator[tuple[str, list[Run]]]:
    """Yield kinds of networks with their runs."""
    best = int(zoo.table[NAME].to_numpy(float).argmax())
    state, accuracy = zoo[best], float(zoo.table[NAME].to_numpy(float)[best])
    yield "network of the zoo", [Run([state], [accuracy])]
    yield "the same, layers renamed", [Run([renamed(state)], [accuracy])]
    generator = torch.Generator().manual_seed(0)
    damages: dict[str, Callable[[Tensor], Tensor]] = {
        "Gaussian noise of its shapes": lambda t: torch.randn(t.shape, generator=generator) * t.std(correction=0),
        "its weights, shuffled in each tensor": lambda t: t.flatten()[torch.randperm(t.numel(), generator=generator)],
        "its weights, times 1000": lambda t: 1000 * t,
    }
    for name, damage in damages.items():
        damaged = {key: damage(tensor).view_as(tensor) for key, tensor in floats(state).items()}
        yield name, [Run([damaged], [np.nan])]
    yield "LeNet-5, 28 x 28 images (`train_base`)", recorded(trajectories)
    if fashion:
        yield "LeNet-5, Fashion-MNIST", [trained(fashion)]
    torch.manual_seed(0)
    yield "ResNet-20, untrained", [Run([resnet20()], [np.nan])]
    yield "transformer layer, untrained", [Run([nn.TransformerEncoderLayer(32, 4, 64).state_dict()], [np.nan])]


def floats(state: State) -> State:
    """Return the weights of a state dict, without its counters."""
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def renamed(state: State) -> State:
    """Return a state dict whose layers are numbered."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    return {
        f"x{layers.index(name.rpartition('.')[0])}.{name.rpartition('.')[2]}": tensor for name, tensor in state.items()
    }


def row(name: str, runs: list[Run], head: PublishedHead) -> str:
    """Return one row of the table: means over the last networks of the runs."""
    last, taus = [], []
    for run in runs:
        read = [head.encoder.read(state, more=head.features) for state in run.states]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WscoreWarning)
            predicted = [head.predict(network)[NAME] for network in read]
        last.append((predicted[-1], run.accuracies[-1], float(read[-1].encoding.inside)))
        taus += [kendall_tau(np.array(run.accuracies), np.array(predicted))] if len(read) > 1 else []
    guess, true, inside = np.mean(last, axis=0)
    reported = sum(p <= OUTSIDE for _, _, p in last)
    tau = f"{np.mean(taus):.2f} ({min(taus):.2f} to {max(taus):.2f})" if taus else ""
    accuracy = "" if np.isnan(true) else f"{true:.3f}"
    return f"| {name} | {guess:.3f} | {accuracy} | {inside:.4f} | {reported} of {len(last)} | {tau} |"


def recorded(folder: Path) -> list[Run]:
    """Return recorded runs, snapshots spread over each."""
    runs = []
    for run in open_trajectories(folder):
        places = np.unique(np.geomspace(1, len(run), SNAPSHOTS).astype(int) - 1)
        known: Any = run.manifest.snapshots.test_accuracy
        runs.append(Run([run.state_dict(place) for place in places], [float(known[place]) for place in places]))
    return runs


def trained(folder: Path) -> Run:
    """Return snapshots of a LeNet-5 trained on images in a folder."""
    plain: dict[str, Any] = {"dataset": "fashion", "root": str(folder), "revision": None, "size": None}
    limits = {"max_train": 2000, "max_test": 1000, "normalize": None}
    images = load_images(convert(plain | limits, ImagesConfig, where="images"))
    torch.manual_seed(0)
    network = lenet5(NetworkSpec(name="lenet5", channels=1, size=28, classes=images.classes))
    optimizer, run = torch.optim.Adam(network.parameters(), lr=1e-3), Run([], [])
    for step in range(SNAPSHOTS * 15):
        if step % 15 == 0:
            run.states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
            run.accuracies.append(accuracy_of(network, images))
        rows = torch.randint(len(images.x_train), (64,))
        loss = nn.functional.cross_entropy(network(images.x_train[rows]), images.y_train[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return run


@torch.no_grad()
def accuracy_of(network: nn.Module, images: Images) -> float:
    """Return the share of correctly classified test images."""
    return float((network(images.x_test).argmax(1) == images.y_test).float().mean())


def resnet20() -> State:
    """Return the weights of an untrained ResNet-20 (He et al. 2016) without projections: only its tensors matter here."""
    widths = [16] * 3 + [32] * 3 + [64] * 3
    blocks = [Residual(before, after) for before, after in zip([16, *widths], widths, strict=False)]
    first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(first, *blocks, nn.Linear(64, 10)).state_dict()


if __name__ == "__main__":
    main()
