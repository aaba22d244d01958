"""Progress of long work on standard error: a bar on a terminal, elsewhere a plain line now and then."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS = 30.0  # between plain lines; shorter work prints none
PLAIN = "{desc} {n_fmt} of {total_fmt}{unit}, {rate_fmt}, {remaining} left{postfix}"


class _Lines:
    """Writes each state of a bar as a line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(items: Iterable[T] | None = None, *, hidden: bool = False, **settings: Any) -> Any:
    """Return a tqdm bar, over items if given; `settings` are such as desc, total, initial and unit."""
    from tqdm import tqdm

    if hidden or sys.stderr.isatty():
        return tqdm(items, disable=hidden, leave=False, delay=1.0, **settings)
    times = {"mininterval": SECONDS, "maxinterval": 2 * SECONDS, "delay": SECONDS, "miniters": 1}
    return tqdm(items, file=_Lines(), bar_format=PLAIN, leave=False, **times, **settings)
