"""Section `zoo:` of params.yaml: where the networks come from and how they are trained."""

from typing import Annotated, Literal

import msgspec

from wscore.config import Section
from wscore.errors import ConfigError
from wscore.zoo.architectures import FAMILIES, Activation, Width

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Widths = Annotated[tuple[Width, ...], msgspec.Meta(min_length=1)]
OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]


class ZooConfig(Section):
    """Which networks (section `zoo:`). Pairs are [lowest, highest].

    Args:
        source: `generate` trains them, `folder` reads checkpoints of your own, `hub` reads a published zoo.
        path: folder of checkpoints, or of parquet files, or id of a data set on the Hub; unused by `generate`.
        revision: pinned revision on the Hub; null takes the newest.
        run_pattern: regular expression over the path of a checkpoint relative to `path`, with a group `run` and
            optionally `checkpoint`; null takes the folder of the file as its run.
        n_runs: count of training runs, spread evenly over the families.
        families: keys of `wscore.zoo.architectures.FAMILIES`.
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
        max_weight: a checkpoint with a weight beyond this is set aside as diverged.
        group_size: most networks of one architecture and batch size that are trained together.
        workers: processes; results don't depend on them.
        seed: of everything that is drawn.
    """

    source: Literal["generate", "folder", "hub"]
    path: str | None
    revision: str | None
    run_pattern: str | None
    n_runs: Count
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
    max_weight: Positive
    group_size: Count
    workers: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        """Refuse pairs out of order, unknown families and families without widths."""
        for name in ("epochs", "lr", "weight_decay", "dropout", "init_scale", "train_fraction"):
            lowest, highest = getattr(self, name)
            if lowest > highest:
                raise ConfigError(
                    "is out of order", where=f"zoo.{name}", expected="[lowest, highest]", got=[lowest, highest]
                )
        for family in self.families:
            if family not in FAMILIES:
                raise ConfigError("unknown family", where="zoo.families", expected=", ".join(FAMILIES), got=family)
            if family not in self.widths:
                raise ConfigError("has no widths", where=f"zoo.widths.{family}", expected="a list of lists of widths")
