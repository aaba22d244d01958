"""Property heads on held-out networks beside their controls: scores, intervals over runs, points for plots.

Metrics of a task by method (`ours` first, then `CONTROLS`), all floats:
- `patterns`: macro_f1 (mean F1 over the labels that have both values), macro_f1_not_given_away (the same over those
that the
  shapes don't give away), macro_precision, macro_recall, macro_roc_auc, macro_average_precision, hamming_loss (share
  of wrong labels), subset_accuracy (share of networks without a wrong one), and `<label>_f1`;
- `accuracy`: mse, mae, rmse, r2, relative_error, kendall_tau, spearman;
- `hyperparameters`: aggregate (see `wscore.evaluation.property.aggregate`), continuous_r2 (mean over targets, scaled
space),
  discrete_accuracy, discrete_macro_f1 (means over targets), and `<target>_r2` or `<target>_accuracy`.
`<name>_low` and `<name>_high` bound the 95% bootstrap interval over runs of the headline metrics. Every metric of
every target is in the long table. Labels and names with one value in the test split are left out of the means and
named.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.intervals import Statistic, bootstrap
from wscore.evaluation.property import (
    MAIN,
    Outputs,
    aggregate,
    cut_skill,
    hamming_loss,
    hit_share,
    is_given_away,
    is_one_valued,
    kendall_tau,
    known_rows,
    macro_f1,
    r2,
    regression_scores,
    skill,
    subset_accuracy,
    target_scores,
)
from wscore.evaluation.property_controls import CONTROLS, Case, Rows, shape_numbers
from wscore.evaluation.statistics import statistics_table
from wscore.training.heads import HeadData, PropertyHead, predict
from wscore.training.targets import Continuous, Discrete, Encoded, Target, Targets, encode
from wscore.zoo.store import Zoo

OURS = "ours"
METHODS = (OURS, *CONTROLS)
LABEL_METRICS = ("f1", "precision", "recall", "roc_auc", "average_precision")


class Verdict(NamedTuple):
    """What the held-out networks say about one head and its controls.

    Attributes:
        task: of the head.
        targets: of the head.
        table: metadata of the test networks.
        encoded: their true values.
        outputs: what each method predicts for them.
    """

    task: str
    targets: Targets
    table: pd.DataFrame
    encoded: Encoded
    outputs: Mapping[str, Outputs]

    @property
    def runs(self) -> Shaped[np.ndarray, " rows"]:
        """Run of each test network."""
        return self.table["run_id"].to_numpy(dtype=str)


def describe(zoo: Zoo, data: HeadData) -> Rows:
    """Return what the controls are given about the networks of a table, in its order."""
    rows = data.table["row"].to_numpy(dtype=int)
    layouts = [zoo.layout(row) for row in rows.tolist()]
    return Rows(data.latents, statistics_table(zoo).values[rows], shape_numbers(layouts))


def judge(head: PropertyHead, data: HeadData, rows: Rows, config: EvaluateConfig) -> Verdict:
    """Return what a head and its controls predict for the test networks.

    Args:
        head: as trained on the training networks of the same data.
        data: networks of all splits.
        rows: what the controls are given about them, in the same order.
        config: trees and seed of the gradient boosting.

    Raises:
        DataError: if there is no test network.
        ModelError: if the head reads latents of another encoder.
    """
    if head.encoder != data.encoder:
        raise ModelError(
            "reads latents of another encoder", where=f"head for {head.task}", expected=head.encoder, got=data.encoder
        )
    test = data.part("test")
    if not len(test.table):
        raise DataError("there is no test network", where="heads", fix="make more runs, or raise tokens.test_fraction")
    encoded = encode(head.targets, data.table)
    split = data.table["split"].to_numpy(dtype=str)
    outputs: dict[str, Outputs] = {OURS: predict(head, test.latents)} | {name: {} for name in CONTROLS}
    for number, target in enumerate(head.targets):
        train, validation = ((split == name) & encoded.known[:, number] for name in ("train", "validation"))
        case = Case(
            target=target,
            train=rows.take(train),
            train_values=encoded.values[train, number],
            validation=rows.take(validation),
            validation_values=encoded.values[validation, number],
            test=rows.take(split == "test"),
            iterations=config.boosting_iterations,
            seed=config.seed,
        )
        for name, control in CONTROLS.items():
            outputs[name][target.name] = control(case)
    held_out = Encoded(encoded.values[split == "test"], encoded.known[split == "test"])
    return Verdict(head.task, head.targets, test.table, held_out, outputs)


def report(verdict: Verdict, config: EvaluateConfig) -> dict[str, Any]:
    """Return counts, the metrics of every method, and the targets that call for a remark (`metrics/heads_test.json`).

    The remarks are `given_away_by_shape` (1 if the shape-only control tells a label nearly always, else 0),
    `one_valued` (1 for a target that can't be judged because all its true values are the same) and `unseen` (count of
    test networks left out of a target because no training network has their name; warned of too).
    """
    summary, headlines = SUMMARIES[verdict.task], HEADLINES[verdict.task]
    found: dict[str, Any] = {"networks": float(len(verdict.table)), "runs": float(len(set(verdict.runs)))}
    for method in METHODS:
        statistics = headlines(verdict, verdict.outputs[method])
        bounds = bootstrap(verdict.runs, statistics, samples=config.bootstrap_samples, seed=config.seed)
        found[method] = summary(verdict, verdict.outputs[method]) | {k: v for k, v in bounds.items() if np.isfinite(v)}
    given = {target.name: float(target.name in given_away(verdict)) for target in verdict.targets}
    named = [target.name for target in verdict.targets if not isinstance(target, Continuous)]
    remarks = {
        "given_away_by_shape": {name: given[name] for name in named},
        "one_valued": dict.fromkeys(sorted(one_valued(verdict)), 1.0),
        "unseen": unseen(verdict),
    }
    for name, count in remarks["unseen"].items():
        text = f"{name}: {count:.0f} test networks left out, no training network has their name"
        warnings.warn(text, WscoreWarning, stacklevel=2)
    return found | {name: remark for name, remark in remarks.items() if remark}


def sentence(found: Mapping[str, Any]) -> str:
    """Return the headline of all tasks in one line: ours, and the weight statistics in brackets."""
    parts = []
    for task, result in found.items():
        name = next((name for name in ("macro_f1", "r2", "aggregate") if name in result[OURS]), None)
        if name is not None:
            parts.append(f"{task} {name} {result[OURS][name]:.3f} ({result['statistics'][name]:.3f})")
    return f"heads on held-out runs (weight statistics in brackets): {', '.join(parts) or 'nothing can be judged'}"


def one_valued(verdict: Verdict) -> set[str]:
    """Return the targets whose known true values are all the same, or of which none is known."""
    values, known = verdict.encoded
    return {t.name for number, t in enumerate(verdict.targets) if is_one_valued(values[known[:, number], number])}


def unseen(verdict: Verdict) -> dict[str, float]:
    """Return for each vocabulary that lacks one how many test networks have a name outside it."""
    counts = {
        target.name: float(np.sum(verdict.table[target.name].notna().to_numpy() & ~verdict.encoded.known[:, number]))
        for number, target in enumerate(verdict.targets)
        if isinstance(target, Discrete)
    }
    return {name: count for name, count in counts.items() if count}


def given_away(verdict: Verdict) -> set[str]:
    """Return the labels and names that the shapes of the tensors alone tell."""
    shapes = verdict.outputs["shapes"]
    return {
        target.name
        for number, target in enumerate(verdict.targets)
        if is_given_away(target, *known_rows(target, number, shapes, verdict.encoded))
    }


def scores_of(verdict: Verdict, outputs: Outputs) -> dict[str, dict[str, float]]:
    """Return all metrics of each target; those of a number in its scaled space and, prefixed `raw_`, in raw units."""
    found = {}
    for number, target in enumerate(verdict.targets):
        found[target.name] = target_scores(target, *known_rows(target, number, outputs, verdict.encoded))
        if isinstance(target, Continuous):
            raw = regression_scores(*raw_values(verdict, target, outputs))
            found[target.name] |= {f"raw_{name}": value for name, value in raw.items() if name != "n"}
    return found


def raw_values(
    verdict: Verdict, target: Continuous, outputs: Outputs
) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, " known"]]:
    """Return true and predicted values of a number in raw units, for the networks of which it is known."""
    truth = target.raw(verdict.table)
    known = ~np.isnan(truth)
    return truth[known], target.restore(outputs[target.name][known, 0])


def _labels(verdict: Verdict, outputs: Outputs) -> dict[str, float]:
    scores, alike, given = scores_of(verdict, outputs), one_valued(verdict), given_away(verdict)
    judged = [name for name in scores if name not in alike]
    hidden = [name for name in judged if name not in given]
    wrong = (_label_matrix(verdict, outputs) != _truth(verdict)) & verdict.encoded.known
    return {
        **_means(scores, judged, {f"macro_{metric}": metric for metric in LABEL_METRICS}),
        **_means(scores, hidden, {"macro_f1_not_given_away": "f1"}),
        "hamming_loss": hamming_loss(wrong, verdict.encoded.known),
        "subset_accuracy": subset_accuracy(wrong, verdict.encoded.known),
        **_main(verdict, scores),
    }


def _scalar(verdict: Verdict, outputs: Outputs) -> dict[str, float]:
    found = regression_scores(*raw_values(verdict, _only(verdict), outputs))
    return {name: value for name, value in found.items() if name != "n"}


def _mixed(verdict: Verdict, outputs: Outputs) -> dict[str, float]:
    scores, alike = scores_of(verdict, outputs), one_valued(verdict)
    judged = [target for target in verdict.targets if target.name not in alike]
    numbers = [target.name for target in judged if isinstance(target, Continuous)]
    names = [target.name for target in judged if isinstance(target, Discrete)]
    return {
        **({"aggregate": aggregate(verdict.targets, outputs, verdict.encoded)} if judged else {}),
        **_means(scores, numbers, {"continuous_r2": "r2"}),
        **_means(scores, names, {"discrete_accuracy": "accuracy", "discrete_macro_f1": "macro_f1"}),
        **_main(verdict, scores),
    }


def _label_statistics(verdict: Verdict, outputs: Outputs) -> dict[str, Statistic]:
    alike, given = one_valued(verdict), given_away(verdict)
    truth, predicted, known = _truth(verdict), _label_matrix(verdict, outputs), verdict.encoded.known

    def over(kept: list[int]) -> Statistic:
        return lambda rows: macro_f1(*(part[rows][:, kept] for part in (truth, predicted, known)))

    judged = [number for number, target in enumerate(verdict.targets) if target.name not in alike]
    hidden = [number for number in judged if verdict.targets[number].name not in given]
    named = {"macro_f1": judged, "macro_f1_not_given_away": hidden}
    return {name: over(kept) for name, kept in named.items() if kept}


def _scalar_statistics(verdict: Verdict, outputs: Outputs) -> dict[str, Statistic]:
    truth, prediction = raw_values(verdict, _only(verdict), outputs)
    rows_of = np.cumsum(verdict.encoded.known[:, 0]) - 1  # place of a network among the known ones
    known = verdict.encoded.known[:, 0]

    def over(metric: Callable[[np.ndarray, np.ndarray], float]) -> Statistic:
        def statistic(rows: np.ndarray) -> float:
            kept = rows_of[rows[known[rows]]]
            return metric(truth[kept], prediction[kept])

        return statistic

    metrics = {"r2": r2, "kendall_tau": kendall_tau, "mae": lambda t, p: float(np.mean(np.abs(t - p)))}
    return {name: over(metric) for name, metric in metrics.items()}


def _mixed_statistics(verdict: Verdict, outputs: Outputs) -> dict[str, Statistic]:
    alike = one_valued(verdict)
    judged = [number for number, target in enumerate(verdict.targets) if target.name not in alike]
    numbers = [number for number in judged if isinstance(verdict.targets[number], Continuous)]
    names = [number for number in judged if isinstance(verdict.targets[number], Discrete)]

    def over(kept: list[int], metric: Callable[[Target, np.ndarray, np.ndarray], float]) -> Statistic:
        def statistic(rows: np.ndarray) -> float:
            encoded = Encoded(*(part[rows] for part in verdict.encoded))
            drawn = {name: values[rows] for name, values in outputs.items()}
            targets = [(number, verdict.targets[number]) for number in kept]
            return float(np.mean([metric(t, *known_rows(t, number, drawn, encoded)) for number, t in targets]))

        return statistic

    named = {
        "aggregate": (judged, cut_skill),
        "continuous_r2": (numbers, skill),
        "discrete_accuracy": (names, hit_share),
    }
    return {name: over(kept, metric) for name, (kept, metric) in named.items() if kept}


SUMMARIES: dict[str, Callable[[Verdict, Outputs], dict[str, float]]] = {
    "patterns": _labels,
    "accuracy": _scalar,
    "hyperparameters": _mixed,
}
HEADLINES: dict[str, Callable[[Verdict, Outputs], dict[str, Statistic]]] = {
    "patterns": _label_statistics,
    "accuracy": _scalar_statistics,
    "hyperparameters": _mixed_statistics,
}


def _means(
    scores: Mapping[str, Mapping[str, float]], targets: Sequence[str], metrics: Mapping[str, str]
) -> dict[str, float]:
    """Return the mean over the targets of each metric, under its new name; nothing if there is no target."""
    if not targets:
        return {}
    return {name: float(np.mean([scores[target][metric] for target in targets])) for name, metric in metrics.items()}


def _main(verdict: Verdict, scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the main metric of each target for which it is defined."""
    mains = {target.name: MAIN[type(target)] for target in verdict.targets}
    return {f"{name}_{main}": scores[name][main] for name, main in mains.items() if main in scores[name]}


def _truth(verdict: Verdict) -> np.ndarray:
    return verdict.encoded.values >= 0.5


def _only(verdict: Verdict) -> Continuous:
    """Return the one target of a task that is a single number."""
    (target,) = verdict.targets
    assert isinstance(target, Continuous)
    return target


def _label_matrix(verdict: Verdict, outputs: Outputs) -> np.ndarray:
    return np.column_stack([outputs[target.name][:, 0] >= 0.5 for target in verdict.targets])
