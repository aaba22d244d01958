"""Section `zoo:` of params.yaml: where the networks come from and how they are trained."""

from typing import Annotated, Literal

import msgspec

from wscore.config import Section
from wscore.errors import ConfigError
from wscore.networks.architectures import FAMILIES, Activation, Width

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Widths = Annotated[tuple[Width, ...], msgspec.Meta(min_length=1)]
OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]


Weights = Annotated[int, msgspec.Meta(ge=1)]


class ColumnsConfig(Section):
    """Which column of a table holds what (source: hub or parquet).

    Args:
        weights: a flat list of numbers, nested lists by tensor name, or JSON text of these or of
            {"config": {...}, "weights": {...}}.
        layout: JSON {tensor name: shape} of a flat list; null takes `zoo.reading.layout`.
        id: unique name of a network; null numbers the rows.
        run: training run; null makes every row a run of its own.
        checkpoint: number that orders the checkpoints of a run.
        architecture: JSON for `wscore.networks.architectures.parse`.
        metadata: columns that become metadata, JSON text taken apart; null takes all others.
    """

    weights: str
    layout: str | None
    id: str | None
    run: str | None
    checkpoint: str | None
    architecture: str | None
    metadata: tuple[str, ...] | None


class ReadingConfig(Section):
    """How networks of others are read (all sources but `generate`).

    Args:
        name_pattern: columns told from file names: `epoch_{epoch:d}_acc_{accuracy:f}`, or a regular expression.
        run_column: metadata column that names the training run.
        checkpoint_column: metadata column that orders the checkpoints of a run.
        state_key: dotted key of the state dict in a checkpoint file; null finds it.
        max_weights: a network of more numbers is excluded without being loaded.
        columns: of a table.
        layout: shape by tensor name, in order, of flat lists and vectors that come without a layout.
        dataset: zoo_dataset: `joint` reads all data sets, else the name of one.
        topk: zoo_dataset: at most so many networks of each data set, the first ones.
        normalize: zoo_dataset: each vector by its own mean and deviation (zscore) or its own range (minmax), kept in
            the columns `weight_shift` and `weight_scale`.
        max_len: zoo_dataset: vectors are padded with zeros to this length, and longer ones excluded.
        factory: name in `data.factories` of what builds networks without an architecture and a column `factory`.
        factory_columns: metadata columns that are handed to it by name; whole numbers as integers.
    """

    name_pattern: str | None
    run_column: str | None
    checkpoint_column: str | None
    state_key: str | None
    max_weights: Weights
    columns: ColumnsConfig
    layout: dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], ...]]
    dataset: str
    topk: Count | None
    normalize: Literal["none", "zscore", "minmax"]
    max_len: Count | None
    factory: str | None
    factory_columns: tuple[str, ...]


class HygieneConfig(Section):
    """Which networks of others are excluded, and which may not be split from each other.

    Args:
        constant: networks whose weight matrices are all constant.
        duplicates: networks with the same weights as an earlier one; kept ones share their split.
        near_duplicates: networks of nearly the same weights; `group`: they share their split.
        near: relative distance |a - b| / |a| below which two networks are nearly the same; 0 looks for none.
        lineage: whether runs that share an identical layer share their split.
        required: metadata columns without which a network is excluded.
        minimum: least value of metadata columns, such as {test_accuracy: 0.2} to leave out untrained networks.
    """

    constant: Literal["keep", "exclude"]
    duplicates: Literal["keep", "exclude"]
    near_duplicates: Literal["keep", "group", "exclude"]
    near: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    lineage: bool
    required: tuple[str, ...]
    minimum: dict[str, float]


class VarietyConfig(Section):
    """Further kinds of training runs; with the values [default], [0, 0], 0, 0 and [none] there are none of them.

    Args:
        inits: choices of initialisation of weight matrices and kernels: PyTorch's, He normal, Glorot uniform, orthogonal.
        label_noise: share of a run's labels that are replaced by random ones, uniform between the two.
        random_labels: share of the runs all of whose labels are random.
        class_subset: share of the runs that see only some of the classes.
        augmentations: choices of what is done to training images: nothing, shifts by a pixel, mirroring, noise of
            deviation 0.1, or a square of zeros.
    """

    inits: Annotated[tuple[Literal["default", "kaiming", "xavier", "orthogonal"], ...], msgspec.Meta(min_length=1)]
    label_noise: tuple[Share, Share]
    random_labels: Annotated[float, msgspec.Meta(ge=0, le=1)]
    class_subset: Annotated[float, msgspec.Meta(ge=0, le=1)]
    augmentations: Annotated[tuple[Literal["none", "shift", "flip", "noise", "erase"], ...], msgspec.Meta(min_length=1)]

    @property
    def is_off(self) -> bool:
        """Whether all runs are of the usual kind."""
        usual = (self.inits, self.augmentations) == (("default",), ("none",))
        return usual and not (self.label_noise[1] or self.random_labels or self.class_subset)


class ZooConfig(Section):
    """Which networks (section `zoo:`). Pairs are [lowest, highest].

    Args:
        source: `generate` trains them; `folder` reads checkpoints of your own; `hub` reads a published zoo or table, by
            its id or from a local folder; `parquet` a local table; `zoo_dataset`, `ray_tune` and `small_cnn_zoo` folders
            as they are published (see docs/zoos.md).
        path: folder, or id of a data set on the Hub; unused by `generate`.
        revision: pinned revision on the Hub; null takes the newest.
        run_pattern: regular expression over the path of a checkpoint relative to `path`, with a group `run` and
            optionally `checkpoint`; null takes the folder of the file as its run.
        reading: how networks of others are read.
        hygiene: which of them are excluded.
        n_runs: count of training runs, spread evenly over the families.
        n_networks: instead, count of networks: as many runs are trained as it takes to keep exactly so many, and the last
            run gives its last checkpoints only; null trains `n_runs`.
        families: keys of `wscore.networks.architectures.FAMILIES`.
        widths: choices of hidden widths of each family.
        checkpoints: snapshots per run, dense at its start, the last one at its end.
        epochs: passes over a run's training data.
        batch_sizes: choices.
        optimizers: choices.
        lr: of sgd, log-uniform; momentum takes a fifth of it, adam and adamw a twentieth.
        weight_decay: log-uniform; a quarter of the runs have none.
        dropout: of the features that enter the head; a third of the runs have none.
        init_scale: log-uniform factor on PyTorch's default initialisation of weight matrices and kernels.
        train_fraction: share of the training images that a run sees, a random subset of its own.
        activations: choices.
        poolings: choices; networks without convolutions have `none`.
        variety: further kinds of runs.
        max_weight: a checkpoint with a weight beyond this, or a loss that is not finite, has diverged.
        diverged: whether networks that diverged are excluded or, where their weights are finite, kept with the state
            `diverged`. Networks of others beyond `max_weight` are excluded in any case.
        seed: of everything that is drawn.
    """

    source: Literal["generate", "folder", "hub", "parquet", "zoo_dataset", "ray_tune", "small_cnn_zoo"]
    path: str | None
    revision: str | None
    run_pattern: str | None
    reading: ReadingConfig
    hygiene: HygieneConfig
    n_runs: Count
    n_networks: Annotated[int, msgspec.Meta(ge=50, le=100_000)] | None
    families: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    widths: dict[str, Annotated[tuple[Widths, ...], msgspec.Meta(min_length=1)]]
    checkpoints: Count
    epochs: tuple[Count, Count]
    batch_sizes: Annotated[tuple[Annotated[int, msgspec.Meta(ge=2)], ...], msgspec.Meta(min_length=1)]
    optimizers: Annotated[tuple[OptimizerName, ...], msgspec.Meta(min_length=1)]
    lr: tuple[Positive, Positive]
    weight_decay: tuple[Positive, Positive]
    dropout: tuple[Share, Share]
    init_scale: tuple[Positive, Positive]
    train_fraction: tuple[Fraction, Fraction]
    activations: Annotated[tuple[Activation, ...], msgspec.Meta(min_length=1)]
    poolings: Annotated[tuple[Literal["max", "avg"], ...], msgspec.Meta(min_length=1)]
    variety: VarietyConfig
    max_weight: Positive
    diverged: Literal["exclude", "keep"]
    seed: Annotated[int, msgspec.Meta(ge=0)]

    @property
    def runs(self) -> int:
        """Count of runs that are trained at first; more follow where `n_networks` asks for them."""
        return self.n_runs if self.n_networks is None else -(-self.n_networks // self.checkpoints)

    def __post_init__(self) -> None:
        """Refuse pairs out of order, unknown families and families without widths."""
        for name in ("epochs", "lr", "weight_decay", "dropout", "init_scale", "train_fraction"):
            lowest, highest = getattr(self, name)
            if lowest > highest:
                raise ConfigError(
                    "is out of order", where=f"zoo.{name}", expected="[lowest, highest]", got=[lowest, highest]
                )
        if self.variety.label_noise[0] > self.variety.label_noise[1]:
            where, got = "zoo.variety.label_noise", list(self.variety.label_noise)
            raise ConfigError("is out of order", where=where, expected="[lowest, highest]", got=got)
        for family in self.families:
            if family not in FAMILIES:
                raise ConfigError("unknown family", where="zoo.families", expected=", ".join(FAMILIES), got=family)
            if family not in self.widths:
                raise ConfigError("has no widths", where=f"zoo.widths.{family}", expected="a list of lists of widths")
