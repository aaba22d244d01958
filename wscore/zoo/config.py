"""Configuration of the zoo (section `zoo` of params.yaml): source of the networks and how they are trained."""

from typing import Annotated, Literal

import msgspec

from wscore.config import Count, Section
from wscore.errors import ConfigError
from wscore.networks.architectures import FAMILIES, Activation, Width

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Widths = Annotated[tuple[Width, ...], msgspec.Meta(min_length=1)]
OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]


class ColumnsConfig(Section):
    """Names of the columns of a table (source: hub or parquet).

    Args:
        weights: a flat list of numbers, nested lists by tensor name, or JSON text of these or of
            {"config": {...}, "weights": {...}}.
        layout: JSON {tensor name: shape} of a flat list; null uses `zoo.reading.layout`.
        id: unique name of a network; null numbers the rows.
        run: training run; null makes each row a separate run.
        checkpoint: number that orders the checkpoints of a run.
        architecture: JSON for `wscore.networks.architectures.parse`.
        metadata: metadata columns, JSON objects are flattened; null takes all remaining columns.
    """

    weights: str
    layout: str | None
    id: str | None
    run: str | None
    checkpoint: str | None
    architecture: str | None
    metadata: tuple[str, ...] | None


class ReadingConfig(Section):
    """How imported networks are read (every source except `generate`).

    Args:
        name_pattern: metadata from file names: `epoch_{epoch:d}_acc_{accuracy:f}`, or a regular expression.
        run_column: metadata column that names the training run.
        checkpoint_column: metadata column that orders the checkpoints of a run.
        state_key: dotted key of the state dict in a checkpoint file; null detects it.
        max_weights: larger networks are excluded without being loaded.
        columns: of a table.
        layout: shape by tensor name, in order, for flat lists and vectors without a layout.
        dataset: zoo_dataset: `joint` reads all data sets, else the name of one.
        topk: zoo_dataset: maximum number of networks per data set, the first ones.
        normalize: zoo_dataset: normalizes each vector by its own mean and standard deviation (zscore) or range (minmax),
            stored in the columns `weight_shift` and `weight_scale`.
        max_len: zoo_dataset: vectors are zero-padded to this length, and longer ones excluded.
        factory: name in `data.factories`: builds networks that have neither an architecture nor a column `factory`.
        factory_columns: metadata columns passed to it as keyword arguments; whole numbers as integers.
    """

    name_pattern: str | None
    run_column: str | None
    checkpoint_column: str | None
    state_key: str | None
    max_weights: Count
    columns: ColumnsConfig
    layout: dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], ...]]
    dataset: str
    topk: Count | None
    normalize: Literal["none", "zscore", "minmax"]
    max_len: Count | None
    factory: str | None
    factory_columns: tuple[str, ...]


class HygieneConfig(Section):
    """Filtering of imported networks, and which of them must share a split.

    Args:
        constant: networks whose weight matrices are all constant.
        duplicates: exact copies of an earlier network; if kept, they share its split.
        near_duplicates: near copies of an earlier network; `group`: they share its split.
        near: relative distance |a - b| / |a| below which networks are near duplicates; 0 disables the search.
        lineage: whether runs that share an identical layer share a split.
        required: metadata columns that every network must have; others are excluded.
        minimum: minimum of metadata columns, such as {test_accuracy: 0.2} to exclude untrained networks.
    """

    constant: Literal["keep", "exclude"]
    duplicates: Literal["keep", "exclude"]
    near_duplicates: Literal["keep", "group", "exclude"]
    near: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    lineage: bool
    required: tuple[str, ...]
    minimum: dict[str, float]


class VarietyConfig(Section):
    """Additional training conditions; off with the values [default], [0, 0], 0, 0 and [none].

    Args:
        inits: choices of initialization of weight matrices and kernels: PyTorch's, He normal, Glorot uniform, orthogonal.
        label_noise: fraction of a run's labels replaced by random ones, uniform between the two.
        random_labels: fraction of runs trained on random labels only.
        class_subset: fraction of runs trained on a subset of the classes.
        augmentations: choices of augmentation of training images: none, shifts by a pixel, horizontal flips, noise with
            standard deviation 0.1, or a square of zeros.
    """

    inits: Annotated[tuple[Literal["default", "kaiming", "xavier", "orthogonal"], ...], msgspec.Meta(min_length=1)]
    label_noise: tuple[Share, Share]
    random_labels: Annotated[float, msgspec.Meta(ge=0, le=1)]
    class_subset: Annotated[float, msgspec.Meta(ge=0, le=1)]
    augmentations: Annotated[tuple[Literal["none", "shift", "flip", "noise", "erase"], ...], msgspec.Meta(min_length=1)]

    @property
    def is_off(self) -> bool:
        """Whether no run has an additional condition."""
        usual = (self.inits, self.augmentations) == (("default",), ("none",))
        return usual and not (self.label_noise[1] or self.random_labels or self.class_subset)


class ZooConfig(Section):
    """Networks of the zoo (section `zoo:`). Pairs are [lowest, highest].

    Args:
        source: `generate` trains them; `folder` reads your own checkpoints; `hub` reads a published zoo or table, by
            its id or from a local folder; `parquet` a local table; `zoo_dataset`, `ray_tune` and `small_cnn_zoo` read
            folders in their published form (see docs/zoos.md).
        path: folder, or id of a data set on the Hub; unused by `generate`.
        revision: pinned revision on the Hub; null uses the newest.
        run_pattern: regular expression on the path of a checkpoint relative to `path`, with a group `run` and
            optionally `checkpoint`; null makes each folder a run.
        reading: how imported networks are read.
        hygiene: which of them are excluded.
        n_runs: number of training runs, spread evenly over the families.
        n_networks: exact number of networks instead: trains as many runs as needed and keeps only the last checkpoints
            of the last run; null trains `n_runs`.
        families: keys of `wscore.networks.architectures.FAMILIES`.
        widths: choices of hidden widths of each family, which its runs take equally often.
        checkpoints: snapshots per run, denser early in training; the last one is the final network.
        epochs: of a run, over its training data.
        batch_sizes: choices.
        optimizers: choices.
        lr: learning rate of sgd, log-uniform; 1/5 of it for momentum, 1/20 for adam and adamw.
        weight_decay: log-uniform; 0 for a quarter of the runs.
        dropout: rate before the head; 0 for a third of the runs.
        init_scale: log-uniform factor on PyTorch's default initialization of weight matrices and kernels.
        train_fraction: fraction of the training images; each run draws its own random subset.
        activations: choices.
        poolings: choices; networks without convolutions have `none`.
        variety: additional training conditions.
        max_weight: a checkpoint with a larger weight, or with a loss that is not finite, has diverged.
        diverged: whether diverged networks are excluded or, if their weights are finite, kept with the state
            `diverged`. Imported networks beyond `max_weight` are always excluded.
        seed: of all random draws.
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
        """Number of runs trained at first; more follow if `n_networks` requires them."""
        return self.n_runs if self.n_networks is None else -(-self.n_networks // self.checkpoints)

    def __post_init__(self) -> None:
        """Reject pairs out of order, unknown families and families without widths."""
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
