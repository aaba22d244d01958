"""Trains many dictionaries of the same rows in one loop, with one pass over the data and one optimizer.

Members share no weights and their losses are summed, so their gradients are independent, and AdamW is elementwise: each
member ends with the weights of a separate training.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from wscore.errors import ConfigError
from wscore.sae.dataset import NetworkRows, RowBatches, fit_scaler
from wscore.sae.rows import UnitBatch
from wscore.sae.train import (
    SCHEDULE,
    Losses,
    Model,
    Objective,
    SaeConfig,
    SparseTrainingModule,
    build_sae,
    calibrate_threshold,
    sae_objective,
)
from wscore.training.callbacks import PostStep
from wscore.training.loop import fit
from wscore.training.state import FitConfig

SHARED = ("input", "scaling", "epochs", "batch_size", "lr", "weight_decay")


class Member(NamedTuple):
    """One dictionary of a sweep.

    Attributes:
        name: unique.
        config: of its training; all members have equal values of `SHARED`.
    """

    name: str
    config: SaeConfig


class Sweep(nn.Module):
    """The training modules of all members."""

    def __init__(self, trainees: Sequence[SparseTrainingModule]) -> None:
        super().__init__()
        self.members = nn.ModuleList(trainees)

    def forward(self, batch: UnitBatch) -> list[Tensor]:
        """Return the output of each member for rows."""
        return [member(batch) for member in self.members]

    def normalize(self) -> None:
        """Give all atoms unit norm."""
        for member in self.members:
            member.model.normalize()  # pyright: ignore


def train_sweep(rows: NetworkRows, members: Sequence[Member]) -> dict[str, Model]:
    """Return the trained dictionaries by name, with their final weights, after the same number of steps.

    Gradients are not clipped, since a common norm would couple the members, and dead atoms are not resampled.

    Raises:
        ConfigError: if members differ in a shared value, or there are none.
        TrainingError: if a row or a loss is not finite.
    """
    if not members:
        raise ConfigError("there is no member", where="sae_pareto", expected="at least one")
    first, train = members[0].config, rows.rows_of("train")
    for key in SHARED:
        values = {str(getattr(member.config, key)) for member in members}
        if len(values) > 1:
            raise ConfigError("members of a sweep differ", where=f"sae_pareto: {key}", expected="one value", got=values)
    scaler = fit_scaler(rows, train, first.scaling)
    sweep = Sweep([SparseTrainingModule(build_sae(member.config, rows.width, scaler)) for member in members])
    losses = [sae_objective(member.config, spread=scaler.spread, rows=len(train)) for member in members]
    history = FitConfig.of(first, schedule=SCHEDULE, clip_norm=None, patience=first.epochs)
    batches = RowBatches(rows, train, batch_size=first.batch_size, seed=first.seed, shuffle=True)
    fit(
        sweep, train=batches, validation=None, loss=_total(losses), config=history, monitor="epochs_left",
        callbacks=[PostStep(_normalize)],
    )  # fmt: skip
    models: list[Model] = [member.model for member in sweep.members]  # pyright: ignore
    for member, model in zip(members, models, strict=True):
        if member.config.sparsity == "batchtopk":
            calibrate_threshold(model, rows, train)
    return {member.name: model for member, model in zip(members, models, strict=True)}


def _total(losses: Sequence[Objective]):
    """Return the sum of the members' losses, and a value that decreases every step, so that the last epoch counts as best."""
    steps = 0

    def loss(sweep: Sweep, batch: UnitBatch) -> Losses:
        nonlocal steps
        steps += 1
        terms = [term(member, batch)["loss"] for term, member in zip(losses, sweep.members, strict=True)]  # pyright: ignore
        total = sum(terms[1:], terms[0])
        return {"loss": total, "epochs_left": total.detach() * 0 - steps}

    return loss


def _normalize(sweep: nn.Module) -> None:
    assert isinstance(sweep, Sweep)
    sweep.normalize()
