"""Tables behind the plots of property heads: points, ROC curves, told names, and all scores."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from wscore.evaluation.heads import METHODS, OURS, Verdict, one_valued, raw_values, scores_of
from wscore.evaluation.property import MAIN
from wscore.training.targets import Binary, Continuous, Discrete

KEYS = ("model_id", "run_id", "checkpoint")


def tables(verdict: Verdict) -> dict[str, pd.DataFrame]:
    """Return the tables of a verdict by name (`scores`, `points`, `roc`, `names`), those that have no row left out."""
    found = {name: function(verdict) for name, function in TABLES.items()}
    return {name: table for name, table in found.items() if len(table)}


def score_table(verdict: Verdict) -> pd.DataFrame:
    """Return target, method, metric, value and `main` (1 for the one metric that stands for the target)."""
    mains = {target.name: MAIN[type(target)] for target in verdict.targets}
    rows = [
        {"target": target, "method": method, "metric": metric, "value": value, "main": int(metric == mains[target])}
        for method in METHODS
        for target, scores in scores_of(verdict, verdict.outputs[method]).items()
        for metric, value in scores.items()
    ]
    return pd.DataFrame(rows)


def point_table(verdict: Verdict) -> pd.DataFrame:
    """Return ids, target, scale, the true value and that of each method in raw units, for each known number."""
    parts = []
    for number, target in enumerate(verdict.targets):
        if isinstance(target, Continuous):
            pairs = {name: raw_values(verdict, target, verdict.outputs[name]) for name in METHODS}
            values = {"true": pairs[OURS][0], **{name: predicted for name, (_, predicted) in pairs.items()}}
            keys = _keys(verdict, verdict.encoded.known[:, number])
            parts.append(keys.assign(target=target.name, scale=target.scale, **values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def roc_table(verdict: Verdict) -> pd.DataFrame:
    """Return target, method, threshold, false and true positive rate of the labels that have both values."""
    parts, alike = [], one_valued(verdict)
    for number, target in enumerate(verdict.targets):
        if isinstance(target, Binary) and target.name not in alike:
            known = verdict.encoded.known[:, number]
            truth = verdict.encoded.values[known, number]
            for name in METHODS:
                wrong, right, at = roc_curve(truth, verdict.outputs[name][target.name][known, 0])
                rates = {"false_positive_rate": wrong, "true_positive_rate": right, "threshold": np.minimum(at, 1.0)}
                parts.append(pd.DataFrame({"target": target.name, "method": name, **rates}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def name_table(verdict: Verdict) -> pd.DataFrame:
    """Return ids, target, the true name and what each method says, for each known name."""
    parts = []
    for number, target in enumerate(verdict.targets):
        if isinstance(target, Discrete):
            known = verdict.encoded.known[:, number]
            values = {"true": target.restore(verdict.encoded.values[known, number].astype(int))}
            for name in METHODS:
                values[name] = target.restore(verdict.outputs[name][target.name][known].argmax(axis=1))
            parts.append(_keys(verdict, known).assign(target=target.name, **values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


TABLES: dict[str, Callable[[Verdict], pd.DataFrame]] = {
    "scores": score_table,
    "points": point_table,
    "roc": roc_table,
    "names": name_table,
}


def _keys(verdict: Verdict, known: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(verdict.table.loc[known, list(KEYS)]).reset_index(drop=True)
