"""Prints tables, JSON and progress."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from wscore.errors import printable
from wscore.io import to_json
from wscore.progress import progress_bar

T = TypeVar("T")
WIDEST, LAST = 60, 400  # characters of a cell; of one in the last column


def print_json(value: object) -> None:
    """Print JSON on standard output; NaN and infinity become null."""
    sys.stdout.write(to_json(value))


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Print rows as a table, numbers right-aligned; missing values are left blank."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name: all(_is_number(row.get(name)) for row in rows) for name in columns}
    cells = [[cell(row.get(name), LAST if name == columns[-1] else WIDEST) for name in columns] for row in rows]
    widths = [max([len(name), *(len(line[place]) for line in cells)]) for place, name in enumerate(columns)]
    lines = [title] if title else []
    for line in [columns, *cells]:
        aligned = [
            text.rjust(width) if numeric[name] else text.ljust(width)
            for text, width, name in zip(line, widths, columns, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    sys.stdout.write("\n".join(lines) + "\n")


def cell(value: object, widest: int = WIDEST) -> str:
    """Return a value as a table cell, without control characters."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = printable(value)
    return text if len(text) <= widest else f"{text[: widest - 3]}..."


def progress(items: Iterable[T], /, *, total: int | None = None, unit: str = "network") -> Iterable[T]:
    """Return the items, with their progress on standard error."""
    return progress_bar(items, total=total, unit=unit)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
