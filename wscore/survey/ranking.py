"""Predicted accuracy of networks by published heads, with an interval, where the population of the networks is known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from wscore.encoder.dreamed_probes import ProbeSets
from wscore.encoder.weight_encoder import OUTSIDE, WeightEncoder
from wscore.publish.pretrained import PublishedHead
from wscore.survey.records import Group, Progress, silent

COLUMNS = {"predicted": "test_accuracy", "low": "test_accuracy_low", "high": "test_accuracy_high"}  # of the head
UNKNOWN: dict[str, float | None] = {"inside": None, **dict.fromkeys(COLUMNS)}


class Ranking(NamedTuple):
    """What published models say about networks.

    Attributes:
        rows: per network `inside`, and `predicted`, `low` and `high` where it is like the training networks.
        latents: per network; empty without an encoder.
        probes: that fit networks of the population; empty if no network belongs to it.
    """

    rows: list[dict[str, float | None]]
    latents: Float[np.ndarray, "network latent"]
    probes: ProbeSets


def rank(
    groups: Sequence[Group],
    encoder: WeightEncoder | None,
    head: PublishedHead | None,
    progress: Progress = silent,
) -> Ranking:
    """Return the predicted accuracy of all networks; no number for those that the encoder does not know."""
    count = sum(len(group.names) for group in groups)
    if encoder is None:
        return Ranking([dict(UNKNOWN)] * count, np.zeros((count, 0)), {})
    rows: list[dict[str, float | None]] = []
    latents = []
    members = ((group.layout, vector) for group in groups for vector in group.vectors)
    for layout, vector in progress(members, total=count, unit="network"):
        known = encoder.read(layout.unflatten(torch.from_numpy(vector)), more=head.features if head else ())
        latents.append(known.encoding.latents.numpy())
        inside = float(known.encoding.inside)
        predicted = head.predict(known) if head and inside > OUTSIDE else {}
        rows.append({"inside": inside, **{name: predicted.get(column) for name, column in COLUMNS.items()}})
    belong = any((row["inside"] or 0) > OUTSIDE for row in rows)
    return Ranking(rows, np.stack(latents), encoder.probes if belong else {})
