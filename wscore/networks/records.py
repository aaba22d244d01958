"""Records returned by network readers: a network, or the reason why it is excluded."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from wscore.errors import DataError

REASONS = {
    "unreadable": "the file is truncated, damaged, or cannot be opened",
    "code": "the file contains Python objects that would execute code",
    "no_checkpoint": "the file holds no tensors by name",
    "too_large": "more numbers than zoo.reading.max_weights, or claims to unpack to more than it holds",
    "outside": "a link that leads out of the folder",
    "not_real": "tensors that are complex, sparse or of a subclass",
    "quantised": "weights are stored as small integers with scales",
    "clash": "two tensors have one name",
    "no_match": "the path does not match zoo.run_pattern",
    "mismatched_layout": "weights and layout do not match",
    "file_missing": "a row of metadata without its network, or an index without its shards",
    "same_checkpoint": "another network has the same run and checkpoint, or the same id",
    "not_finite": "NaN or infinite weights",
    "large_weights": "a weight beyond zoo.max_weight",
    "diverged": "not finite, or a weight beyond zoo.max_weight, in training",
    "constant": "all weight matrices are constant",
    "duplicate": "the same weights as another network",
    "near_duplicate": "nearly the same weights as another network",
    "missing_metadata": "a column of zoo.hygiene.required is empty",
    "below_minimum": "a column is below zoo.hygiene.minimum",
}


class RawNetwork(NamedTuple):
    """One network as read from its source.

    Attributes:
        model_id: unique name, derived from its location in the source.
        run: training run that it belongs to.
        checkpoint: number that orders it within its run, or None for the order of reading.
        state: floating-point tensors, and counters of one integer, by name.
        metadata: columns: numbers, truth values, texts and lists of texts.
        architecture: JSON for `wscore.networks.architectures.parse`, an external name, or empty.
        constants: masks and index tables, which are not weights, by name.
    """

    model_id: str
    run: str
    checkpoint: float | None
    state: dict[str, Tensor]
    metadata: dict[str, Any]
    architecture: str = ""
    constants: Mapping[str, Tensor] = MappingProxyType({})


class Rejected(NamedTuple):
    """A source item excluded from the zoo.

    Attributes:
        model_id: its name, or its location in the source.
        reason: key of `REASONS`.
        detail: what was found.
    """

    model_id: str
    reason: str
    detail: str


class RejectedError(DataError):
    """Raised by a reader for a network that cannot be read; reason and detail as in `Rejected`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(REASONS[reason], got=detail)
        self.reason, self.detail = reason, detail
