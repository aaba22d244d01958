"""Markdown tables of all results next to their baselines, and the headline metrics."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from wscore.forecasting.evaluation.tables import TRUTH, by_method, near_steps
from wscore.io import read_json

OURS, INFORMED = "ours", "informed"
VARIANTS = ("noise", "own_inputs", "single_pass", INFORMED, "linear_probe")  # of ours, not baselines
Better = Literal["higher", "lower", "neither"]
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
STAGES = {
    "zoo": "fetch_zoo",
    "tokens": "tokenize",
    "codec": "fit_codec",
    "codec_test": "evaluate_codec",
    "autoencoder": "train_autoencoder",
    "autoencoder_test": "evaluate_autoencoder",
    "encoder": "train_encoder",
    "heads_test": "evaluate_heads",
    "sae": "train_sae",
    "sae_test": "evaluate_sae",
    "base": "train_base",
    "predictor_test": "evaluate_predictor",
}
FEW_RUNS = 10
CODEC_CONTROLS = {
    "own_inputs": "ours, state dict alone",
    "single_pass": "ours, single pass",
    "own_search": "search without a zoo",
    "curvature": "own curvature (OBS)",
    "plain": "per tensor + range coder",
    "int8": "int8 weights",
    "int4": "int4 weights",
    "mean_network": "mean network",
}
CODEC_RIVALS = ("own_search", "curvature", "plain", "mean_network")
AUTOENCODER_CONTROLS = {
    "mean_network": "mean network",
    "pca": "PCA, same length",
    "layout_pca": "PCA per layout, same length",
    "codec_coordinates": "codec, as many coordinates",
    "latent_decoder": "weight encoder and its decoder",
    "typical_network": "a typical training network",
    "noise": "Gaussian noise of equal norm",
}
SPARSE_CONTROLS = {
    "mean_network": "mean network",
    "pca": "PCA, same rank",
    "kind_pca": "PCA per kind of row, same rank",
    "top_entries": "largest entries, same count",
}
HEAD_CONTROLS = {
    INFORMED: "wscore, architecture known",
    "mean": "mean or majority class",
    "shapes": "shapes only",
    "linear_probe": "linear probe on latents",
    "untrained": "linear probe, untrained encoder",
    "shuffled": "linear probe, shuffled labels",
    "pca": "linear probe on PCA",
    "hyperparameters": "hyperparameters",
    "probes": "probe outputs + boosting",
    "spectra": "spectra + boosting",
    "invariants": "statistics and spectra + boosting",
    "statistics": "weight statistics + boosting",
}
FORECAST_CONTROLS = {
    "copy_last": "copy last",
    "linear": "linear",
    "damped": "damped linear",
    "ridge_ar": "ridge AR per tensor",
    "online_ar1": "online AR(1)",
    "pca_ar": "PCA + AR",
    "lawa": "mean of last 3 (LAWA)",
    "ema": "EMA",
}
FORECASTS = {
    "temporal": "Weight forecast, later in the training runs",
    "unseen_run": "Weight forecast, unseen run",
    "unseen_optimizer": "Weight forecast, unseen optimizer",
    "unseen_dataset": "Weight forecast, unseen dataset",
}
FORECAST_METRICS = {"skill": "skill", "accuracy": "accuracy of the forecast network"}
TITLES = {
    "codec_test": "Weight codec",
    "autoencoder_test": "Autoencoder",
    "heads_test": "Heads",
    "sae_test": "Sparse dictionary",
    "predictor_test": "Weight forecast",
}


class Metric(NamedTuple):
    """One row of the table.

    Attributes:
        key: name of the metric in the JSON file.
        label: displayed name.
        better: direction of improvement.
        digits: decimals.
        headline: whether `dvc metrics diff` shows it.
    """

    key: str
    label: str
    better: Better
    digits: int = 3
    headline: bool = False


class Line(NamedTuple):
    """One metric with its values.

    Attributes:
        name: in the headline metrics.
        metric: description of the metric.
        values: by method; methods without a value are missing.
        interval: 95% bounds of ours, or None.
    """

    name: str
    metric: Metric
    values: Mapping[str, float]
    interval: tuple[float, float] | None


class TablePart(NamedTuple):
    """A part of the table with its own baselines.

    Attributes:
        name: in the headline figures.
        title: of the part.
        controls: label of each baseline, in order.
        rivals: baselines of equal size or information, with which ours is compared.
        lines: the rows; if empty, `note` gives the reason.
        note: remarks for the reader.
    """

    name: str
    title: str
    controls: Mapping[str, str]
    rivals: Sequence[str]
    lines: Sequence[Line]
    note: str


CODEC_METRICS = (
    Metric("agreement", "agreement with the original", "higher", headline=True),
    Metric("accuracy_change", "mean absolute accuracy change", "lower"),
    Metric("rank_correlation", "rank correlation of accuracies", "higher"),
    Metric("accuracy", "accuracy of the decompressed network", "neither"),
    Metric("kl_median", "output KL (nats), median", "lower"),
    Metric("relative_error", "relative error of the weights", "lower"),
    Metric("compression_ratio", "compression (bytes in float32 / bytes of the file)", "neither", 1, headline=True),
)
UNSEEN_METRICS = (Metric("agreement", "agreement, widths that no fit saw", "higher", headline=True),)
AUTOENCODER_METRICS = (
    Metric("agreement", "agreement with the original", "higher", headline=True),
    Metric("accuracy_change", "mean absolute accuracy change", "lower"),
    Metric("rank_correlation", "rank correlation of accuracies", "higher"),
    Metric("accuracy", "accuracy after rebuilding", "neither"),
    Metric("kl_median", "output KL (nats), median", "lower"),
    Metric("r2", "R² of the weights", "higher", headline=True),
    Metric("relative_error", "relative error of the weights", "lower"),
    Metric("cosine", "cosine of the weights", "higher"),
    Metric("diversity", "distance between networks (originals = 1)", "neither"),
    Metric("nearest_training_distance", "distance to the nearest training network (originals = 1)", "neither"),
    Metric("compression_ratio", "compression (weights per stored float)", "neither", 1),
)
SPARSE_METRICS = (
    Metric("fvu", "fraction of variance unexplained, rows", "lower", headline=True),
    Metric("accuracy", "accuracy after rebuilding from codes", "neither"),
    Metric("accuracy_recovered", "accuracy recovered", "higher"),
    Metric("agreement", "agreement with the original, from codes", "higher", headline=True),
    Metric("compression_ratio", "compression (weights per stored float), codes", "neither", 1),
)
HEAD_METRICS = {
    "patterns": (
        Metric("macro_f1", "building blocks, macro F1", "higher", headline=True),
        Metric(
            "macro_f1_not_shape_leaked", "building blocks that shapes do not reveal, macro F1", "higher", headline=True
        ),
    ),
    "accuracy": (
        Metric("r2", "accuracy, R²", "higher", headline=True),
        Metric("kendall_tau", "accuracy, Kendall's tau", "higher", headline=True),
    ),
    "hyperparameters": (
        Metric("continuous_r2", "numeric hyperparameters, mean R²", "higher", headline=True),
        Metric("discrete_accuracy", "categorical hyperparameters, mean accuracy", "higher", headline=True),
    ),
}


def gather(folder: Path) -> dict[str, Any]:
    """Return the content of every metrics file in a folder, below its single top-level key; None for missing files.

    Raises:
        DataError: if a file can't be read.
    """
    files = {name: Path(folder) / f"{name}.json" for name in STAGES}
    return {name: next(iter(read_json(file).values())) if file.is_file() else None for name, file in files.items()}


def sections(parts: Mapping[str, Any]) -> list[TablePart]:
    """Return the parts of the table from the result of `gather`; a missing file gives a part without rows and a note."""
    makers = {
        "codec_test": _codec, "autoencoder_test": _autoencoder, "heads_test": _heads, "sae_test": _sparse,
        "predictor_test": _forecasts,
    }  # fmt: skip
    made = [maker(parts[name]) if parts.get(name) else [_missing(name)] for name, maker in makers.items()]
    return [part for several in made for part in several]


def headline_values(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of ours and of the best rival for the main rows, by part; `missing_parts` counts missing files."""
    table = sections(parts)
    headlines = {part.name: _headline(part) for part in table if part.lines}
    return {"missing_parts": float(sum(value is None for value in parts.values()))} | headlines


def headline_markdown(parts: Mapping[str, Any]) -> str:
    """Return the headline values as one Markdown table."""
    lines = [(part, line) for part in sections(parts) for line in part.lines if line.metric.headline]
    rows = [["", "wscore", "best baseline"], ["---", "---:", "---:"]]
    for part, line in lines:
        ours, rival = line.values.get(OURS), best_of(line, part.rivals)
        best = (
            "" if rival is None else f"{format_number(line.values[rival], line.metric.digits)} {part.controls[rival]}"
        )
        label = f"{part.title}: {line.metric.label}{ARROWS[line.metric.better]}"
        rows.append([label, format_number(ours, line.metric.digits), best])
    return "\n".join([*map(markdown_row, rows), *(f"\n{line}" for line in _imprecise(parts))]) + "\n"


def table_markdown(parts: Mapping[str, Any]) -> str:
    """Return Markdown with one table per part: a row per metric, ours first, then the baselines of that part."""
    texts = [_table(part) for part in sections(parts)]
    legend = (
        "↑ higher is better, ↓ lower is better; **bold**: best of wscore and the baselines of equal size or information; "
        "[95% bootstrap interval over runs]."
    )
    missing = [
        f"`metrics/{name}.json` is missing: run `dvc repro {STAGES[name]}`." for name in STAGES if not parts.get(name)
    ]
    return "\n\n".join([*_imprecise(parts), *texts, *missing, legend]) + "\n"


def table_summary_line(parts: Mapping[str, Any]) -> str:
    """Return the first row of each part and the missing files in one line."""
    texts = []
    for part in sections(parts):
        for line in part.lines[:1]:
            rival = best_of(line, part.rivals)
            best = "n/a" if rival is None else format_number(line.values[rival], line.metric.digits)
            texts.append(
                f"{line.metric.label} {format_number(line.values.get(OURS), line.metric.digits)} (best baseline {best})"
            )
    missing = [name for name in STAGES if not parts.get(name)]
    return "; ".join([*texts, *([f"missing: {', '.join(missing)}"] if missing else []), *_imprecise(parts)])


def _imprecise(parts: Mapping[str, Any]) -> list[str]:
    """Return a warning if the test split of the zoo has few runs."""
    runs = (parts.get("tokens") or {}).get("runs_test", FEW_RUNS)
    return [f"Only {runs:.0f} test runs: figures on held-out networks are imprecise."] if runs < FEW_RUNS else []


def best_of(line: Line, methods: Iterable[str]) -> str | None:
    """Return the method with the best value, or None without values or a direction of improvement."""
    names = [name for name in methods if name in line.values]
    if not names or line.metric.better == "neither":
        return None
    pick = max if line.metric.better == "higher" else min
    return pick(names, key=lambda name: line.values[name])


def _codec(report: Mapping[str, Any]) -> list[TablePart]:
    """Return a part for each ratio, the headline first and without its ratio in the name."""
    headline = f"{report['headline']:g}x"
    ratios = sorted((name for name in report if name[0].isdigit()), key=lambda name: name != headline)
    return [_codec_part(report, ratio, "codec" if ratio == headline else f"codec_{ratio}") for ratio in ratios]


def _codec_part(report: Mapping[str, Any], ratio: str, name: str) -> TablePart:
    best = "search" if "search" in report[ratio] else "single_pass"
    methods, title = {OURS: report[ratio][best], **report[ratio]}, f"{TITLES['codec_test']} at {ratio}"
    controls = {key: label for key, label in CODEC_CONTROLS.items() if key in methods and key != best}
    lines = _lines(methods, CODEC_METRICS, controls, prefix="")
    unseen = report.get("unseen", {})
    if ratio in unseen:
        lines += _lines(
            {OURS: unseen[ratio].get(best, {}), **unseen[ratio]}, UNSEEN_METRICS, controls, prefix="unseen_"
        )
    note = (
        f"{title}: {report['networks']:,.0f} networks of {report['runs']:,.0f} runs"
        + (f", and {unseen['networks']:,.0f} of widths that no fit saw" if ratio in unseen else "")
        + f". The codec takes {report['decoder_bytes'] / 1000:,.0f} kB and pays from "
        f"{report[ratio]['pays_from']:,.0f} networks."
    )
    if report["networks_not_run"]:
        note += f" {report['networks_not_run']:,.0f} could not be run (unknown architecture or other input size)."
    return TablePart(name, title, controls, tuple(key for key in CODEC_RIVALS if key in controls), lines, note)


def _autoencoder(report: Mapping[str, Any]) -> list[TablePart]:
    note = (
        f"Autoencoder: {report['networks']:,.0f} networks of {report['runs']:,.0f} runs; mean accuracy of the originals "
        f"{format_number(report[OURS].get('accuracy_original'), 3)}. Weight metrics in raw units, R² relative to the mean "
        "network."
    )
    if report["networks_not_run"]:
        note += f" {report['networks_not_run']:,.0f} could not be run (unknown architecture or other input size)."
    controls = {name: label for name, label in AUTOENCODER_CONTROLS.items() if name in report}
    lines = _lines(report, AUTOENCODER_METRICS, controls, prefix="")
    rivals = tuple(name for name in controls if name not in VARIANTS)
    return [TablePart("autoencoder", TITLES["autoencoder_test"], controls, rivals, lines, note)]


def _heads(report: Mapping[str, Any]) -> list[TablePart]:
    lines = [
        line
        for task, result in report.items()
        for line in _lines(result, HEAD_METRICS.get(task, ()), HEAD_CONTROLS, prefix=f"{task}_")
    ]
    absent = [task for task in HEAD_METRICS if task not in report]
    note = f"Heads not trained (`heads.tasks`): {', '.join(absent)}." if absent else ""
    rivals = tuple(name for name in HEAD_CONTROLS if name not in VARIANTS)
    return [TablePart("heads", TITLES["heads_test"], HEAD_CONTROLS, rivals, lines, note)]


def _sparse(report: Mapping[str, Any]) -> list[TablePart]:
    codes, features = report["codes"], report["features"]
    note = (
        f"Sparse dictionary: {codes['l0']:.1f} of {codes['latents']:,.0f} latents active per row, "
        f"{codes['dead_fraction']:.1%} dead; of {features['alive']:,.0f} live features {features['discovered_all']:,.0f} "
        f"track a property of held-out networks (shuffled properties: {features['discovered_all_shuffled']:,.1f}), "
        f"{features['discovered_same_shapes']:,.0f} among networks of the same shapes "
        f"({features['discovered_same_shapes_shuffled']:,.1f})."
    )
    lines = _lines(report, SPARSE_METRICS, SPARSE_CONTROLS, prefix="")
    rivals = ("mean_network", "pca", "top_entries")
    return [TablePart("sparse_dictionary", TITLES["sae_test"], SPARSE_CONTROLS, rivals, lines, note)]


def _forecasts(report: Mapping[str, Any]) -> list[TablePart]:
    return [_forecast(report, split, title) for split, title in FORECASTS.items() if split in report]


def _forecast(report: Mapping[str, Any], split: str, title: str) -> TablePart:
    methods = by_method(report, split)
    every = [int(name[6:]) for name in methods[OURS] if name.startswith("skill_") and name[6:].isdigit()]
    horizons = near_steps(every)
    metrics = [
        Metric(f"{name}_{horizon}", f"{label}, {horizon} ahead", "higher", headline=name == "skill")
        for name, label in FORECAST_METRICS.items()
        for horizon in dict.fromkeys((horizons[0], horizons[-1]))
    ]
    truth = methods.get(TRUTH, {}).get(f"accuracy_{horizons[-1]}")
    note = (
        f"{title}: skill = 1 - MSE / MSE of copying the last snapshot, over {report[split]['windows']:,.0f} windows; "
        f"positive at {report[split]['forecastable']:.0f} of {len(every)} horizons. The true networks "
        f"{horizons[-1]} ahead have accuracy {format_number(truth, 3)}."
    )
    lines = _lines(methods, metrics, FORECAST_CONTROLS, prefix="")
    return TablePart(f"forecast_{split}", title, FORECAST_CONTROLS, tuple(FORECAST_CONTROLS), lines, note)


def _missing(name: str) -> TablePart:
    return TablePart(name, f"{TITLES[name]}: missing", {}, (), (), "")


def _lines(
    methods: Mapping[str, Any], metrics: Iterable[Metric], controls: Mapping[str, str], *, prefix: str
) -> list[Line]:
    lines = []
    for metric in metrics:
        values = {name: methods[name][metric.key] for name in (OURS, *controls) if _has(methods.get(name), metric.key)}
        bounds = [methods[OURS].get(f"{metric.key}_{end}") for end in ("low", "high")]
        lines.append(Line(f"{prefix}{metric.key}", metric, values, None if None in bounds else (bounds[0], bounds[1])))
    return lines


def _headline(part: TablePart) -> dict[str, float]:
    values: dict[str, float] = {}
    for line in (line for line in part.lines if line.metric.headline):
        if OURS in line.values:
            values[line.name] = line.values[OURS]
        rival = best_of(line, part.rivals)
        if rival is not None:
            values[f"{line.name}_best_control"] = line.values[rival]
    return values


def _cells(part: TablePart, line: Line) -> list[str]:
    metric, winner = line.metric, best_of(line, (OURS, *part.rivals))
    texts = {name: format_number(line.values.get(name), metric.digits) for name in (OURS, *part.controls)}
    if winner is not None and len(line.values) > 1:
        best = texts[winner]
        texts |= {name: f"**{best}**" for name in (OURS, *part.rivals) if texts[name] == best}
    if line.interval is not None:
        low, high = (format_number(bound, metric.digits) for bound in line.interval)
        texts[OURS] += f" [{low}, {high}]"
    return [metric.label + ARROWS[metric.better], *texts.values()]


def _has(scores: Mapping[str, Any] | None, key: str) -> bool:
    return scores is not None and isinstance(scores.get(key), int | float)


def format_number(value: float | None, digits: int) -> str:
    """Return a number as a table cell: n/a if missing, no negative zero.

    >>> format_number(1234.5678, 1), format_number(-0.0001, 3), format_number(None, 3)
    ('1,234.6', '0.000', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    rounded = round(value, digits) + 0.0
    return f"{rounded:,.{digits}f}" if abs(value) < 1e6 else f"{value:.1e}"


def _table(part: TablePart) -> str:
    if not part.lines:
        return "\n\n".join(filter(None, [f"**{part.title}**", part.note]))
    head = [
        markdown_row([part.title, "wscore", *part.controls.values()]),
        markdown_row(["---", *["---:"] * (len(part.controls) + 1)]),
    ]
    table = "\n".join([*head, *(markdown_row(_cells(part, line)) for line in part.lines)])
    return "\n\n".join(filter(None, [table, part.note]))


def markdown_row(cells: Sequence[str]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
