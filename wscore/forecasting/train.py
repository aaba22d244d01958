"""Trains the weight predictor on trajectories.

It is trained on windows of the training runs: of their first parts, or of whole runs if `split` is `run`. Windows of
the validation runs, if any, select the best epoch; no test data is used.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from wscore.forecasting.config import LR_FACTORS, PredictorConfig
from wscore.forecasting.evaluation.baselines import Forecaster
from wscore.forecasting.models.predictors import Snapshots, Steps, WeightPredictor
from wscore.forecasting.splits import RunWindows, later, learned, make_plan, reachable
from wscore.forecasting.tasks import TASKS
from wscore.forecasting.trajectories.store import Trajectory
from wscore.networks.layout import Layout
from wscore.training.callbacks import Callback, Resume
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.model_folder import load_model, save_model

COUNTS = ("snapshots", "windows", "components", "numerical_rank")


class TrainedPredictor(NamedTuple):
    """A trained predictor.

    Attributes:
        model: of the configured kind.
        history: its epochs.
        facts: description of the training data, as plain data for its folder and for metrics.
    """

    model: WeightPredictor
    history: History
    facts: dict[str, Any]


class LearnedForecaster(Forecaster):
    """A model of the kind in section `predictor:`, with the interface of the baselines.

    Args:
        config: section `predictor:`.
        callbacks: of the training.
        resume: folder for the state of an interrupted training.
    """

    model: WeightPredictor
    history: History
    facts: dict[str, Any]

    def __init__(
        self, config: PredictorConfig, callbacks: Sequence[Callback] = (), resume: Resume | Path | None = None
    ) -> None:
        super().__init__(config)
        self.callbacks, self.resume = callbacks, resume

    def fit(self, known: Sequence[RunWindows], validation: Sequence[RunWindows] = ()) -> None:
        """Train the model; with validation windows the best epoch on them is kept, else the last one.

        The runs may be of different networks, except for `transformer_pca`.

        Raises:
            ConfigError: if they are of different networks and the kind does not allow it.
        """
        task, config = TASKS[self.config.kind](self.config, known), self.config
        train = task.batches(known, True)
        watched = task.batches(validation, False) if validation else None
        factor = LR_FACTORS[config.kind]
        self.history = fit(
            task.model,
            train=train,
            validation=watched,
            loss=task.loss,
            config=config.fit(),
            callbacks=self.callbacks,
            resume=self.resume,
            groups=lambda model: [{"params": list(model.parameters()), "lr_factor": factor}],
        )
        if watched is None:  # keep the columns, empty
            blank = {
                f"validation_{name.removeprefix('train_')}": math.nan for name in self.history.best if "train_" in name
            }
            self.history.rows = [{**row, **blank} for row in self.history.rows]
        task.finish(task.model, train if watched is None else watched)
        self.model, self.facts = task.model, task.facts

    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Float[Tensor, "horizon weights"]:
        """Return the weights some steps after the last snapshot."""
        return self.model.predict(history, layout, horizons)


def train_predictor(
    config: PredictorConfig,
    runs: Sequence[Trajectory],
    *,
    callbacks: Sequence[Callback] = (),
    resume: Resume | Path | None = None,
) -> TrainedPredictor:
    """Return a predictor trained on the training runs of the configured split.

    Args:
        config: section `predictor:`.
        runs: all recorded runs, of one network or, except for `transformer_pca`, of several.
        callbacks: of the training.
        resume: folder for the state of an interrupted training.

    Raises:
        ConfigError: if the split or the held-out runs leave nothing to train or test on.
        DataError: if a trajectory is shorter than one window.
    """
    plan = make_plan(config, runs)
    config = reachable(config, plan)
    known = [learned(config, run) for run in plan.training]
    forecaster = LearnedForecaster(config, callbacks, resume)
    forecaster.fit(known, [later(config, run) for run in plan.validation])
    facts = {
        "kind": config.kind,
        "split": config.split,
        "stride": config.stride,
        "train_split": config.train_split,
        "dataset": _all(run.manifest.dataset for run in plan.training),
        "network": _all(run.manifest.network_name for run in plan.training),
        "optimizer": _all(run.manifest.optimizer for run in plan.training),
        "training_runs": [run.name for run in plan.training],
        "validation_runs": [run.name for run in plan.validation],
        "held_out_runs": [run.name for run in plan.held_out],
        "snapshots": sum(len(run.weights) for run in known),
        "windows": sum(len(windows.last) for run in known for windows in run.windows),
        **forecaster.facts,
    }
    return TrainedPredictor(forecaster.model, forecaster.history, facts)


def _all(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def training_report(trained: TrainedPredictor) -> dict[str, float]:
    """Return the metrics of metrics/predictor.json: size of the training data and training fit."""
    counts = {name: float(value) for name, value in trained.facts.items() if name in COUNTS}
    best = trained.history.best
    return {
        **counts,
        "best_epoch": float(best["epoch"]),
        **{name: best[name] for name in _skills(best)},
    }


def training_summary_line(trained: TrainedPredictor) -> str:
    """Return a summary of the training in one line."""
    facts = trained.facts
    source = f"{facts['windows']:,} windows of {len(facts['training_runs'])} runs"
    if "components" in facts:
        rank = f"PCA with {facts['components']} components" if facts["components"] else "whole vectors"
        source += f", {rank} ({facts['snapshots']} snapshots, numerical rank {facts['numerical_rank']})"
    best = trained.history.best
    skills = ", ".join(f"{name.removesuffix('_skill')} skill {best[name]:+.3f}" for name in _skills(best))
    return f"{facts['kind']}: {source}, {skills}"


def _skills(row: Mapping[str, float | int]) -> list[str]:
    return [name for name, value in row.items() if name.endswith("_skill") and math.isfinite(value)]


def save_predictor(folder: Path, trained: TrainedPredictor) -> None:
    """Write a predictor with the facts of its training; `load_predictor` reads it."""
    save_model(folder, trained.model, extra={"training": trained.facts})


def load_predictor(folder: Path) -> WeightPredictor:
    """Return the predictor in a folder.

    Raises:
        ModelError: if it is missing, altered or not a weight predictor.
    """
    return load_model(folder, WeightPredictor)
