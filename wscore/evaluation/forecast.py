"""How good weight forecasts are: as weights and as networks, at every horizon, beside what needs no learning.

Three sets of windows are judged apart:

    temporal        the runs that were learned from, all targets after the split
    unseen_run      held-out runs, the same part of the training
    unseen_run_all  held-out runs from their beginning
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.evaluation.forecast_tables import OURS, TRUTH, Entry, Judged, Point
from wscore.forecasting.baselines import REMEMBERED, Baseline, baselines, fit_damping
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.gram import snapshot_grams, window_grams
from wscore.forecasting.networks import judge
from wscore.forecasting.pca import fit_pca
from wscore.forecasting.plan import Plan, learned, windows_between
from wscore.forecasting.sequences import split_point
from wscore.forecasting.snapshots import Trajectory
from wscore.models.predictor import WeightPredictor
from wscore.zoo.images import Images

Forecasts = dict[str, Float[Tensor, "horizon weights"]]


class Probe(NamedTuple):
    """Test images on which networks are run.

    Attributes:
        images: with values in [0, 1].
        labels: their classes.
    """

    images: Float[Tensor, "images channel height width"]
    labels: Int[Tensor, " images"]


def probe(images: Images, count: int) -> Probe:
    """Return `count` test images of a fixed draw, or all if there are fewer."""
    chosen = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(images.x_test))[:count]))
    return Probe(images.x_test[chosen], images.y_test[chosen])


def judge_forecasts(model: WeightPredictor, plan: Plan, config: PredictorConfig, probe: Probe) -> Judged:
    """Return the errors of all methods on all test windows.

    Every offset counts for the errors of weights; networks are run for windows that are a stride apart.

    Args:
        model: trained on this plan.
        plan: training and held-out runs.
        config: of the predictor.
        probe: images on which networks are run.
    """
    methods = {OURS: model.predict, **baselines(damping(plan, config), config.sequence_length)}
    entries: list[Entry] = []
    points: list[Point] = []
    for held_out, runs in ((False, plan.training), (True, plan.held_out)):
        for number, run in enumerate(runs):
            plane = _plane(run) if number == 0 else None
            points += [] if plane is None else _points(run, TRUTH, 0, 1, plane(run.weights))
            for last, later in _presents(config, run, everything=held_out):
                forecasts, history = forecast(methods, config, run, last)
                aligned = (last - split_point(len(run), config.train_split) + 1) % config.stride == 0
                scores = _scores(run, forecasts, probe) if aligned else {}
                head = {"run": run.name, "held_out": held_out, "last": last, "later": later}
                entries += _entries(head, forecasts, history[-1], scores)
                if plane is not None and aligned and later:
                    line = plane(torch.cat([history[-1:], forecasts[OURS]]).numpy())
                    points += _points(run, OURS, last, config.stride, line)
    return Judged(entries, points)


def damping(plan: Plan, config: PredictorConfig) -> float:
    """Return the coefficient of the damped line that fits the training windows at the forecast's stride best."""
    products, known = [], []
    for run in plan.training:
        material = learned(config, run)
        grams = snapshot_grams(material.weights, material.layout)
        for windows in material.windows:
            if windows.stride == config.stride:
                products.append(window_grams(grams, windows))
                known.append(torch.from_numpy(windows.known))
    return fit_damping(products, known, config.sequence_length - 1)


def forecast(
    methods: Mapping[str, Baseline], config: PredictorConfig, run: Trajectory, last: int
) -> tuple[Forecasts, Float[Tensor, "snapshot weights"]]:
    """Return the forecasts of all methods and the truth from snapshot `last` of a run, and the history they saw."""
    steps = range(min(max(REMEMBERED, config.sequence_length), last // config.stride + 1))
    history = torch.from_numpy(run.weights[[last - config.stride * step for step in reversed(steps)]])
    ahead = [last + config.stride * step for step in range(1, config.extrapolation_steps + 1)]
    found = {name: method(history, run.layout, len(ahead)) for name, method in methods.items()}
    return {**found, TRUTH: torch.from_numpy(run.weights[ahead])}, history


def _presents(config: PredictorConfig, run: Trajectory, *, everything: bool) -> Iterator[tuple[int, bool]]:
    """Yield the last known snapshot of each test window, and whether all its targets lie after the split."""
    split = split_point(len(run), config.train_split)
    later = {int(last) for last in windows_between(config, split, len(run)).last}
    chosen = windows_between(config, 1, len(run)).last if everything else sorted(later)
    yield from ((int(last), int(last) in later) for last in chosen)


def _entries(
    head: Mapping[str, Any], forecasts: Forecasts, last: Tensor, scores: Mapping[str, Sequence[tuple[float, float]]]
) -> Iterator[Entry]:
    truth = (forecasts[TRUTH] - last).double()  # (K, D)
    copied = truth.square().mean(1).tolist()
    for name, forecast in forecasts.items():
        change = (forecast - last).double()
        errors = (change - truth).square().mean(1).tolist()
        lengths = change.norm(dim=1) * truth.norm(dim=1)
        cosines = torch.where(lengths > 0, (change * truth).sum(1) / lengths, torch.nan).tolist()
        for step, (error, reference, cosine) in enumerate(zip(errors, copied, cosines, strict=True)):
            accuracy, loss = scores[name][step] if scores else (np.nan, np.nan)
            figures = {"mse": error, "copied": reference, "cosine": cosine, "accuracy": accuracy, "loss": loss}
            yield Entry(**head, horizon=step + 1, method=name, **figures)


def _scores(run: Trajectory, forecasts: Forecasts, probe: Probe) -> dict[str, list[tuple[float, float]]]:
    """Return accuracy and loss per method and horizon; equal forecasts are run once, unknown networks are not."""
    found, network = {}, run.manifest.network
    if network is None:
        return found
    for name, forecast in forecasts.items():
        same = bool((forecast[1:] == forecast[:1]).all())
        judged = judge(network, forecast[:1] if same else forecast, probe.images, probe.labels)
        pairs = list(zip(judged.accuracy.tolist(), judged.loss.tolist(), strict=True))
        found[name] = pairs * len(forecast) if same else pairs
    return found


def _plane(run: Trajectory) -> Callable[[Iterable[np.ndarray]], Tensor]:
    """Return the projection of weight vectors on the first two principal components of a run."""
    basis = fit_pca([run.weights], 2)
    return lambda rows: torch.stack([basis.components @ (torch.from_numpy(np.array(row)) - basis.mean) for row in rows])


def _points(run: Trajectory, series: str, start: int, stride: int, scores: Tensor) -> list[Point]:
    epochs = run.manifest.snapshots.epoch[start::stride]
    padded = torch.nn.functional.pad(scores, (0, max(0, 2 - scores.shape[1])))  # a run in a line has one component
    return [Point(run.name, series, start, epoch, x, y) for epoch, (x, y) in zip(epochs, padded.tolist(), strict=False)]
