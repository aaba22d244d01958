"""Tables for the plots of property heads: points, ROC curves, predicted classes, and all scores."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from wscore.evaluation.bootstrap import bounds
from wscore.heads.evaluation.evaluate import OURS, HeadResults, Resamples, one_valued, raw_values, scores_of
from wscore.heads.evaluation.metrics import MAIN
from wscore.heads.targets import Binary, Continuous, Discrete

MOST = 12  # statistics listed per target
KEYS = ("model_id", "run_id", "checkpoint")


def heads_tables(results: HeadResults, resamples: Resamples) -> dict[str, pd.DataFrame]:
    """Return the non-empty tables of the results by name.

    Possible tables: `scores`, `points`, `roc`, `names` and `importance`.
    """
    tables = {
        "scores": score_table(results, resamples),
        **{name: function(results) for name, function in TABLES.items()},
    }
    return {name: table for name, table in tables.items() if len(table)}


def score_table(results: HeadResults, resamples: Resamples) -> pd.DataFrame:
    """Return target, method, metric, value, interval bounds, and `main`.

    `main` is 1 for the main metric of the target. The bounds `low` and `high` of the 95% interval over runs are missing
    without bootstrap samples.
    """
    mains = {target.name: MAIN[type(target)] for target in results.targets}
    rows = []
    for method, outputs in results.outputs.items():
        drawn = resamples.scores.get(method, {})
        for target, scores in scores_of(results, outputs).items():
            ends = bounds(drawn.get(target, {}))
            for metric, value in scores.items():
                row = {"target": target, "method": method, "metric": metric, "value": value}
                row |= {end: ends.get(f"{metric}_{end}", np.nan) for end in ("low", "high")}
                rows.append({**row, "main": int(metric == mains[target])})
    return pd.DataFrame(rows)


def point_table(results: HeadResults) -> pd.DataFrame:
    """Return ids, target, scale, the true value and the prediction of each method in raw units, for each known value."""
    parts = []
    for number, target in enumerate(results.targets):
        if isinstance(target, Continuous):
            pairs = {name: raw_values(results, target, results.outputs[name]) for name in results.outputs}
            values = {"true": pairs[OURS][0], **{name: predicted for name, (_, predicted) in pairs.items()}}
            keys = _keys(results, results.encoded.known[:, number])
            intervals = results.intervals.get(OURS, {})
            if target.name in intervals:
                predicted = results.outputs[OURS][target.name][results.encoded.known[:, number], 0]
                ends = intervals[target.name].bounds(predicted)
                values |= {name: target.restore(end) for name, end in zip(("low", "high"), ends, strict=True)}
            parts.append(keys.assign(target=target.name, scale=target.scale, **values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def roc_table(results: HeadResults) -> pd.DataFrame:
    """Return target, method, threshold, false and true positive rate of the labels that have both values."""
    parts, alike = [], one_valued(results)
    for number, target in enumerate(results.targets):
        if isinstance(target, Binary) and target.name not in alike:
            known = results.encoded.known[:, number]
            truth = results.encoded.values[known, number]
            for name in results.outputs:
                wrong, right, at = roc_curve(truth, results.outputs[name][target.name][known, 0])
                rates = {"false_positive_rate": wrong, "true_positive_rate": right, "threshold": np.minimum(at, 1.0)}
                parts.append(pd.DataFrame({"target": target.name, "method": name, **rates}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def name_table(results: HeadResults) -> pd.DataFrame:
    """Return ids, target, the true class and the prediction of each method, for each known class."""
    parts = []
    for number, target in enumerate(results.targets):
        if isinstance(target, Discrete):
            known = results.encoded.known[:, number]
            values = {"true": target.restore(results.encoded.values[known, number].astype(int))}
            for name in results.outputs:
                values[name] = target.restore(results.outputs[name][target.name][known].argmax(axis=1))
            parts.append(_keys(results, known).assign(target=target.name, **values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def importance_table(results: HeadResults) -> pd.DataFrame:
    """Return target, statistic and its share of the boosted-tree gain (weight statistics), `MOST` per target."""
    rows = [
        {"target": target, "statistic": name, "share": share}
        for target, shares in results.importance.items()
        for name, share in list(shares.items())[:MOST]
    ]
    return pd.DataFrame(rows)


TABLES: dict[str, Callable[[HeadResults], pd.DataFrame]] = {
    "points": point_table,
    "roc": roc_table,
    "names": name_table,
    "importance": importance_table,
}


def _keys(results: HeadResults, known: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(results.table.loc[known, list(KEYS)]).reset_index(drop=True)
