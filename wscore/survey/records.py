"""What a survey reads and reports."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float

from wscore.networks.layout import Layout

Source = Literal["file", "rule", "learned"]


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
