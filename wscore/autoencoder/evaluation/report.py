"""Metrics and tables from the results of `evaluate`."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from wscore.autoencoder.evaluation.evaluate import OURS, AutoencoderResults, MetricAccumulator
from wscore.autoencoder.evaluation.fidelity import COLUMNS, intervals, summarise
from wscore.evaluation.config import EvaluateConfig

KEYS = ["model_id", "run_id", "checkpoint", "family"]
FAMILY_METRICS = (
    "accuracy_original", "accuracy", "accuracy_change", "agreement", "kl", "kl_median", "rank_correlation",
)  # fmt: skip
FAMILY_WEIGHTS = ("r2", "normalised_r2", "cosine", "relative_error", "diversity", "nearest_training_distance")


def autoencoder_report(results: AutoencoderResults, config: EvaluateConfig) -> dict[str, Any]:
    """Return counts, then all metrics by method, by family and by kind of tensor (`metrics/autoencoder_test.json`).

    Function metrics are over the networks that can be run; they are omitted if there are none, see
    `networks_not_run`.
    """
    every, run = _of(results.networks, OURS), _runnable(results)
    counts = {
        "networks": float(len(every)),
        "runs": float(len(set(every["run_id"]))),
        "networks_not_run": float(len(every) - len(_of(run, OURS))),
    }
    methods = {name: tally.summary() | _function(_of(run, name), config) for name, tally in results.tallies.items()}
    families = {
        str(family): {name: _short(_of(part, name), tally) for name, tally in results.families[str(family)].items()}
        for family, part in run.groupby("family", sort=True)
    }
    return {**counts, **methods, "families": families, "kinds": results.tallies[OURS].raw.by_kind()}


def autoencoder_summary_line(report: Mapping[str, Any]) -> str:
    """Return a one-line summary of a report."""
    ours = report[OURS]
    size = f"{report['networks']:,.0f} held-out networks reconstructed from {ours['stored_floats'] - 1:,.0f} numbers"
    if "agreement" not in ours:
        return f"{size}: R2 {ours['r2']:.3f}; none could be run, since their architecture is unknown"
    rivals = {"PCA": "pca", "PCA per layout": "layout_pca", "mean network": "mean_network"}
    text = ", ".join(f"{name} {report[key]['agreement']:.3f}" for name, key in rivals.items())
    return f"{size}: agreement {ours['agreement']:.3f} ({text}), R2 {ours['r2']:.3f}"


def autoencoder_tables(results: AutoencoderResults) -> dict[str, pd.DataFrame]:
    """Return the tables that are saved and plotted, by name."""
    return {
        "accuracy": accuracy_table(results),
        "agreement": agreement_table(results),
        "errors": error_table(results),
    }


def accuracy_table(results: AutoencoderResults) -> pd.DataFrame:
    """Return one row per network that was run: ids, family, original accuracy (`original`) and that of each method."""
    run = _runnable(results)
    table = _of(run, OURS)[[*KEYS, "accuracy_original"]].set_axis([*KEYS, "original"], axis=1).reset_index(drop=True)
    return table.assign(**_by_method(results, run, lambda rows: rows["accuracy"].to_numpy())).sort_values(by=KEYS)


def agreement_table(results: AutoencoderResults) -> pd.DataFrame:
    """Return one row for all networks, then one per family: family, networks and the mean agreement of each method."""
    run = _runnable(results)
    parts = {"all": run, **{str(family): part for family, part in run.groupby("family", sort=True)}} if len(run) else {}
    rows = [
        {"family": family, "networks": len(_of(part, OURS))}
        | _by_method(results, part, lambda rows: float(rows["agreement"].to_numpy(float).mean()))
        for family, part in parts.items()
    ]
    return pd.DataFrame(rows, columns=["family", "networks", *results.tallies])


def error_table(results: AutoencoderResults) -> pd.DataFrame:
    """Return one row for all tensors, then one per kind: kind and the relative error of each method (raw units)."""
    errors = {name: {"all": tally.raw.overall(), **tally.raw.by_kind()} for name, tally in results.tallies.items()}
    kinds = list(errors[OURS])
    columns = {name: [by_kind[kind]["relative_error"] for kind in kinds] for name, by_kind in errors.items()}
    return pd.DataFrame({"kind": kinds} | columns)


def _runnable(results: AutoencoderResults) -> pd.DataFrame:
    return results.networks.dropna(subset=list(COLUMNS))


def _of(table: pd.DataFrame, method: str) -> pd.DataFrame:
    return pd.DataFrame(table[table["method"] == method])


def _by_method(results: AutoencoderResults, run: pd.DataFrame, take: Callable[[pd.DataFrame], Any]) -> dict[str, Any]:
    return {name: take(_of(run, name)) for name in results.tallies}


def _function(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, float]:
    if rows.empty:
        return {}
    return summarise(rows) | intervals(rows, samples=config.bootstrap_samples, seed=config.seed)


def _short(rows: pd.DataFrame, tally: MetricAccumulator) -> dict[str, float]:
    function, weights = summarise(rows), tally.summary()
    return (
        {"networks": float(len(rows))}
        | {name: function[name] for name in FAMILY_METRICS}
        | {name: weights[name] for name in (*FAMILY_WEIGHTS, "compression_ratio") if name in weights}
    )
