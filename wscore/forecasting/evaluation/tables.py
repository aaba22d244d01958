"""Results of `evaluate_forecasts` as metrics, tables and a summary line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from wscore.forecasting.evaluation.recovery import Recovery

OURS, TRUTH = "ours", "truth"
NO_RIVALS = (OURS, TRUTH, "one_sample")
SOURCES = ("temporal", "unseen_run", "unseen_optimizer", "unseen_dataset")
METRICS = ("skill", "skill_sd", "mse", "cosine", "accuracy", "loss", "agreement")
NOTABLE = 0.1  # skill below which a run counts as not forecastable: 90% of the change is missed
TINY = 1e-30


class WindowKey(NamedTuple):
    """One tested window.

    Attributes:
        run: name of the run.
        optimizer: of the run.
        source: test set of the run: `temporal`, `unseen_run`, ..
        last: the last snapshot known.
        later: whether all targets of the window lie after the split.
    """

    run: str
    optimizer: str
    source: str
    last: int
    later: bool


class Entry(NamedTuple):
    """One method at one horizon of one window.

    Attributes:
        head: the window.
        horizon: steps ahead.
        method: `ours`, a baseline, or `truth`.
        mse: mean squared error of the weights.
        copied: MSE of copy-last.
        cosine: between forecast and true change; NaN where one is zero.
        accuracy: of the network with these weights; NaN where it was not evaluated.
        loss: cross-entropy in nats; NaN where it was not evaluated.
        agreement: share of the images with the same predicted class as the true later network; NaN where it was not
            evaluated.
    """

    head: WindowKey
    horizon: int
    method: str
    mse: float
    copied: float
    cosine: float
    accuracy: float
    loss: float
    agreement: float


class Coverage(NamedTuple):
    """Coverage of the forecast bands.

    Attributes:
        head: the window.
        horizon: steps ahead.
        covered: share of the true weights inside the bands.
        width: RMS width of the bands / RMS of the true change.
        aimed: nominal coverage.
    """

    head: WindowKey
    horizon: int
    covered: float
    width: float
    aimed: float


class Point(NamedTuple):
    """A snapshot or forecast in the plane of the run's first two principal components.

    Attributes:
        run: name of the run.
        series: `truth` or `ours`.
        start: the last snapshot known; 0 for the truth.
        epoch: of the snapshot.
        x: first score.
        y: second score.
    """

    run: str
    series: str
    start: int
    epoch: float
    x: float
    y: float


class ForecastResults(NamedTuple):
    """Raw results of the evaluation.

    Attributes:
        entries: one per window, horizon and method.
        points: of one run of each source.
        layers: (squared error, squared error of copy-last) by tensor, summed over windows, by (source, later, horizon,
            method).
        recoveries: forecasts after further steps of training.
        coverages: of the forecast bands, if there are any.
    """

    entries: list[Entry]
    points: list[Point]
    layers: dict[tuple[str, bool, int, str], dict[str, tuple[float, float]]]
    recoveries: list[Recovery]
    coverages: list[Coverage]


class Pooled(NamedTuple):
    """One method at one horizon, over all windows of a split.

    Attributes:
        split: set of windows.
        horizon: steps ahead.
        method: `ours`, a baseline, or `truth`.
        windows: their count.
        skill: 1 - sum of errors / sum of errors of copy-last.
        mse: mean squared error of the weights.
        cosine: mean cosine between forecast and true change; NaN without a forecast change.
        accuracy: mean over the evaluated networks; NaN if none was.
        loss: mean cross-entropy (nats).
        agreement: mean share of predicted classes equal to those of the true later network.
        skill_sd: standard deviation of the skill over runs; NaN for one run.
        skill_worst: lowest skill of a window.
        skill_positive: share of windows with positive skill.
    """

    split: str
    horizon: int
    method: str
    windows: int
    skill: float
    mse: float
    cosine: float
    accuracy: float
    loss: float
    agreement: float
    skill_sd: float
    skill_worst: float
    skill_positive: float


def pooled_metrics(results: ForecastResults) -> list[Pooled]:
    """Return the pooled metrics of every split, horizon and method."""
    return [
        _pooled(split, horizon, method, entries)
        for split, chosen in _entries_by_split(results).items()
        for (horizon, method), entries in _by_horizon_and_method(chosen).items()
    ]


def forecast_report(results: ForecastResults) -> dict[str, Any]:
    """Return the content of metrics/predictor_test.json, by split (`<split>_<optimizer>` where there are several).

    <split>.h<horizon>.<method>.<metric>; <split>.recovery.r<steps>.<method>.<metric> of forecasts
    `extrapolation_steps` ahead; <split>.tensors.<name>.h<horizon> skill of single tensors; <split>.bands.h<horizon>;
    and counts: `forecastable` is the number of horizons with positive skill, `skill_mean` the mean over all horizons.
    """
    report: dict[str, Any] = {}
    for row in pooled_metrics(results):
        split = report.setdefault(row.split, {"windows": 0.0, "skill_mean": 0.0, "forecastable": 0.0})
        split["windows"] = max(split["windows"], float(row.windows))
        figures = {name: getattr(row, name) for name in METRICS if np.isfinite(getattr(row, name))}
        split.setdefault(f"h{row.horizon}", {})[row.method] = figures
    for name, split in report.items():
        skills = [entries[OURS]["skill"] for entries in _horizons(split).values()]
        split |= {"skill_mean": float(np.mean(skills)), "forecastable": float(sum(skill > 0 for skill in skills))}
        split |= {key: metrics for key, metrics in _extras(results, name).items() if metrics}
    return report


def _extras(results: ForecastResults, split: str) -> dict[str, dict[str, Any]]:
    recovery: dict[str, Any] = {}
    rows = recoveries(results)
    for row in pd.DataFrame(rows[rows["split"] == split]).to_dict("records"):
        place = recovery.setdefault(f"r{row['steps']}", {})
        place[row["method"]] = {name: row[name] for name in ("accuracy", "loss", "loss_wins")}
    tensors: dict[str, Any] = {}
    for row in layers(results).to_dict("records"):
        if row["split"] == split and row["method"] == OURS:
            tensors.setdefault(row["tensor"].replace(".", "_"), {})[f"h{row['horizon']}"] = row["skill"]
    held = {
        f"h{row['horizon']}": {name: row[name] for name in ("covered", "width")}
        for row in bands(results).to_dict("records")
        if row["split"] == split
    }
    return {"recovery": recovery, "tensors": tensors, "bands": held}


def by_method(report: Mapping[str, Any], split: str) -> dict[str, dict[str, float]]:
    """Return the metrics of one split of a report by method, as `skill_1`, `accuracy_1`, .. (metric and horizon)."""
    methods: dict[str, dict[str, float]] = {}
    for key, entries in _horizons(report.get(split, {})).items():
        for method, figures in entries.items():
            methods.setdefault(method, {}).update({f"{name}_{key[1:]}": value for name, value in figures.items()})
    return methods


def forecast_summary_line(report: Mapping[str, Any]) -> str:
    """Return the skill at the first and last horizon of each split in one line, noting splits without skill."""
    return "; ".join(_split_summary(split, report[split]) for split in report if not split.endswith("_all"))


def forecast_tables(results: ForecastResults) -> dict[str, pd.DataFrame]:
    """Return the tables that are written and plotted, by name.

    `summary` has the fields of `Pooled`, `paths` those of `Point`; for `recovery`, `layers` and `bands` see the functions
    that make them; `skill_<split>`, `accuracy_<split>` and `loss_<split>` have a row per horizon and a
    column per method. Forecasts with bands add `bands`.
    """
    rows = pooled_metrics(results)
    tables = {"summary": pd.DataFrame(rows), "paths": pd.DataFrame(results.points)}
    tables |= {"recovery": recoveries(results), "layers": layers(results)}
    if results.coverages:
        tables["bands"] = bands(results)
    for split in dict.fromkeys(row.split for row in rows):
        chosen = [row for row in rows if row.split == split]
        for metric in ("skill", "accuracy", "loss"):
            tables[f"{metric}_{split}"] = pd.DataFrame(list(_wide(chosen, metric)))
    return tables


def recoveries(results: ForecastResults) -> pd.DataFrame:
    """Return a row per split, method and count of steps: windows, mean accuracy and loss, and `loss_wins`.

    `loss_wins` is the share of windows with a lower loss than copy-last after the same number of steps.
    """
    table = []
    for split in [name for name in _split_names(results) if any(_belongs(entry, name) for entry in results.recoveries)]:
        chosen = [entry for entry in results.recoveries if _belongs(entry, split)]
        copied = {(entry.run, entry.last, entry.steps): entry.loss for entry in chosen if entry.method == "copy_last"}
        for method, steps in dict.fromkeys((entry.method, entry.steps) for entry in chosen):
            rows = [entry for entry in chosen if (entry.method, entry.steps) == (method, steps)]
            wins = [entry.loss < copied[entry.run, entry.last, entry.steps] for entry in rows]
            accuracy, loss = (float(np.mean([getattr(entry, name) for entry in rows])) for name in ("accuracy", "loss"))
            table.append((split, method, steps, len(rows), accuracy, loss, float(np.mean(wins))))
    columns = ["split", "method", "steps", "windows", "accuracy", "loss", "loss_wins"]
    return pd.DataFrame(table, columns=pd.Index(columns))


def layers(results: ForecastResults) -> pd.DataFrame:
    """Return a row per split, method, horizon and tensor with its skill."""
    table = []
    for split in _split_names(results):
        if split.removesuffix("_all") not in SOURCES:
            continue
        sums: dict[tuple[str, int, str], np.ndarray] = {}
        for (source, later, horizon, method), tensors in results.layers.items():
            if source == split.removesuffix("_all") and (later or split.endswith("_all")):
                for tensor, pair in tensors.items():
                    key = (method, horizon, tensor)
                    sums[key] = sums.get(key, np.zeros(2)) + pair
        for (method, horizon, tensor), (error, copied) in sums.items():
            skill = 1 - float(error) / max(float(copied), TINY)
            table.append({"split": split, "method": method, "horizon": horizon, "tensor": tensor, "skill": skill})
    return pd.DataFrame(table, columns=pd.Index(["split", "method", "horizon", "tensor", "skill"]))


def bands(results: ForecastResults) -> pd.DataFrame:
    """Return a row per split and horizon: nominal and actual coverage and mean width of the bands."""
    columns = ["split", "horizon", "aimed", "covered", "width"]
    table = []
    for split in _split_names(results):
        for step in sorted({entry.horizon for entry in results.coverages}):
            chosen = [entry for entry in results.coverages if entry.horizon == step and _belongs(entry.head, split)]
            if chosen:
                means = (float(np.mean([getattr(entry, name) for entry in chosen])) for name in columns[2:])
                table.append((split, step, *means))
    return pd.DataFrame(table, columns=pd.Index(columns))


def _wide(rows: Sequence[Pooled], metric: str) -> Iterator[dict[str, Any]]:
    for horizon in dict.fromkeys(row.horizon for row in rows):
        yield {"horizon": horizon} | {row.method: getattr(row, metric) for row in rows if row.horizon == horizon}


def _entries_by_split(results: ForecastResults) -> dict[str, list[Entry]]:
    return {name: [entry for entry in results.entries if _belongs(entry.head, name)] for name in _split_names(results)}


def _split_names(results: ForecastResults) -> list[str]:
    """Return the sets of windows: per source the later ones, all of them if there are more, and both by optimiser."""
    heads = dict.fromkeys(entry.head for entry in results.entries)
    names = []
    for source in SOURCES:
        of_source = [head for head in heads if head.source == source]
        optimizers = list(dict.fromkeys(head.optimizer for head in of_source))
        kinds = ["", *(f"_{name}" for name in optimizers if len(optimizers) > 1)]
        parts = ["", "_all"] if any(not head.later for head in of_source) else [""]
        names += [source + kind + suffix for kind in kinds for suffix in parts if of_source]
    return names


def _belongs(head: WindowKey | Recovery, split: str) -> bool:
    whole = split.removesuffix("_all")
    names = (head.source, f"{head.source}_{head.optimizer}" if isinstance(head, WindowKey) else head.source)
    return whole in names and (head.later or split.endswith("_all"))


def _by_horizon_and_method(entries: Sequence[Entry]) -> dict[tuple[int, str], list[Entry]]:
    groups: dict[tuple[int, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.horizon):
        groups.setdefault((entry.horizon, entry.method), []).append(entry)
    return groups


def _pooled(split: str, horizon: int, method: str, entries: Sequence[Entry]) -> Pooled:
    errors, copied = (np.array([getattr(entry, name) for entry in entries]) for name in ("mse", "copied"))
    windows = 1 - errors / np.maximum(copied, TINY)
    runs = np.array([entry.head.run for entry in entries])
    each = [_skill(errors[runs == run], copied[runs == run]) for run in dict.fromkeys(runs)]
    return Pooled(
        split=split,
        horizon=horizon,
        method=method,
        windows=len(entries),
        skill=_skill(errors, copied),
        mse=float(errors.mean()),
        cosine=_mean(entries, "cosine"),
        accuracy=_mean(entries, "accuracy"),
        loss=_mean(entries, "loss"),
        agreement=_mean(entries, "agreement"),
        skill_sd=float(np.std(each, ddof=1)) if len(each) > 1 else float("nan"),
        skill_worst=float(windows.min()),
        skill_positive=float((windows > 0).mean()),
    )


def _skill(errors: np.ndarray, copied: np.ndarray) -> float:
    return 1 - float(errors.sum()) / max(float(copied.sum()), TINY)


def _mean(entries: Sequence[Entry], name: str) -> float:
    values = np.array([getattr(entry, name) for entry in entries])
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _horizons(split: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {key: value for key, value in split.items() if key[0] == "h" and key[1:].isdigit()}


def _split_summary(split: str, report: Mapping[str, Any]) -> str:
    horizons = _horizons(report)
    steps = near_steps(_step(key) for key in horizons)
    first, last = steps[0], steps[-1]
    near, far = f"h{first}", f"h{last}"
    figures = f"{horizons[near][OURS]['skill']:+.3f} / {horizons[far][OURS]['skill']:+.3f}"
    text = f"{split.replace('_', ' ')}: skill {figures} at {near[1:]} / {far[1:]} steps"
    rivals = [
        (value["skill"], name, _step(key))
        for key, entries in horizons.items()
        for name, value in entries.items()
        if name not in NO_RIVALS
    ]
    if max(entries[OURS]["skill"] for entries in horizons.values()) < NOTABLE:
        skill, name, step = max(rivals)
        if skill < NOTABLE:
            return f"{text}, not forecastable here"
        return f"{text}, no skill, but {name.replace('_', ' ')} has {skill:+.3f} at {step}"
    skill, name, _ = max(rival for rival in rivals if rival[2] == last)
    return f"{text} (best baseline {skill:+.3f}, {name.replace('_', ' ')})"


def near_steps(steps: Iterable[int]) -> list[int]:
    """Return the consecutive horizons, without the far step."""
    rising = sorted(steps)
    return [step for number, step in enumerate(rising) if step == rising[0] + number]


def _step(key: str) -> int:
    return int(key[1:])
