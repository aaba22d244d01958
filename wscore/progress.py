"""Progress of long work on standard error: a bar on a terminal, elsewhere a plain line now and then."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS = 30.0  # between plain lines; shorter work prints none
PLAIN = "{start}{words}{postfix}"
BAR = "{l_bar}{bar}| {words}{postfix}"


class _Lines:
    """Writes each state of a bar as a line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(items: Iterable[T] | None = None, *, hidden: bool = False, **settings: Any) -> Any:
    """Return a tqdm bar, over items if given; `settings` are such as desc, total, initial and unit (a singular noun)."""
    from tqdm import tqdm

    class Bar(tqdm):
        """A bar that says where it is, how fast and how long it will take: `group 1 of 21, 33 s each, about 11 min left`."""

        @property
        def format_dict(self) -> dict[str, Any]:
            state = super().format_dict
            return {**state, "start": f"{state['prefix']}: " if state["prefix"] else "", "words": describe(state)}

    if hidden or sys.stderr.isatty():
        return Bar(items, disable=hidden, leave=False, delay=1.0, bar_format=BAR, **settings)
    times = {"mininterval": SECONDS, "maxinterval": 2 * SECONDS, "delay": SECONDS, "miniters": 1}
    return Bar(items, file=_Lines(), bar_format=PLAIN, leave=False, **times, **settings)


def describe(state: Mapping[str, Any]) -> str:
    """Return the state of a tqdm bar in words.

    >>> describe({"n": 1, "total": 21, "initial": 0, "elapsed": 33.0, "rate": None, "unit": "group"})
    'group 1 of 21, 33 s each, about 11 min left'
    """
    done, total = state["n"], state["total"]
    place = f"{state['unit']} {done:,}" + (f" of {total:,}" if total else "")
    rate = state["rate"] or (done - state["initial"]) / max(state["elapsed"], 1e-9)
    if not rate:
        return place
    pace = f"{rate:,.3g} per second" if rate > 1 else f"{duration(1 / rate)} each"
    return f"{place}, {pace}" + (f", about {duration((total - done) / rate)} left" if total else "")


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it.

    >>> [duration(seconds) for seconds in (0.0, 1.52, 33.0, 660.0, 9000.0)]
    ['0 s', '1.5 s', '33 s', '11 min', '2.5 h']
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
