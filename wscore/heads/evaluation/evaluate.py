"""Evaluates property heads and their controls on held-out networks: scores, intervals over runs, points for plots.

Metrics of a task by method (`ours` first, then `CONTROLS`; for the accuracy also `informed`, the head where it is given the
architectures), all floats:
- `patterns`: macro_f1 (mean F1 over the labels that have both values), macro_f1_not_shape_leaked (the same over those
  not leaked by the tensor shapes), macro_precision, macro_recall, macro_roc_auc, macro_average_precision, hamming_loss (share
  of wrong labels), subset_accuracy (share of networks without a wrong label), and `<label>_f1`;
- `accuracy`: mse, mae, rmse, r2, relative_error, kendall_tau, spearman;
- `hyperparameters`: aggregate (see `wscore.heads.evaluation.metrics.aggregate`), continuous_r2 (mean over targets, scaled
  space), discrete_accuracy, discrete_macro_f1 (means over targets), and `<target>_r2` or `<target>_accuracy`.
`<name>_low` and `<name>_high` bound the 95% bootstrap interval over runs of each of them. Every metric of every target
is in the long table, with its interval. Targets with a single value in the test split are excluded from the means and
listed.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from wscore.encoder.features import BLOCKS as COMPUTED
from wscore.encoder.weight_statistics import statistics_table
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.evaluation.bootstrap import Values, Weights, bounds, mean, rank_correlations, run_weights, same_order
from wscore.heads.conformal import Intervals
from wscore.heads.dataset import NOTHING, HeadData
from wscore.heads.evaluation import bootstrap_metrics as resampled
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.heads.evaluation.controls import (
    Case,
    ControlInputs,
    controls_of,
    hyperparameter_numbers,
    shape_numbers,
    statistics,
    untrained_latents,
    weight_components,
)
from wscore.heads.evaluation.metrics import (
    MAIN,
    Outputs,
    aggregate,
    hamming_loss,
    is_one_valued,
    is_shape_leaked,
    known_rows,
    predicted_classes,
    regression_scores,
    subset_accuracy,
    target_scores,
)
from wscore.heads.targets import Binary, Continuous, Discrete, Encoded, Targets, encode_targets
from wscore.heads.train import HeadsConfig, PropertyHead, predict_properties
from wscore.zoo.splits import UNSEEN
from wscore.zoo.store import Zoo

TEST = "test"
MAIN_SCORES = ("macro_f1", "r2", "aggregate")  # of the tasks
OURS, STATISTICS = "ours", "statistics"
INFORMED = "informed"  # the head, with the architectures
LABEL_METRICS = ("f1", "precision", "recall", "roc_auc", "average_precision")


TargetValues = Mapping[str, Mapping[str, Values]]


class Resamples(NamedTuple):
    """Bootstrap of the results of one head.

    Attributes:
        weights: of the networks in each resample of the runs.
        scores: metrics by method and target, as of `resampled_scores`; empty without samples.
    """

    weights: Weights
    scores: Mapping[str, TargetValues]


class HeadResults(NamedTuple):
    """Predictions of one head and its controls on the held-out networks.

    Attributes:
        task: of the head.
        targets: of the head.
        table: metadata of the test networks.
        encoded: true values, encoded.
        outputs: predictions by method.
        intervals: prediction intervals of the head by target, for `ours` and, if it was trained with architectures, `informed`.
        importance: share of each weight statistic in the gain of the boosted trees, by target.
        unseen: the same of networks of unseen widths; None if there are none.
    """

    task: str
    targets: Targets
    table: pd.DataFrame
    encoded: Encoded
    outputs: Mapping[str, Outputs]
    intervals: Mapping[str, Mapping[str, Intervals]] = NOTHING
    importance: Mapping[str, Mapping[str, float]] = NOTHING
    unseen: "HeadResults | None" = None

    @property
    def runs(self) -> Shaped[np.ndarray, " rows"]:
        """Run of each test network."""
        return self.table["run_id"].to_numpy(dtype=str)

    def take(self, rows: Bool[np.ndarray, " rows"]) -> "HeadResults":
        """Return the results on some of the networks."""
        outputs = {
            method: {name: values[rows] for name, values in predicted.items()}
            for method, predicted in self.outputs.items()
        }
        encoded = Encoded(self.encoded.values[rows], self.encoded.known[rows])
        return self._replace(table=self.table[rows], encoded=encoded, outputs=outputs)


def control_inputs(zoo: Zoo, data: HeadData, heads: HeadsConfig, config: EvaluateHeadsConfig) -> ControlInputs:
    """Return the inputs of the controls for the networks of a table, in its order."""
    rows = data.table["row"].to_numpy(dtype=int)
    layouts = [zoo.layout(row) for row in rows.tolist()]
    train = (data.table["split"] == "train").to_numpy()
    values, names = statistics_table(zoo)
    blocks = [data.blocks[name].values for name in COMPUTED if name in data.blocks]
    features = np.concatenate([np.zeros((len(rows), 0), np.float32), *blocks], axis=1)
    latent_dim = data.latents.shape[1]
    return ControlInputs(
        latents=data.latents,
        untrained=untrained_latents(features, train, latent_dim=latent_dim, seed=config.seed),
        probes=data.blocks["probes"].values if "probes" in data.blocks else np.zeros((len(rows), 0)),
        spectra=data.blocks["spectra"].values if "spectra" in data.blocks else np.zeros((len(rows), 0)),
        statistics=values[rows],
        names=names,
        shapes=shape_numbers(layouts),
        components=weight_components(zoo, rows, train, components=latent_dim, seed=config.seed),
        hyperparameters=hyperparameter_numbers(data.table, heads.hyperparameters),
    )


def evaluate(head: PropertyHead, data: HeadData, rows: ControlInputs, config: EvaluateHeadsConfig) -> HeadResults:
    """Return the predictions of a head and its controls for the test networks and those of unseen widths.

    Args:
        head: as trained on the training networks of the same data.
        data: networks of all splits.
        rows: inputs of the controls, in the same order.
        config: trees and seed of the gradient boosting.

    Raises:
        DataError: if there is no test network.
        ModelError: if the head reads latents of another encoder.
    """
    if head.encoder != data.encoder:
        raise ModelError(
            "reads latents of another encoder", where=f"head for {head.task}", expected=head.encoder, got=data.encoder
        )
    split = data.table["split"].to_numpy(dtype=str)
    if not (split == TEST).any():
        raise DataError("there is no test network", where="heads", fix="make more runs, or raise tokens.test_fraction")
    held_out = np.isin(split, (TEST, UNSEEN))
    encoded = encode_targets(head.targets, data.table)
    importance: dict[str, dict[str, float]] = {}
    controls = controls_of(head.task)
    outputs = _predictions(head, data.take(held_out)) | {name: {} for name in controls}
    for number, target in enumerate(head.targets):
        train, validation = ((split == name) & encoded.known[:, number] for name in ("train", "validation"))
        case = Case(
            target=target,
            train=rows.take(train),
            train_values=encoded.values[train, number],
            validation=rows.take(validation),
            validation_values=encoded.values[validation, number],
            test=rows.take(held_out),
            iterations=config.boosting_iterations,
            seed=config.seed,
        )
        for name, control in controls.items():
            if name != STATISTICS:
                outputs[name][target.name] = control(case)
        boosted_statistics = statistics(case)
        outputs[STATISTICS][target.name] = boosted_statistics.outputs
        importance[target.name] = {rows.names[k]: gain for k, gain in boosted_statistics.gains.items()}
    known = Encoded(encoded.values[held_out], encoded.known[held_out])
    table = pd.DataFrame(data.table[held_out])
    intervals = {OURS: head.intervals, INFORMED: head.informed}
    results = HeadResults(head.task, head.targets, table, known, outputs, intervals, importance)
    unseen_widths = results.take(split[held_out] == UNSEEN)
    return results.take(split[held_out] == TEST)._replace(unseen=unseen_widths if len(unseen_widths.table) else None)


def _predictions(head: PropertyHead, data: HeadData) -> dict[str, Outputs]:
    """Return the predictions of a head, also with the architectures if it can use them."""
    informed = {INFORMED: predict_properties(head, data.informed())} if head.informed else {}
    return {OURS: predict_properties(head, data), **informed}


def resample(results: HeadResults, config: EvaluateHeadsConfig) -> Resamples:
    """Return the metrics of each method and target under bootstrap weights of the runs; empty without samples."""
    weights = run_weights(results.runs, samples=config.bootstrap_samples, seed=config.seed)
    methods = results.outputs if len(weights) else {}
    return Resamples(weights, {name: resampled_scores(results, methods[name], weights) for name in methods})


def heads_report(
    results: HeadResults, config: EvaluateHeadsConfig, resamples: Resamples | None = None
) -> dict[str, Any]:
    """Return counts, the metrics of every method, and remarks on single targets (`metrics/heads_test.json`).

    The remarks are `shape_leaked` (1 if the shape-only control predicts a label almost perfectly, else 0),
    `one_valued` (1 for a target that cannot be evaluated because all its true values are equal) and `unseen` (count of
    test networks excluded from a target because no training network has their class; also raises a warning).
    """
    summary, resampling = SUMMARIES[results.task], RESAMPLED[results.task]
    weights, drawn = resamples or resample(results, config)
    report: dict[str, Any] = {"networks": float(len(results.table)), "runs": float(len(set(results.runs)))}
    for method, outputs in results.outputs.items():
        report[method] = summary(results, outputs)
        ends = bounds(resampling(results, outputs, drawn[method], weights)) if drawn else {}
        report[method] |= {name: value for name, value in ends.items() if name.rpartition("_")[0] in report[method]}
    for method in results.intervals.keys() & results.outputs.keys():
        report[method] |= coverage(results, weights, method)
    given = {target.name: float(target.name in shape_leaked_names(results)) for target in results.targets}
    named = [target.name for target in results.targets if not isinstance(target, Continuous)]
    remarks = {
        "shape_leaked": {name: given[name] for name in named},
        "one_valued": dict.fromkeys(sorted(one_valued(results)), 1.0),
        "unseen": unseen(results),
    }
    for name, count in remarks["unseen"].items():
        text = f"{name}: {count:.0f} test networks excluded: their class does not occur in the training split"
        warnings.warn(text, WscoreWarning, stacklevel=2)
    return report | {name: remark for name, remark in remarks.items() if remark}


def coverage(results: HeadResults, weights: Weights, method: str = OURS) -> dict[str, float]:
    """Return coverage and width of the head's prediction intervals, for a scalar task with intervals.

    `coverage` is the share of the test networks whose true value lies inside, `coverage_aim` the nominal coverage,
    `interval_width` the mean width in raw units.
    """
    target = results.targets[0]
    if (
        results.task != "accuracy"
        or target.name not in results.intervals.get(method, {})
        or not isinstance(target, Continuous)
    ):
        return {}
    known = results.encoded.known[:, 0]
    intervals = results.intervals[method][target.name]
    low, high = (target.restore(end) for end in intervals.bounds(results.outputs[method][target.name][known, 0]))
    truth = target.raw(results.table)[known]
    inside = (truth >= low) & (truth <= high)
    ends = bounds({"coverage": mean(inside, weights[:, known])}) if len(weights) else {}
    shares = {"coverage": float(np.mean(inside)), "coverage_aim": intervals.coverage}
    return {**shares, "interval_width": float(np.mean(high - low)), **ends}


def unseen_report(results: HeadResults, report: Mapping[str, Any], config: EvaluateHeadsConfig) -> dict[str, Any]:
    """Return the metrics of every method on networks of unseen widths; empty if there are none.

    `loss` is the main score on the test networks minus that on them.

    Args:
        results: of the test networks.
        report: that `heads_report` makes of these.
        config: of the bootstrap.
    """
    if results.unseen is None:
        return {}
    unseen_widths = heads_report(results.unseen, config)
    for name in (name for name in MAIN_SCORES if name in report[OURS] and name in unseen_widths[OURS]):
        for method in results.outputs:
            unseen_widths[method]["loss"] = report[method][name] - unseen_widths[method][name]
    return unseen_widths


def heads_summary_line(report: Mapping[str, Any], unseen_widths: Mapping[str, Any] = NOTHING) -> str:
    """Return the main score of each task in one line: ours, and the weight statistics in brackets."""
    line = f"heads on held-out runs (weight statistics in brackets): {_main_scores(report) or 'nothing to evaluate'}"
    poor = [task for task, result in report.items() for name in MAIN_SCORES if _is_beaten(result, name)]
    note = f"; BELOW weight statistics: {', '.join(poor)}" if poor else ""
    return line + note + (f"; on unseen widths: {_main_scores(unseen_widths)}" if unseen_widths else "")


def _is_beaten(result: Mapping[str, Any], name: str) -> bool:
    """Return whether the weight statistics have a higher score than the head."""
    return name in result[OURS] and result[OURS][name] < result[STATISTICS][name]


def _main_scores(report: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{task} {name} {result[OURS][name]:.3f} ({result[STATISTICS][name]:.3f})"
        for task, result in report.items()
        for name in MAIN_SCORES
        if name in result[OURS]
    )


def one_valued(results: HeadResults) -> set[str]:
    """Return the targets whose known true values are all equal, or of which none is known."""
    values, known = results.encoded
    return {t.name for number, t in enumerate(results.targets) if is_one_valued(values[known[:, number], number])}


def unseen(results: HeadResults) -> dict[str, float]:
    """Return how many test networks have a class outside the vocabulary, for each target where there are any."""
    counts = {
        target.name: float(np.sum(results.table[target.name].notna().to_numpy() & ~results.encoded.known[:, number]))
        for number, target in enumerate(results.targets)
        if isinstance(target, Discrete)
    }
    return {name: count for name, count in counts.items() if count}


def shape_leaked_names(results: HeadResults) -> set[str]:
    """Return the targets that the tensor shapes alone predict almost perfectly."""
    shapes = results.outputs["shapes"]
    return {
        target.name
        for number, target in enumerate(results.targets)
        if is_shape_leaked(target, *known_rows(target, number, shapes, results.encoded))
    }


def scores_of(results: HeadResults, outputs: Outputs) -> dict[str, dict[str, float]]:
    """Return all metrics of each target; continuous ones in scaled space and, prefixed `raw_`, in raw units."""
    scores = {}
    for number, target in enumerate(results.targets):
        scores[target.name] = target_scores(target, *known_rows(target, number, outputs, results.encoded))
        if isinstance(target, Continuous):
            raw = regression_scores(*raw_values(results, target, outputs))
            scores[target.name] |= {f"raw_{name}": value for name, value in raw.items() if name != "n"}
    return scores


def raw_values(
    results: HeadResults, target: Continuous, outputs: Outputs
) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, " known"]]:
    """Return true and predicted values of a continuous target in raw units, where it is known."""
    truth = target.raw(results.table)
    known = ~np.isnan(truth)
    return truth[known], target.restore(outputs[target.name][known, 0])


def _labels(results: HeadResults, outputs: Outputs) -> dict[str, float]:
    scores, alike, given = scores_of(results, outputs), one_valued(results), shape_leaked_names(results)
    scored = [name for name in scores if name not in alike]
    hidden = [name for name in scored if name not in given]
    wrong = (_label_matrix(results, outputs) != _truth(results)) & results.encoded.known
    return {
        **_means(scores, scored, {f"macro_{metric}": metric for metric in LABEL_METRICS}),
        **_means(scores, hidden, {"macro_f1_not_shape_leaked": "f1"}),
        "hamming_loss": hamming_loss(wrong, results.encoded.known),
        "subset_accuracy": subset_accuracy(wrong, results.encoded.known),
        **_main(results, scores),
    }


def _scalar(results: HeadResults, outputs: Outputs) -> dict[str, float]:
    scores = regression_scores(*raw_values(results, _only(results), outputs))
    return {name: value for name, value in scores.items() if name != "n"}


def _mixed(results: HeadResults, outputs: Outputs) -> dict[str, float]:
    scores, alike = scores_of(results, outputs), one_valued(results)
    scored = [target for target in results.targets if target.name not in alike]
    numbers = [target.name for target in scored if isinstance(target, Continuous)]
    names = [target.name for target in scored if isinstance(target, Discrete)]
    return {
        **({"aggregate": aggregate(results.targets, outputs, results.encoded)} if scored else {}),
        **_means(scores, numbers, {"continuous_r2": "r2"}),
        **_means(scores, names, {"discrete_accuracy": "accuracy", "discrete_macro_f1": "macro_f1"}),
        **_main(results, scores),
    }


def resampled_scores(results: HeadResults, outputs: Outputs, weights: Weights) -> dict[str, dict[str, Values]]:
    """Return the metrics of each target under bootstrap weights, named as in `scores_of`."""
    scores = {}
    for number, target in enumerate(results.targets):
        drawn = weights[:, results.encoded.known[:, number]]
        predicted, true = known_rows(target, number, outputs, results.encoded)
        if isinstance(target, Binary):
            scores[target.name] = resampled.binary(true >= 0.5, predicted[:, 0], drawn)
        elif isinstance(target, Discrete):
            scores[target.name] = resampled.classes(true.astype(int), predicted_classes(target, predicted), drawn)
        else:
            pair, raw_pair = (true, predicted[:, 0].astype(float)), raw_values(results, target, outputs)
            ranks = rank_correlations(*pair, drawn)
            scaled = resampled.regression(*pair, drawn, ranks)
            known_ranks = ranks if all(map(same_order, pair, raw_pair)) else None
            raw = resampled.regression(*raw_pair, drawn, known_ranks)
            scores[target.name] = scaled | {f"raw_{name}": values for name, values in raw.items()}
    return scores


def _resampled_labels(
    results: HeadResults, outputs: Outputs, scores: TargetValues, weights: Weights
) -> dict[str, Values]:
    alike, given = one_valued(results), shape_leaked_names(results)
    scored = [name for name in scores if name not in alike]
    hidden = [name for name in scored if name not in given]
    known = results.encoded.known
    wrong = (_label_matrix(results, outputs) != _truth(results)) & known
    labelled = known.any(axis=1)
    return {
        **_resampled_means(scores, scored, {f"macro_{metric}": metric for metric in LABEL_METRICS}),
        **_resampled_means(scores, hidden, {"macro_f1_not_shape_leaked": "f1"}),
        "hamming_loss": (weights @ wrong.sum(axis=1)) / np.maximum(weights @ known.sum(axis=1), 1),
        "subset_accuracy": mean(~wrong[labelled].any(axis=1), weights[:, labelled]),
        **{f"{name}_f1": scores[name]["f1"] for name in scored},
    }


def _resampled_scalar(
    results: HeadResults, _outputs: Outputs, scores: TargetValues, _weights: Weights
) -> dict[str, Values]:
    of_target = scores[_only(results).name]
    return {name.removeprefix("raw_"): values for name, values in of_target.items() if name.startswith("raw_")}


def _resampled_mixed(
    results: HeadResults, _outputs: Outputs, scores: TargetValues, _weights: Weights
) -> dict[str, Values]:
    alike = one_valued(results)
    scored = [target for target in results.targets if target.name not in alike]
    numbers = [target.name for target in scored if isinstance(target, Continuous)]
    names = [target.name for target in scored if isinstance(target, Discrete)]
    gains = [scores[name]["r2"] for name in numbers]
    for name in names:
        majority = scores[name]["majority"]
        gains.append((scores[name]["accuracy"] - majority) / np.where(majority < 1, 1 - majority, np.nan))
    return {
        **({"aggregate": resampled.average([np.maximum(gain, -1.0) for gain in gains])} if scored else {}),
        **_resampled_means(scores, numbers, {"continuous_r2": "r2"}),
        **_resampled_means(scores, names, {"discrete_accuracy": "accuracy", "discrete_macro_f1": "macro_f1"}),
        **{f"{name}_r2": scores[name]["r2"] for name in numbers},
        **{f"{name}_accuracy": scores[name]["accuracy"] for name in names},
    }


def _resampled_means(
    scores: Mapping[str, Mapping[str, Values]], targets: Sequence[str], metrics: Mapping[str, str]
) -> dict[str, Values]:
    if not targets:
        return {}
    return {name: resampled.average([scores[target][metric] for target in targets]) for name, metric in metrics.items()}


SUMMARIES: dict[str, Callable[[HeadResults, Outputs], dict[str, float]]] = {
    "patterns": _labels,
    "accuracy": _scalar,
    "hyperparameters": _mixed,
}
RESAMPLED: dict[str, Callable[[HeadResults, Outputs, TargetValues, Weights], dict[str, Values]]] = {
    "patterns": _resampled_labels,
    "accuracy": _resampled_scalar,
    "hyperparameters": _resampled_mixed,
}


def _means(
    scores: Mapping[str, Mapping[str, float]], targets: Sequence[str], metrics: Mapping[str, str]
) -> dict[str, float]:
    """Return the mean over the targets of each metric, under its new name; empty if there is no target."""
    if not targets:
        return {}
    return {name: float(np.mean([scores[target][metric] for target in targets])) for name, metric in metrics.items()}


def _main(results: HeadResults, scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the main metric of each target where it is defined."""
    mains = {target.name: MAIN[type(target)] for target in results.targets}
    return {f"{name}_{main}": scores[name][main] for name, main in mains.items() if main in scores[name]}


def _truth(results: HeadResults) -> np.ndarray:
    return results.encoded.values >= 0.5


def _only(results: HeadResults) -> Continuous:
    """Return the single target of a scalar task."""
    (target,) = results.targets
    assert isinstance(target, Continuous)
    return target


def _label_matrix(results: HeadResults, outputs: Outputs) -> np.ndarray:
    return np.column_stack([outputs[target.name][:, 0] >= 0.5 for target in results.targets])
