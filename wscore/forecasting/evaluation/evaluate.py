"""Evaluation of weight forecasts, as weights and as networks, at every horizon, next to the baselines.

Each run belongs to one test set, and is evaluated on its late windows and on all windows:

    temporal           training runs, all targets after the split
    unseen_run         held-out runs, the same part of the training     unseen_run_all        from their beginning
    unseen_optimizer   optimisers held out of training, same part       unseen_optimizer_all
    unseen_dataset     data sets held out of training, same part        unseen_dataset_all
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.evaluation.baselines import REMEMBERED, fit_baselines
from wscore.forecasting.evaluation.config import ForecastConfig
from wscore.forecasting.evaluation.recovery import ProbeScore, Recovery, RecoveryImages, recover, score_all
from wscore.forecasting.evaluation.tables import OURS, TRUTH, Coverage, Entry, ForecastResults, Point, WindowKey
from wscore.forecasting.models.per_weight import DiffusionPredictor
from wscore.forecasting.models.predictors import Steps, WeightPredictor
from wscore.forecasting.pca import fit_snapshot_pca
from wscore.forecasting.sequences import split_point
from wscore.forecasting.splits import RunSplit, learned, windows_between
from wscore.forecasting.trajectories.store import Trajectory
from wscore.networks.layout import Layout

Snapshots = Float[Tensor, "snapshot weights"]
Method = Callable[[Snapshots, Layout, Steps], Float[Tensor, "horizon weights"]]
Forecasts = dict[str, Float[Tensor, "horizon weights"]]
RECOVERED = (OURS, "copy_last", "linear", "lawa", "ema", TRUTH)
SAMPLE = "one_sample"


class Present(NamedTuple):
    """The last known snapshot of a tested window.

    Attributes:
        last: its index.
        later: whether all targets lie after the split.
        scored: whether the forecast networks are evaluated.
    """

    last: int
    later: bool
    scored: bool


def evaluate_forecasts(
    model: WeightPredictor,
    plan: RunSplit,
    config: PredictorConfig,
    probes: Sequence[RecoveryImages],
    settings: ForecastConfig,
) -> ForecastResults:
    """Return the errors of all methods on all test windows.

    Args:
        model: trained on this plan.
        plan: split of the runs.
        config: of the predictor.
        probes: evaluation images of each available data set.
        settings: section `forecast:`.
    """
    methods = all_methods(model, plan, config)
    results = ForecastResults([], [], {}, [], [])
    for source, runs in plan.tested.items():
        if source == "temporal" and config.split == "run":
            continue  # no part of these runs is held out
        for number, run in enumerate(runs):
            evaluation = _RunEvaluation(methods, model, config, probes, settings, results, run, source)
            evaluation.all_windows(drawn=number == 0)
    return results


def all_methods(model: WeightPredictor, plan: RunSplit, config: PredictorConfig) -> dict[str, Method]:
    """Return the model and all baselines by name, the latter fitted on the model's training windows."""
    known = [learned(config, run) for run in plan.training]
    methods: dict[str, Method] = {OURS: model.predict}
    if isinstance(model, DiffusionPredictor):
        methods[SAMPLE] = lambda history, layout, steps: model.sample(history, layout, steps, 1)[0]
    return methods | {name: method.predict for name, method in fit_baselines(config, known).items()}


def forecast_window(
    methods: Mapping[str, Method], config: PredictorConfig, run: Trajectory, last: int
) -> tuple[Forecasts, Snapshots, list[int]]:
    """Return the forecasts of all methods and the truth from snapshot `last` of a run, and the history they used.

    The third element holds the horizons: those of the configuration that lie within the run.
    """
    back = range(min(max(REMEMBERED, config.gram().reach), last // config.stride + 1))
    history = torch.from_numpy(run.weights[[last - config.stride * step for step in reversed(back)]])
    steps = [step for step in config.steps if last + config.stride * step < len(run)]
    forecasts = {name: method(history, run.layout, steps) for name, method in methods.items()}
    truth = torch.from_numpy(run.weights[[last + config.stride * step for step in steps]])
    return {**forecasts, TRUTH: truth}, history, steps


def presents(config: PredictorConfig, settings: ForecastConfig, run: Trajectory, source: str) -> list[Present]:
    """Return the tested windows of a run: its late ones and, for held-out runs, some earlier ones too."""
    split = split_point(len(run), config.train_split)
    later = windows_between(config, split, len(run)).last[:: settings.window_step].tolist()
    every = [] if source == "temporal" else windows_between(config, 1, len(run)).last.tolist()
    earlier = [last for last in every if last < later[0]][:: max(config.stride, settings.window_step)]
    scored = {*_evenly_spaced(later, settings.scored_windows), *_evenly_spaced(earlier, settings.scored_windows)}
    return [Present(last, last >= later[0], last in scored) for last in (*earlier, *later)]


class _RunEvaluation:
    """Evaluation of one run."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        model: WeightPredictor,
        config: PredictorConfig,
        probes: Sequence[RecoveryImages],
        settings: ForecastConfig,
        results: ForecastResults,
        run: Trajectory,
        source: str,
    ) -> None:
        self.methods, self.model, self.config, self.settings = methods, model, config, settings
        self.results, self.run, self.source = results, run, source
        self.probe = next((probe for probe in probes if probe.fits(run.manifest)), None)

    def all_windows(self, *, drawn: bool) -> None:
        """Evaluate every window; with `drawn`, also keep the trajectory in its PCA plane."""
        plane = _plane(self.run) if drawn else None
        split = split_point(len(self.run), self.config.train_split)
        if plane is not None:
            self.results.points.extend(_points(self.run, TRUTH, 0, range(len(self.run)), plane(self.run.weights)))
        for present in presents(self.config, self.settings, self.run, self.source):
            forecasts, history, steps = forecast_window(self.methods, self.config, self.run, present.last)
            head = WindowKey(self.run.name, self.run.manifest.optimizer, self.source, present.last, present.later)
            probe = self.probe if present.scored else None
            scores = score_all(self.run, forecasts, probe) if probe else {}
            self._entries(head, forecasts, history[-1], steps, scores)
            if probe:
                self._recoveries(head, forecasts, scores, steps, probe)
            if present.scored:
                self._coverages(head, history, forecasts[TRUTH], steps)
            if plane is not None and present.later and (present.last - split + 1) % self.config.stride == 0:
                line = plane(torch.cat([history[-1:], forecasts[OURS]]).numpy())
                numbers = [present.last + self.config.stride * step for step in (0, *steps)]
                self.results.points.extend(_points(self.run, OURS, present.last, numbers, line))

    def _entries(
        self,
        head: WindowKey,
        forecasts: Forecasts,
        last: Tensor,
        steps: list[int],
        scores: Mapping[str, list[ProbeScore]],
    ) -> None:
        truth = (forecasts[TRUTH] - last).double()  # (K, D)
        copied = self._by_tensor(truth)  # (K, L)
        for name, forecast in forecasts.items():
            change = (forecast - last).double()
            errors = self._by_tensor(change - truth)
            lengths = change.norm(dim=1) * truth.norm(dim=1)
            cosines = torch.where(lengths > 0, (change * truth).sum(1) / lengths, torch.nan).tolist()
            for number, step in enumerate(steps):
                score = scores[name][number] if scores else ProbeScore(np.nan, np.nan, torch.empty(0))
                same = float((score.classes == scores[TRUTH][number].classes).double().mean()) if scores else np.nan
                figures = (errors[number].sum(), copied[number].sum())
                mse, reference = (float(value) / truth.shape[1] for value in figures)
                self.results.entries.append(
                    Entry(head, step, name, mse, reference, cosines[number], score.accuracy, score.loss, same)
                )
                sums = self.results.layers.setdefault((head.source, head.later, step, name), {})
                for spec, error, reference in zip(self.run.layout.tensors, errors[number], copied[number], strict=True):
                    before = sums.get(spec.name, (0.0, 0.0))
                    sums[spec.name] = (before[0] + float(error), before[1] + float(reference))

    def _by_tensor(self, vectors: Tensor) -> np.ndarray:
        """Return the squared norms of the tensors of some vectors."""
        return np.add.reduceat(vectors.square().numpy(), self.run.layout.offsets, axis=1)

    def _recoveries(
        self,
        head: WindowKey,
        forecasts: Forecasts,
        scores: Mapping[str, list[ProbeScore]],
        steps: list[int],
        probe: RecoveryImages,
    ) -> None:
        horizon = min(self.config.extrapolation_steps, steps[-1])
        number = steps.index(horizon)
        vectors = {name: forecasts[name][number] for name in RECOVERED}
        first = {name: scores[name][number] for name in RECOVERED}
        recovered = recover(self.run, vectors, first, head.last, probe, self.settings.recovery_steps)
        place = (head.run, head.source, head.last, head.later, horizon)
        self.results.recoveries.extend(
            Recovery(*place, name, count, score.accuracy, score.loss) for name, count, score in recovered
        )

    def _coverages(self, head: WindowKey, history: Tensor, truth: Tensor, steps: list[int]) -> None:
        if not isinstance(self.model, DiffusionPredictor):
            return
        bands = self.model.bands(history, self.run.layout, steps)
        inside = ((truth >= bands.low) & (truth <= bands.high)).double().mean(1)
        widths = (bands.high - bands.low).double().square().mean(1).sqrt()
        moved = (truth - history[-1]).double().square().mean(1).sqrt()
        for number, step in enumerate(steps):
            width = float(widths[number] / moved[number].clamp_min(1e-30))
            self.results.coverages.append(Coverage(head, step, float(inside[number]), width, self.config.band))


def _evenly_spaced(numbers: list[int], count: int) -> set[int]:
    """Return evenly spaced entries, including the first and the last one."""
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))) if numbers else np.empty(0)
    return {numbers[int(place)] for place in places.round()}


def _plane(run: Trajectory) -> Callable[[Iterable[np.ndarray]], Tensor]:
    """Return the projection of weight vectors on the first two principal components of a run."""
    basis = fit_snapshot_pca([run.weights], 2)
    return lambda rows: torch.stack([basis.components @ (torch.from_numpy(np.array(row)) - basis.mean) for row in rows])


def _points(run: Trajectory, series: str, start: int, numbers: Iterable[int], scores: Tensor) -> Iterator[Point]:
    epochs = run.manifest.snapshots.epoch
    padded = torch.nn.functional.pad(
        scores, (0, max(0, 2 - scores.shape[1]))
    )  # a straight trajectory has one component
    for number, (x, y) in zip(numbers, padded.tolist(), strict=True):
        yield Point(run.name, series, start, epochs[number], x, y)
