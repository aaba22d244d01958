"""Random sampling of training runs: architecture, hyperparameters and seeds, determined by seed and run number."""

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np

from wscore.networks.architectures import HEADS, PATCHES, TRAITS, Architecture
from wscore.zoo.config import ZooConfig

LR_SHARE = {"sgd": 1.0, "momentum": 0.2, "adam": 0.05, "adamw": 0.05}
MOMENTUM = 0.9
LARGEST = 2**24
T = TypeVar("T")


class Variety(msgspec.Struct, frozen=True, kw_only=True):
    """Additional conditions of a training run.

    Args:
        init: initialization of weight matrices and kernels.
        label_noise: fraction of random labels, 1 for a run on random labels only.
        classes: classes in its training data.
        augmentation: of its training images.
    """

    init: str
    label_noise: float
    classes: tuple[int, ...]
    augmentation: str


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Specification of one training run.

    Args:
        number: of the run, from 0.
        architecture: of the network.
        optimizer: sgd, momentum, adam or adamw.
        lr: constant learning rate.
        momentum: of the optimizer `momentum`, else 0.
        weight_decay: L2 penalty; decoupled for adamw.
        dropout: rate before the head.
        init_scale: factor on the initial weight matrices and kernels.
        batch_size: images per step.
        epochs: over the run's subset of the images.
        train_fraction: fraction of the training images in the subset.
        train_size: number of images in the subset.
        seed_init: of the initial weights.
        seed_data: of the subset, batch order, dropout, labels and augmentation.
        variety: additional conditions; None if the zoo has none.
        dataset: name of its image data set.
    """

    number: int
    architecture: Architecture
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    dropout: float
    init_scale: float
    batch_size: int
    epochs: int
    train_fraction: float
    train_size: int
    seed_init: int
    seed_data: int
    variety: Variety | None = None
    dataset: str = ""

    @property
    def run_id(self) -> str:
        """Name shared by all checkpoints of the run."""
        return f"run-{self.number:06d}"

    @property
    def steps_per_epoch(self) -> int:
        """Full batches per epoch; a subset smaller than a batch is repeated to fill one."""
        return max(1, self.train_size // self.batch_size)

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.epochs * self.steps_per_epoch


def turn(config: ZooConfig, number: int, datasets: int) -> int:
    """Return the index of the data set of a run: data sets alternate, each after one run of every family."""
    return number // len(config.families) % datasets


def draw_run(
    config: ZooConfig, number: int, *, shape: tuple[int, int, int], classes: int, images: int, dataset: str = ""
) -> RunPlan:
    """Return run `number` of a zoo on `images` training images of a shape.

    It depends on the seed and the number, not on the total number of runs. Families alternate, and each family takes its
    widths equally often.
    """
    rng = np.random.default_rng([config.seed, number])
    optimizer = _choice(rng, config.optimizers)
    fraction = float(rng.uniform(*config.train_fraction))
    return RunPlan(
        number=number,
        architecture=_draw_architecture(rng, config, number, shape, classes),
        optimizer=optimizer,
        lr=_log_uniform(rng, config.lr) * LR_SHARE[optimizer],
        momentum=MOMENTUM if optimizer == "momentum" else 0.0,
        weight_decay=_log_uniform(rng, config.weight_decay) * bool(rng.random() >= 1 / 4),
        dropout=float(rng.uniform(*config.dropout)) * bool(rng.random() >= 1 / 3),
        init_scale=_log_uniform(rng, config.init_scale),
        batch_size=_choice(rng, config.batch_sizes),
        epochs=int(rng.integers(config.epochs[0], config.epochs[1] + 1)),
        train_fraction=fraction,
        train_size=max(1, round(fraction * images)),
        seed_init=int(rng.integers(2**31)),
        seed_data=int(rng.integers(2**31)),
        variety=None if config.variety.is_off else _draw_variety(config, number, classes),
        dataset=dataset,
    )


def checkpoint_steps(steps: int, checkpoints: int) -> list[int]:
    """Return the steps after which a run is recorded: ceil(steps (c / checkpoints)^2) for c = 1, 2, ...

    Networks change fastest early in training, so checkpoints are denser there; the last one is the final step. Steps are
    distinct, and a run with fewer steps than checkpoints is recorded after each step.

    >>> checkpoint_steps(100, checkpoints=4)
    [7, 25, 57, 100]
    """
    if steps <= checkpoints:
        return list(range(1, steps + 1))
    return [max(c, -(-steps * c * c // checkpoints**2)) for c in range(1, checkpoints + 1)]


def group_runs(runs: Sequence[RunPlan], size: int, largest: int = LARGEST) -> list[tuple[RunPlan, ...]]:
    """Return the runs in groups of at most `size` that share images, layout and batch size, the longest run first.

    Architectures of a group differ in activation and pooling alone.
    Groups of large images or networks are smaller, so that a layer of all networks together has at most `largest` values.
    """
    alike: dict[tuple[str, int, str], list[RunPlan]] = {}
    for run in runs:
        layout = msgspec.structs.replace(run.architecture, activation="relu", pooling="none").to_json()
        alike.setdefault((layout, run.batch_size, run.dataset), []).append(run)
    groups = []
    for key in sorted(alike):
        members = sorted(alike[key], key=lambda run: (-run.steps, run.number))
        most = min(size, max(1, largest // (members[0].batch_size * layer_size(members[0].architecture))))
        length = math.ceil(len(members) / math.ceil(len(members) / most))
        groups += [tuple(members[start : start + length]) for start in range(0, len(members), length)]
    return groups


def layer_size(architecture: Architecture) -> int:
    """Return the input size of the largest layer for one image, unfolded (nine values per input of a 3x3 kernel)."""
    channels, height, width = architecture.input
    if architecture.family == "vit":
        tokens = (height // (height // PATCHES)) * (width // (width // PATCHES))
        return max(channels * height * width, tokens * max(3 * max(architecture.widths), HEADS * tokens))
    if not TRAITS[architecture.family].has_conv_layers:
        return max(channels * height * width, *architecture.widths)
    sizes = [channels * height * width]
    for place, (inputs, outputs) in enumerate(itertools.pairwise(architecture.widths), start=1):
        sizes.append(max(inputs, outputs) * (height >> place) * (width >> place))
    return 9 * max(sizes)


def _draw_variety(config: ZooConfig, number: int, classes: int) -> Variety:
    """Return the additional conditions of a run, from a separate random stream that leaves the rest of it unchanged."""
    rng, kinds = np.random.default_rng([config.seed, number, 1]), config.variety
    noise = float(rng.uniform(*kinds.label_noise))
    if rng.random() < kinds.random_labels:
        noise = 1.0
    seen = range(classes)
    if rng.random() < kinds.class_subset and classes > 2:
        seen = sorted(rng.permutation(classes)[: int(rng.integers(2, classes))].tolist())
    return Variety(
        init=_choice(rng, kinds.inits),
        label_noise=noise,
        classes=tuple(seen),
        augmentation=_choice(rng, kinds.augmentations),
    )


def _draw_architecture(
    rng: np.random.Generator, config: ZooConfig, number: int, shape: tuple[int, int, int], classes: int
) -> Architecture:
    family = config.families[number % len(config.families)]
    pooling = _choice(rng, config.poolings)
    return Architecture(
        family=family,
        input=shape,
        classes=classes,
        widths=_turn_of_widths(config, number, config.widths[family]),
        activation=_choice(rng, config.activations),
        pooling=pooling if TRAITS[family].has_conv_layers else "none",
    )


def _turn_of_widths(config: ZooConfig, number: int, choices: Sequence[T]) -> T:
    """Return the choice of a run: each block of as many runs of a family takes every choice once, in random order."""
    place, family = divmod(number, len(config.families))
    block, place = divmod(place, len(choices))
    return choices[int(np.random.default_rng([config.seed, family, block, 2]).permutation(len(choices))[place])]


def _choice(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))
