"""What `judge_forecasts` found out, as metrics, tables and one line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

OURS, TRUTH = "ours", "truth"
SPLITS = ("temporal", "unseen_run", "unseen_run_all")
METRICS = ("skill", "mse", "cosine", "accuracy", "loss")
TINY = 1e-30


class Entry(NamedTuple):
    """One method at one horizon of one window.

    Attributes:
        run: name of the run.
        held_out: whether nothing of it was learned from.
        last: the last snapshot known.
        later: whether all targets of the window lie after the split.
        horizon: steps ahead.
        method: `ours`, a baseline, or `truth`.
        mse: mean squared error of the weights.
        copied: that of copy-last.
        cosine: between forecast and true change; NaN where one is zero.
        accuracy: of the network with these weights; NaN where it was not run.
        loss: likewise (nats).
    """

    run: str
    held_out: bool
    last: int
    later: bool
    horizon: int
    method: str
    mse: float
    copied: float
    cosine: float
    accuracy: float
    loss: float


class Point(NamedTuple):
    """A snapshot or forecast in the plane of a run's own first two principal components.

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


class Judged(NamedTuple):
    """What was found out.

    Attributes:
        entries: one per window, horizon and method.
        points: of one trained and one held-out run.
    """

    entries: list[Entry]
    points: list[Point]


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
        accuracy: mean over the networks that were run; NaN if none was.
        loss: likewise (nats).
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
    skill_sd: float
    skill_worst: float
    skill_positive: float


def summary(judged: Judged) -> list[Pooled]:
    """Return the pooled figures of every split, horizon and method."""
    return [
        _pooled(split, horizon, method, entries)
        for split, part in _splits(judged.entries).items()
        for (horizon, method), entries in _groups(part).items()
    ]


def report(judged: Judged) -> dict[str, Any]:
    """Return the content of metrics/predictor_test.json: <split>.h<horizon>.<method>.<metric>, and a few counts.

    `forecastable` counts the horizons of a split at which the predictor has positive skill; `skill_mean` is
    over them all.
    """
    found: dict[str, Any] = {}
    for row in summary(judged):
        split = found.setdefault(row.split, {"windows": float(row.windows), "skill_mean": 0.0, "forecastable": 0.0})
        figures = {name: getattr(row, name) for name in METRICS if np.isfinite(getattr(row, name))}
        split.setdefault(f"h{row.horizon}", {})[row.method] = figures
    for split in found.values():
        skills = [entries[OURS]["skill"] for entries in _horizons(split).values()]
        split |= {"skill_mean": float(np.mean(skills)), "forecastable": float(sum(skill > 0 for skill in skills))}
    return found


def by_method(found: Mapping[str, Any], split: str) -> dict[str, dict[str, float]]:
    """Return the figures of one split of a report by method, as `skill_1`, `accuracy_1`, .. (metric and horizon)."""
    methods: dict[str, dict[str, float]] = {}
    for key, entries in _horizons(found.get(split, {})).items():
        for method, figures in entries.items():
            methods.setdefault(method, {}).update({f"{name}_{key[1:]}": value for name, value in figures.items()})
    return methods


def sentence(found: Mapping[str, Any]) -> str:
    """Return the skill at the first and the last horizon of each split in one line, with a verdict if it has none."""
    return "; ".join(_verdict(split, found[split]) for split in SPLITS if split in found)


def tables(judged: Judged) -> dict[str, pd.DataFrame]:
    """Return the tables that are kept and drawn, by name.

    `summary` has the fields of `Pooled`, `paths` those of `Point`; `skill_<split>`, `accuracy_<split>` and
    `loss_<split>` have a row per horizon and a column per method.
    """
    rows = summary(judged)
    found = {"summary": pd.DataFrame(rows), "paths": pd.DataFrame(judged.points)}
    for split in dict.fromkeys(row.split for row in rows):
        part = [row for row in rows if row.split == split]
        for metric in ("skill", "accuracy", "loss"):
            found[f"{metric}_{split}"] = pd.DataFrame(list(_wide(part, metric)))
    return found


def _wide(rows: Sequence[Pooled], metric: str) -> Iterator[dict[str, Any]]:
    for horizon in dict.fromkeys(row.horizon for row in rows):
        yield {"horizon": horizon} | {row.method: getattr(row, metric) for row in rows if row.horizon == horizon}


def _splits(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    parts = {
        "temporal": [entry for entry in entries if not entry.held_out],
        "unseen_run": [entry for entry in entries if entry.held_out and entry.later],
        "unseen_run_all": [entry for entry in entries if entry.held_out],
    }
    return {name: part for name, part in parts.items() if part}


def _groups(entries: Sequence[Entry]) -> dict[tuple[int, str], list[Entry]]:
    groups: dict[tuple[int, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.horizon):
        groups.setdefault((entry.horizon, entry.method), []).append(entry)
    return groups


def _pooled(split: str, horizon: int, method: str, entries: Sequence[Entry]) -> Pooled:
    errors, copied = (np.array([getattr(entry, name) for entry in entries]) for name in ("mse", "copied"))
    windows = 1 - errors / np.maximum(copied, TINY)
    runs = np.array([entry.run for entry in entries])
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
    return {key: value for key, value in split.items() if isinstance(value, Mapping)}


def _verdict(split: str, found: Mapping[str, Any]) -> str:
    horizons = _horizons(found)
    (first, near), *_, (last, far) = (*horizons.items(), *horizons.items())
    steps = f"{first[1:]} / {last[1:]} steps"
    figures = f"{split.replace('_', ' ')}: skill {near[OURS]['skill']:+.3f} / {far[OURS]['skill']:+.3f} at {steps}"
    if found["forecastable"] == 0:
        return f"{figures}, not forecastable here"
    best = max((value["skill"], name) for name, value in far.items() if name not in (OURS, TRUTH))
    return f"{figures} (best baseline {best[0]:+.3f}, {best[1].replace('_', ' ')})"
