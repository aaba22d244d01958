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
    """Names of the columns of a table, for the sources `hub` and `parquet` (`zoo.reading.columns`)."""

    weights: str
    layout: str | None
    id: str | None
    run: str | None
    checkpoint: str | None
    architecture: str | None
    metadata: tuple[str, ...] | None


class ReadingConfig(Section):
    """How imported networks are read, by every source except `generate` (`zoo.reading`)."""

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
    """Filtering of imported networks, and which of them must share a split (`zoo.hygiene`)."""

    constant: Literal["keep", "exclude"]
    duplicates: Literal["keep", "exclude"]
    near_duplicates: Literal["keep", "group", "exclude"]
    near: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    lineage: bool
    required: tuple[str, ...]
    minimum: dict[str, float]


class VarietyConfig(Section):
    """Additional training conditions (`zoo.variety`); off with the values [default], [0, 0], 0, 0 and [none]."""

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
    """Networks of the zoo (section `zoo:`). Pairs are [lowest, highest]."""

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
