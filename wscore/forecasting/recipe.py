"""Recipe of the weight predictor: trajectories in, a trained model out.

It learns from windows in the first part of the training runs; of what lies after the split, and of the held-out runs,
no bit reaches it. Later windows of the training runs are only watched: they give the columns `validation_*` of the
history, and no decision depends on them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.plan import later, learned, make_plan
from wscore.forecasting.snapshots import Trajectory
from wscore.forecasting.tasks import TASKS, Loss
from wscore.models.folder import load_model, save_model
from wscore.models.predictor import WeightPredictor
from wscore.training.batches import Batches
from wscore.training.callbacks import Callback, Resume
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.state import TrainingState

COUNTS = ("snapshots", "windows", "components", "numerical_rank")


class Trained(NamedTuple):
    """A trained predictor.

    Attributes:
        model: of the asked kind.
        history: its epochs.
        facts: what it was trained on, plain data for its folder and for metrics.
    """

    model: WeightPredictor
    history: History
    facts: dict[str, Any]


def train_predictor(
    config: PredictorConfig,
    runs: Sequence[Trajectory],
    *,
    callbacks: Sequence[Callback] = (),
    resume: Resume | Path | None = None,
) -> Trained:
    """Return a predictor trained on the first parts of all runs but the held-out ones.

    Raises:
        ConfigError: if the split or the held-out runs leave nothing to train or test on.
        DataError: if a trajectory is shorter than one window.
    """
    plan = make_plan(config, runs)
    known = [learned(config, run) for run in plan.training]
    ahead = [later(config, run) for run in plan.training]
    task = TASKS[config.kind](config, known, ahead)
    history = fit(
        task.model,
        train=task.train,
        validation=None,
        loss=task.loss,
        config=config.fit(),
        callbacks=[Watch(task.loss, task.ahead), *callbacks],
        resume=resume,
        groups=lambda model: [{"params": list(model.parameters()), "lr_factor": task.lr_factor}],
    )
    facts = {
        "kind": config.kind,
        "stride": config.stride,
        "train_split": config.train_split,
        "dataset": runs[0].manifest.dataset,
        "network": runs[0].manifest.network_name,
        "optimizer": runs[0].manifest.optimizer,
        "training_runs": [run.name for run in plan.training],
        "held_out_runs": [run.name for run in plan.held_out],
        "snapshots": sum(len(part.weights) for part in known),
        "windows": sum(len(some.last) for part in known for some in part.windows),
        **task.facts,
    }
    return Trained(task.model, history, facts)


def report(trained: Trained) -> dict[str, float]:
    """Return the figures of metrics/predictor.json: what it was trained on and how well it fits that."""
    counts = {name: float(value) for name, value in trained.facts.items() if name in COUNTS}
    best = trained.history.best
    return {
        **counts,
        "best_epoch": float(best["epoch"]),
        **{name: best[name] for name in best if name.endswith("_skill")},
    }


def sentence(trained: Trained) -> str:
    """Return the headline of a training in one line."""
    facts = trained.facts
    source = f"{facts['windows']:,} windows of {len(facts['training_runs'])} runs"
    if "components" in facts:
        rank = f"PCA with {facts['components']} components" if facts["components"] else "whole vectors"
        source += f", {rank} ({facts['snapshots']} snapshots, numerical rank {facts['numerical_rank']})"
    return f"{facts['kind']}: {source}, training skill {trained.history.best['train_skill']:+.3f}"


def save_predictor(folder: Path, trained: Trained) -> None:
    """Write a predictor with the facts of its training; `load_predictor` reads it."""
    save_model(folder, trained.model, extra={"training": trained.facts})


def load_predictor(folder: Path) -> WeightPredictor:
    """Return the predictor in a folder.

    Raises:
        ModelError: if it is missing, altered or no weight predictor.
    """
    return load_model(folder, WeightPredictor)


class Watch(Callback):
    """Adds the loss on windows that are not learned from to each epoch's row, as `validation_<name>`."""

    def __init__(self, loss: Loss, batches: Batches) -> None:
        self.loss, self.batches = loss, batches

    @torch.no_grad()
    def on_epoch(self, state: TrainingState) -> None:
        """Compute it."""
        state.model.eval()
        device = next(state.model.parameters()).device
        sums: dict[str, float] = {}
        count = 0
        for batch in self.batches.epoch(state.epoch):
            items = len(batch[0])
            count += items
            for name, value in self.loss(state.model, tuple(part.to(device) for part in batch)).items():
                sums[name] = sums.get(name, 0.0) + items * float(value)
        state.history.rows[-1] |= {f"validation_{name}": value / count for name, value in sums.items()}
