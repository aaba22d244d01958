"""What was measured of a published model, beside its controls, as a table and as the Hub's evaluation results."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


class Figures(NamedTuple):
    """Results on held-out runs.

    Attributes:
        task: what was asked, as the Hub's task type, such as `weight-reconstruction`.
        rows: metrics by method; the first method is the published model, the others are its controls.
    """

    task: str
    rows: Mapping[str, Mapping[str, float]]

    @property
    def columns(self) -> list[str]:
        """Metrics in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))


def pick(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Return those of the named metrics that are numbers."""
    return {name: float(found[name]) for name in names if isinstance(found.get(name), int | float)}


def metrics_markdown(figures: Figures) -> str:
    """Return one row per method; a metric that a method lacks is left blank."""
    columns = figures.columns
    if not columns:
        return "Nothing was measured.\n"
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for method, row in figures.rows.items():
        cells = [f"{row[name]:.4g}" if name in row else "" for name in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def eval_results(figures: Figures, *, dataset: str, revision: str) -> "list[EvalResult]":
    """Return every figure, controls included, as an evaluation result of the test split of a zoo."""
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
