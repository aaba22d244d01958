"""Benchmark: stacked against sequential training, on the same networks, data, batches and steps.

    python -m benchmarks.zoo_generation [--runs 32] [--epochs 3] [--families mlp cnn ...]

Variants, all on one thread:
- sequential: the standard loop, one `nn.Module` and one `torch.optim` optimizer at a time, batches by tensor indexing
- vmap: our loop, but with `torch.func.vmap` over the plain module (convolutions become grouped convolutions)
- stacked: `wscore.zoo.training.train_group`

A two-sample Kolmogorov-Smirnov test compares the test accuracies of stacked and sequential networks.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wscore.config import load_section
from wscore.networks.architectures import FAMILIES, build
from wscore.networks.datasets import DataConfig
from wscore.networks.images import Images, load_images
from wscore.networks.inference import StackedAnswer, logits, scores
from wscore.networks.layout import layout_of
from wscore.zoo import training
from wscore.zoo.config import ZooConfig
from wscore.zoo.sampling import RunPlan, draw_run, group_runs

PARAMS = Path(__file__).parent.parent / "params.yaml"
OPTIMIZERS = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
TEXT = "{:14} {:>8} {:>8} {:>12} {:>12} {:>12} {:>10} {:>10} {:>8} {:>8}"


class Trained(NamedTuple):
    """Cost and results of one variant.

    Attributes:
        seconds: CPU time.
        accuracy: test accuracy of each network.
    """

    seconds: float
    accuracy: np.ndarray


def main() -> None:
    """Print one line per family and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=32, help="networks of each family")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images(load_section(DataConfig, "data", PARAMS).each()[0])
    heads = ("family", "networks", "steps", "sequential/s", "vmap/s", "stacked/s", "/sequent.", "/vmap", "KS", "p")
    print("networks trained per CPU second, speed-ups of stacked, and the test of equal accuracies")
    print(TEXT.format(*heads), flush=True)
    found: list[tuple[Trained, ...]] = []
    for family in options.families:
        runs = plan(family, options.runs, options.epochs, images)
        train_together(runs[:4], images)  # warm up
        found.append((train_in_turn(runs, images), train_by_vmap(runs, images), train_together(runs, images)))
        report(family, sum(run.steps for run in runs) // len(runs), *found[-1])
    report("all", 0, *(pooled([row[way] for row in found]) for way in range(3)))


def plan(family: str, count: int, epochs: int, images: Images) -> tuple[RunPlan, ...]:
    """Return runs of one architecture and batch size, otherwise sampled as in the default zoo except for their length."""
    config = load_section(ZooConfig, "zoo", PARAMS)
    config = msgspec.structs.replace(
        config,
        families=(family,),
        widths={family: config.widths[family][:1]},
        activations=("relu",),
        poolings=("max",),
        batch_sizes=config.batch_sizes[:1],
        epochs=(epochs, epochs),
    )
    channels, height, width = images.x_train.shape[1:]
    shape, size = (channels, height, width), len(images.x_train)
    runs = [draw_run(config, n, shape=shape, classes=images.classes, images=size) for n in range(count)]
    (group,) = group_runs(runs, count)
    return group


def measured(train: Callable[[], Tensor], runs: Sequence[RunPlan], images: Images) -> Trained:
    """Return CPU time and test accuracies of networks; `train` returns their weights."""
    start = time.process_time()
    weights = train()
    seconds = time.process_time() - start
    layout = layout_of(build(runs[0].architecture).state_dict())
    accuracy, _ = scores(logits(StackedAnswer(runs[0].architecture, layout), weights, images.x_test), images.y_test)
    return Trained(seconds, accuracy.numpy())


def train_together(runs: Sequence[RunPlan], images: Images) -> Trained:
    """Train as in zoo generation."""
    return measured(lambda: training.train_group(runs, images, 1)[:, 0], runs, images)


def train_by_vmap(runs: Sequence[RunPlan], images: Images) -> Trained:
    """Train with the same loop, networks batched by `torch.func.vmap`."""
    with torch.device("meta"):
        plain = build(runs[0].architecture).train()

    def run(_: nn.Module, state: dict[str, Tensor], x: Tensor, keep: Tensor | None) -> Tensor:
        masks = torch.ones(len(x), x.shape[1], plain.head.in_features) if keep is None else keep
        return vmap(lambda one, images, mask: functional_call(plain, one, (images, mask)))(state, x, masks)

    with mock.patch.object(training, "run_stacked", run):
        return train_together(runs, images)


def train_in_turn(runs: Sequence[RunPlan], images: Images) -> Trained:
    """Train one network after the other with PyTorch's layers and optimizers."""
    return measured(lambda: torch.stack([train_alone(run, images) for run in runs]), runs, images)


def train_alone(run: RunPlan, images: Images) -> Tensor:
    """Return the flat weights of one network after the standard loop, on the batches and masks of its run."""
    network = build(run.architecture)
    layout = layout_of(network.state_dict())
    network.load_state_dict(layout.unflatten(training.initial_weights(run, layout)))
    momentum = {"momentum": run.momentum} if run.momentum else {}
    optimizer = OPTIMIZERS[run.optimizer](network.parameters(), lr=run.lr, weight_decay=run.weight_decay, **momentum)
    stream = training.BatchStream(run, training.own_labels(run, images.y_train, images.classes))
    masks = torch.from_numpy(stream.masks(run.steps, network.head.in_features))
    for index, mask in zip(stream.indices(run.steps), masks, strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images.x_train[index], mask), images.y_train[index])
        loss.backward()
        optimizer.step()
    return torch.from_numpy(layout.flatten(network.state_dict()))


def pooled(parts: Sequence[Trained]) -> Trained:
    """Return the sum of several measurements."""
    return Trained(sum(part.seconds for part in parts), np.concatenate([part.accuracy for part in parts]))


def report(name: str, steps: int, sequential: Trained, by_vmap: Trained, stacked: Trained) -> None:
    """Print one line of the table."""
    count = len(stacked.accuracy)
    test: Any = ks_2samp(stacked.accuracy, sequential.accuracy)
    rates = [f"{count / way.seconds:.1f}" for way in (sequential, by_vmap, stacked)]
    ratios = [f"{way.seconds / stacked.seconds:.2f}x" for way in (sequential, by_vmap)]
    print(
        TEXT.format(name, count, steps or "", *rates, *ratios, f"{test.statistic:.3f}", f"{test.pvalue:.3f}"),
        flush=True,
    )


if __name__ == "__main__":
    main()
