"""Metrics of a published model next to its baselines, as a table and as evaluation results of the Hub."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


SYMBOLS = {"r2": "R²", "f1": "F1", "mse": "MSE", "mae": "MAE", "rmse": "RMSE", "roc": "ROC", "auc": "AUC", "fvu": "FVU"}


class Figures(NamedTuple):
    """Results on held-out runs.

    Attributes:
        task: the Hub's task type, such as `weight-reconstruction`.
        rows: metrics by method, the published model first.
        own: methods that are the published model; empty: the first. The others are its baselines.
    """

    task: str
    rows: Mapping[str, Mapping[str, float]]
    own: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """Metrics in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))


def pick(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Return the named metrics that are numbers."""
    return {name: float(metrics[name]) for name in names if isinstance(metrics.get(name), int | float)}


def metrics_markdown(figures: Figures) -> str:
    """Return one row per method; missing metrics are left blank."""
    columns = figures.columns
    if not columns:
        return "No metrics.\n"
    lines = [f"| | {' | '.join(map(readable, columns))} |", f"|---|{'---:|' * len(columns)}"]
    for method, row in figures.rows.items():
        cells = [f"{row[name]:.4g}" if name in row else "" for name in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def eval_results(figures: Figures, *, dataset: str, revision: str) -> "list[EvalResult]":
    """Return the metrics of the model itself as evaluation results on the test split of a zoo."""
    from huggingface_hub import EvalResult

    methods = figures.own or list(figures.rows)[:1]
    return [
        EvalResult(
            task_type=figures.task,
            dataset_type="wscore-zoo",
            dataset_name=dataset,
            dataset_split="test",
            dataset_revision=revision,
            metric_type=name,
            metric_name=f"{readable(name)} ({method})" if len(methods) > 1 else readable(name),
            metric_value=float(f"{value:.6g}"),
        )
        for method in methods
        for name, value in figures.rows[method].items()
    ]


def readable(name: str) -> str:
    """Return the name of a metric as text.

    >>> [readable(name) for name in ("r2", "macro_f1_not_shape_leaked", "skill_5")]
    ['R²', 'macro F1 not shape leaked', 'skill, 5 ahead']
    """
    words = name.split("_")
    ahead = f", {words.pop()} ahead" if words[-1].isdecimal() and len(words) > 1 else ""
    return " ".join(SYMBOLS.get(word, word) for word in words) + ahead
