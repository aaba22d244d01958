"""Front table of README.md: one row per task, wscore next to its strongest baseline, and where it loses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from wscore.report.table import OURS, VARIANTS, Line, TablePart, best_of, format_number, markdown_row, sections

COLUMNS = ("task", "metric", "wscore", "strongest baseline", "where wscore loses")
PER_TARGET = ("_r2", "_accuracy")


class FrontRow(NamedTuple):
    """One row.

    Attributes:
        name: displayed name.
        part: name of the part of the full table.
        line: prefix of the name of the line; the last match is used.
        scope: prefix of the names of the lines in which losses are reported.
    """

    name: str
    part: str
    line: str
    scope: str = ""


TASKS = (
    FrontRow("compress networks", "codec", "agreement"),
    FrontRow("predict the test accuracy", "heads", "accuracy_r2", "accuracy_"),
    FrontRow("predict training hyperparameters", "heads", "hyperparameters_continuous_r2", "hyperparameters_"),
    FrontRow("rebuild networks from sparse codes", "sparse_dictionary", "accuracy_recovered"),
    FrontRow("forecast the weights of an unseen run", "forecast_unseen_run", "skill_"),
)


def front_table(parts: Mapping[str, Any]) -> str:
    """Return the table as Markdown from the result of `gather`; tasks without metrics have no row."""
    table = {part.name: part for part in sections(parts)}
    rows = [markdown_row(COLUMNS), markdown_row(["---", "---", "---:", "---", "---"])]
    for task in TASKS:
        part = table.get(task.part)
        lines = [line for line in part.lines if line.name.startswith(task.line)] if part else []
        if part and lines:
            rows.append(markdown_row(_cells(task, part, lines[-1], parts)))
    return "\n".join(rows) + "\n"


def _cells(task: FrontRow, part: TablePart, line: Line, parts: Mapping[str, Any]) -> list[str]:
    rival = best_of(line, part.rivals)
    baseline = "n/a" if rival is None else f"{part.controls[rival]}: {_value(line, rival)}"
    ours = _value(line, OURS)
    if best_of(line, (OURS, *part.rivals)) == OURS:
        ours = f"**{ours}**"
    if line.interval is not None:
        ours += f" [{', '.join(format_number(bound, line.metric.digits) for bound in line.interval)}]"
    losses = _losses(task, part, line)
    if not losses and task.scope.startswith("hyperparameters"):
        losses = _targets_lost(parts["heads_test"]["hyperparameters"], part.controls)
    lost = "; ".join(losses) or "no measured baseline is better"
    return [task.name + _ratio(part, OURS), line.metric.label, ours, baseline, lost]


def _losses(task: FrontRow, part: TablePart, line: Line) -> list[str]:
    """Return the baselines that beat ours in this line, or else in the last line of the task where one does."""
    here = [f"{part.controls[name]}{_ratio(part, name)}: {_value(line, name)}" for name in _better(part, line)]
    others = [
        f"{other.metric.label}: {_value(other, OURS)}, {part.controls[names[0]]} {_value(other, names[0])}"
        for other in part.lines
        if other.name.startswith(task.scope) and (names := _better(part, other))
    ]
    return here or others[-1:]


def _better(part: TablePart, line: Line) -> list[str]:
    """Return the baselines, of any size, that beat ours in a line, best first."""
    if line.metric.better == "neither" or OURS not in line.values:
        return []
    sign = 1 if line.metric.better == "higher" else -1
    gain = {name: sign * (line.values[name] - line.values[OURS]) for name in part.controls if name in line.values}
    return sorted((name for name, value in gain.items() if value > 0 and name not in VARIANTS), key=lambda n: -gain[n])


def _targets_lost(methods: Mapping[str, Any], controls: Mapping[str, str]) -> list[str]:
    """Return the targets of a head that a baseline predicts better, each with the best baseline."""
    texts = []
    for key, value in methods[OURS].items():
        rivals = {
            name: methods[name][key] for name in controls if key in methods.get(name, {}) and name not in VARIANTS
        }
        best = max(rivals, key=lambda name: rivals[name], default=None)
        if key.endswith(PER_TARGET) and best and rivals[best] > value:
            target = key.removesuffix("_r2").removesuffix("_accuracy")
            texts.append(f"{target}: {format_number(value, 3)}, {controls[best]} {format_number(rivals[best], 3)}")
    return texts


def _ratio(part: TablePart, method: str) -> str:
    sizes = [line.values[method] for line in part.lines if line.name == "compression_ratio" and method in line.values]
    return f" ({sizes[0]:,.1f}x smaller)" if sizes and sizes[0] > 1.5 else ""


def _value(line: Line, method: str) -> str:
    return format_number(line.values.get(method), line.metric.digits)
