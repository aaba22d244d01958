"""Metrics and tables from the rows of `evaluate_codec`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wscore.autoencoder.evaluation.codec_methods import SEARCH, SINGLE_PASS
from wscore.autoencoder.evaluation.evaluate_codec import TEST, EvaluateCodecConfig
from wscore.autoencoder.evaluation.fidelity import COLUMNS, intervals, summarise
from wscore.zoo.splits import UNSEEN

FAMILY_METRICS = ("agreement", "accuracy_change")


def codec_report(
    rows: pd.DataFrame, codec: Path, ratios: Sequence[float], config: EvaluateCodecConfig
) -> dict[str, Any]:
    """Return counts, the size of the codec, then all metrics by ratio and method (`metrics/codec_test.json`).

    Function metrics are over the networks that can be run; they are omitted if there are none. `unseen` has the same for
    networks of widths that no fit saw, if the zoo has any.

    Args:
        rows: of `evaluate_codec`.
        codec: folder of the codec.
        ratios: that were asked.
        config: section `evaluate_codec`.
    """
    size = float(sum(path.stat().st_size for path in codec.iterdir()))
    splits = {split: pd.DataFrame(rows[rows["split"] == split]) for split in (TEST, UNSEEN)}
    report = {"headline": config.ratios[0], "decoder_bytes": size} | _split_report(splits[TEST], ratios, config, size)
    if len(splits[UNSEEN]):
        report[UNSEEN] = _split_report(splits[UNSEEN], ratios, config, size)
    return report


def at(ratio: float) -> str:
    """Return the name of a ratio in metrics.

    >>> at(20.0), at(10.3)
    ('20x', '10.3x')
    """
    return f"{ratio:g}x"


def codec_summary_line(report: Mapping[str, Any]) -> str:
    """Return a one-line summary of a report."""
    names = [name for name, part in report.items() if isinstance(part, dict) and SINGLE_PASS in part]
    size = f"{report['networks']:,.0f} held-out networks, codec of {report['decoder_bytes'] / 1000:,.0f} kB"
    parts = []
    for name in names:
        methods = report[name]
        metric = "agreement" if SEARCH in methods else "r2"
        values = [f"{key} {methods[key][metric]:.3f}" for key in (SEARCH, SINGLE_PASS, "own_search", "curvature", "plain")
                  if metric in methods.get(key, {})]  # fmt: skip
        parts.append(f"{metric} at {name}: {', '.join(values)}")
    return "; ".join([size, *parts])


def codec_tables(rows: pd.DataFrame, config: EvaluateCodecConfig) -> dict[str, pd.DataFrame]:
    """Return the tables that are saved and plotted, by name: every row, and the agreement by ratio, by family and unseen."""
    run = pd.DataFrame(rows.dropna(subset=list(COLUMNS)))
    test = pd.DataFrame(run[run["split"] == TEST])
    return {
        "networks": rows,
        "rates": rate_table(test, config.bootstrap_samples, config.seed),
        "agreement": _wide(test, ["ratio"]).reset_index(),
        "families": _wide(test, ["ratio", "family"]).reset_index(),
        "unseen": _wide(run, ["ratio", "split"]).reset_index(),
    }


def rate_table(run: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Return one row per ratio and method: networks, compression reached, and the function metrics with intervals over runs."""
    found = [
        {"ratio": ratio, "method": method} | method_metrics(pd.DataFrame(part), samples, seed)
        for (ratio, method), part in run.groupby(["ratio", "method"], sort=False)  # pyright: ignore
    ]
    return pd.DataFrame(found, columns=None if found else ["ratio", "method"])


def method_metrics(rows: pd.DataFrame, samples: int, seed: int) -> dict[str, float]:
    """Return sizes, errors of the weights and, where networks can be run, function metrics of one method at one ratio."""
    total = {name: float(rows[f"squared_{name}"].to_numpy().sum()) for name in ("error", "norm", "deviation")}
    sizes = {
        "networks": float(len(rows)),
        "bytes": float(rows["bytes"].to_numpy().mean()),
        "compression_ratio": float(4 * rows["weights"].to_numpy().sum() / rows["bytes"].to_numpy().sum()),
        "relative_error": math.sqrt(total["error"] / total["norm"]) if total["norm"] else 0.0,
        "r2": 1 - total["error"] / total["deviation"] if total["deviation"] else 1.0,
    }
    run = rows.dropna(subset=list(COLUMNS))
    return sizes | (summarise(run) | intervals(run, samples=samples, seed=seed) if len(run) else {})


def _split_report(
    rows: pd.DataFrame, ratios: Sequence[float], config: EvaluateCodecConfig, size: float
) -> dict[str, Any]:
    single = pd.DataFrame(rows[rows["method"] == SINGLE_PASS]).drop_duplicates(subset=["model_id"])
    found: dict[str, Any] = {
        "networks": float(len(single)),
        "runs": float(len(np.unique(single["run_id"].to_numpy(str)))),
        "networks_not_run": float(np.isnan(single["agreement"].to_numpy(float)).sum()),
    }
    for ratio in ratios:
        part = pd.DataFrame(rows[rows["ratio"] == ratio])
        if len(part):
            saved = 4 * float(part.drop_duplicates(subset=["model_id"])["weights"].to_numpy().mean()) * (1 - 1 / ratio)
            found[at(ratio)] = {"pays_from": float(math.ceil(size / saved))} | _by_method(part, config)
    found["families"] = {
        str(family): {
            at(float(str(ratio))): _agreements(pd.DataFrame(part)) for ratio, part in pd.DataFrame(own).groupby("ratio")
        }
        for family, own in rows.dropna(subset=list(COLUMNS)).groupby("family")
    }
    return found


def _by_method(rows: pd.DataFrame, config: EvaluateCodecConfig) -> dict[str, dict[str, float]]:
    return {
        str(method): method_metrics(pd.DataFrame(part), config.bootstrap_samples, config.seed)
        for method, part in rows.groupby("method", sort=False)
    }


def _agreements(rows: pd.DataFrame) -> dict[str, float]:
    """Return the mean agreement of each method."""
    return {
        str(method): float(part["agreement"].to_numpy(float).mean())
        for method, part in rows.groupby("method", sort=False)
    }


def _wide(rows: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    """Return the mean agreement, a row for each group and a column for each method."""
    return rows.pivot_table(index=groups, columns="method", values="agreement", sort=False)
