"""Metrics of a published model next to its baselines, as a table and as evaluation results of the Hub."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


class Figures(NamedTuple):
    """Results on held-out runs.

    Attributes:
        task: the Hub's task type, such as `weight-reconstruction`.
        rows: metrics by method; the first method is the published model, the others are its baselines.
    """

    task: str
    rows: Mapping[str, Mapping[str, float]]

    @property
    def columns(self) -> list[str]:
        """Metrics in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))


def pick(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Return the named metrics that are numbers."""
    return {name: float(found[name]) for name in names if isinstance(found.get(name), int | float)}


def metrics_markdown(figures: Figures) -> str:
    """Return one row per method; missing metrics are left blank."""
    columns = figures.columns
    if not columns:
        return "No metrics.\n"
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for method, row in figures.rows.items():
        cells = [f"{row[name]:.4g}" if name in row else "" for name in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def eval_results(figures: Figures, *, dataset: str, revision: str) -> "list[EvalResult]":
    """Return every metric, including baselines, as an evaluation result on the test split of a zoo."""
    from huggingface_hub import EvalResult

    ours = next(iter(figures.rows), None)
    return [
        EvalResult(
            task_type=figures.task,
            dataset_type="wscore-zoo",
            dataset_name=dataset,
            dataset_split="test",
            dataset_revision=revision,
            metric_type=name,
            metric_name=name if method == ours else f"{name} (control: {method})",
            metric_value=float(f"{value:.6g}"),
        )
        for method, row in figures.rows.items()
        for name, value in row.items()
    ]
