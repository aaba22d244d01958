"""Out-of-distribution evaluation of property heads: hold out a whole architecture family or data set.

Each family (or data set) is held out in turn: head and controls are refitted on the training runs of all others,
with early stopping and mixing weights from their validation runs, and evaluated on the test runs of the held-out one.
The encoder is not retrained: it was trained on weights of all families, but on no property of any network.
"""

from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from wscore.errors import DataError
from wscore.heads.dataset import HeadData
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.heads.evaluation.controls import ControlInputs, weight_components
from wscore.heads.evaluation.evaluate import MAIN_SCORES, evaluate, heads_report
from wscore.heads.train import HeadsConfig, fit_targets, train_head
from wscore.zoo.store import Zoo

Ood = Literal["family", "dataset"]
ASIDE = "aside"  # split of networks used for neither training nor evaluation


def evaluate_ood(
    column: Ood,
    zoo: Zoo,
    data: HeadData,
    rows: ControlInputs,
    heads: HeadsConfig,
    config: EvaluateHeadsConfig,
) -> dict[str, dict[str, Any]]:
    """Return the report of each task (as in `wscore.heads.evaluation.evaluate.report`) by held-out value of a column.

    Targets with a single value among the remaining networks are excluded, and so is the column itself; a task without
    targets is missing.

    Raises:
        DataError: if the column is missing or has one value only.
    """
    names = pd.Series(data.table[column]).dropna().astype(str) if column in data.table else pd.Series(dtype=str)
    values = sorted(set(names))
    if len(values) < 2:
        raise DataError(
            "nothing can be held out", where="evaluate_heads.ood", expected=f"two values of {column} or more", got=values,
            fix="set evaluate_heads.ood: null, or use a zoo with several values",
        )  # fmt: skip
    return {value: _evaluate_without(column, value, zoo, data, rows, heads, config) for value in values}


def hold_out(table: pd.DataFrame, column: str, value: str) -> np.ndarray:
    """Return the splits that exclude networks with a value from training and validation and test on them only."""
    split, held = table["split"].to_numpy(dtype=object), (table[column].astype(str) == value).to_numpy()
    return np.where(held == (split == "test"), split, ASIDE)


def learnable(heads: HeadsConfig, column: str, train: pd.DataFrame) -> HeadsConfig:
    """Return the configuration without the column and the targets that cannot be learned from these rows."""

    def possible(**only: Any) -> bool:
        trial = {
            "patterns": heads.patterns[:1],
            "continuous": {},
            "discrete": (),
            "target_weights": {},
            "tasks": ("patterns",),
        }
        task = "patterns" if "patterns" in only else "hyperparameters"
        try:
            fit_targets(task, msgspec.structs.replace(heads, **{**trial, **only}), train)
        except DataError:
            return False
        return True

    chosen = {
        "patterns": tuple(name for name in heads.patterns if possible(patterns=(name,))),
        "continuous": {name: scale for name, scale in heads.continuous.items() if possible(continuous={name: scale})},
        "discrete": tuple(name for name in heads.discrete if name != column and possible(discrete=(name,))),
    }
    empty = {"patterns": not chosen["patterns"], "hyperparameters": not (chosen["continuous"] or chosen["discrete"])}
    tasks = tuple(task for task in heads.tasks if not empty.get(task, False))
    named = {*chosen["patterns"], heads.accuracy_target, *chosen["continuous"], *chosen["discrete"]}
    weights = {name: weight for name, weight in heads.target_weights.items() if name in named}
    chosen["patterns"] = chosen["patterns"] or heads.patterns[:1]  # the task is not trained then
    return msgspec.structs.replace(heads, tasks=tasks, target_weights=weights, mode="frozen", **chosen)


def _evaluate_without(
    column: Ood,
    value: str,
    zoo: Zoo,
    data: HeadData,
    rows: ControlInputs,
    heads: HeadsConfig,
    config: EvaluateHeadsConfig,
) -> dict[str, Any]:
    split = hold_out(data.table, column, value)
    here = data._replace(table=data.table.assign(split=split))
    numbers, train = here.table["row"].to_numpy(int), split == "train"
    size = rows.components.shape[1]
    rows = rows._replace(components=weight_components(zoo, numbers, train, components=size, seed=config.seed))
    fitted = learnable(heads, column, here.part("train").table)
    return {
        task: heads_report(evaluate(train_head(task, fitted, here)[0], here, rows, config), config)
        for task in fitted.tasks
    }


def ood_summary_line(report: dict[str, dict[str, Any]]) -> str:
    """Return how often the head is at least as good as the weight statistics, over tasks and held-out groups."""
    pairs = [
        (result["ours"][name], result["statistics"][name])
        for tasks in report.values()
        for result in tasks.values()
        for name in MAIN_SCORES
        if name in result["ours"]
    ]
    return f"held out: ours at least as good in {sum(ours >= rival for ours, rival in pairs)} of {len(pairs)}"
