"""What a survey reads and reports."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec
import numpy as np
from jaxtyping import Float

from wscore.networks.layout import Layout

Source = Literal["file", "rule", "learned"]
T = TypeVar("T")
CHUNK = 4_000_000  # weights that are looked at together


@runtime_checkable
class Progress(Protocol):
    """Wraps the items of a long loop and shows how far it is."""

    def __call__(self, items: Iterable[T], /, *, total: int, unit: str) -> Iterable[T]:
        """Return the items."""
        ...


def silent(items: Iterable[T], /, *, total: int, unit: str) -> Iterable[T]:  # noqa: ARG001
    """Return the items and show nothing."""
    return items


class Group(NamedTuple):
    """Networks of one layout.

    Attributes:
        layout: of all of them.
        vectors: their weights, finite.
        names: one per network.
    """

    layout: Layout
    vectors: Float[np.ndarray, "network weights"]
    names: Sequence[str]

    def chunks(self) -> Iterator["Group"]:
        """Yield the networks a few at a time, so that what is computed of them fits into memory."""
        step = max(1, CHUNK // max(self.layout.size, 1))
        for start in range(0, len(self.vectors), step):
            rows = slice(start, start + step)
            yield Group(self.layout, self.vectors[rows], self.names[rows])


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a network.

    Attributes:
        network: its name.
        cause: a key of `wscore.survey.damages.DAMAGES`, or `unreadable`.
        tensor: where it shows; empty for the whole network.
        evidence: one sentence.
        source: whether reading the file, a rule or the classifier found it.
        score: probability of damage; 1 for files and rules.
    """

    network: str
    cause: str
    tensor: str
    evidence: str
    source: Source
    score: float
