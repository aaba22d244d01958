"""Prints experiments as a table that fits a terminal.

    dvc exp show --csv | python -m wscore.report.experiments

One row per experiment below the commit that it started from: four headline metrics, and the parameters that differ from
those of that commit, one per line.
"""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence

from wscore.errors import DataError, WscoreError

METRICS = {
    "codec": "evaluate.codec.agreement",
    "accuracy": "evaluate.heads.accuracy_r2",
    "dictionary": "evaluate.sparse_dictionary.agreement",
    "forecast": "evaluate.forecast_unseen_run.skill_5",
}
NO_PARAMS = ("Experiment", "rev", "typ", "Created", "parent", "State", "Executor")
Row = Mapping[str, str]


def experiments_table(lines: Iterable[str]) -> str:
    """Return a table of what `dvc exp show --csv` prints.

    Raises:
        DataError: if the text is not such a table.
    """
    reader = csv.DictReader(lines)
    rows, columns = list(reader), reader.fieldnames or []
    if not {"Experiment", "rev", "typ"} <= set(columns):
        raise DataError(
            "no table of experiments", where="standard input", expected="CSV of `dvc exp show --csv`",
            got=",".join(columns) or "nothing", fix="see what `dvc exp show` says",
        )  # fmt: skip
    params = [name for name in columns if not (name in NO_PARAMS or "/" in name or _is_metric(name))]
    commits = [row for row in rows if row["typ"] == "baseline" and row["rev"] != "workspace"]
    base = commits[0] if commits else {}
    cells = [("experiment", *METRICS, "changed parameters")]
    for row in rows:
        base = row if row in commits else base
        changed = [f"{name}={row[name]}" for name in params if base and row[name] != base[name]]
        first, *others = changed or [""]
        cells.append((_name(row), *(_number(row.get(metric, "")) for metric in METRICS.values()), first))
        cells += [("", *("" for _ in METRICS), other) for other in others]
    return _aligned(cells)


def _is_metric(column: str) -> bool:
    """Return whether a column is one of metrics/evaluate.json; parameters of the section have no part between."""
    return column.startswith("evaluate.") and (column.count(".") == 2 or column == "evaluate.missing_parts")


def _name(row: Row) -> str:
    return row["rev"] if row["typ"] == "baseline" else f"  {row['Experiment'] or row['rev']}"


def _number(text: str) -> str:
    try:
        return f"{float(text):.3f}"
    except ValueError:
        return text or "-"


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return lines with columns of equal width; numbers are flush right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *numbers, last in cells:
        middle = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *middle, last]).rstrip())
    return "\n".join(lines)


def main() -> None:
    """Print the table of standard input; a text that is none gives exit status 1 and one line on stderr."""
    try:
        sys.stdout.write(experiments_table(sys.stdin) + "\n")
    except WscoreError as error:
        sys.exit(f"experiments: {error}")


if __name__ == "__main__":
    main()
