"""Predicted accuracy of networks by published heads, with an interval, where the population of the networks is known."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.encoder.dreamed_probes import ProbeSets
from wscore.encoder.weight_encoder import OUTSIDE, WeightEncoder
from wscore.publish.pretrained import PublishedHead
from wscore.survey.records import Group

TARGET = "test_accuracy"


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


UNKNOWN: dict[str, float | None] = {"predicted": None, "low": None, "high": None, "inside": None}


def rank(groups: Sequence[Group], encoder: WeightEncoder | None, head: PublishedHead | None) -> Ranking:
    """Return the predicted accuracy of all networks; no number for those that the encoder does not know."""
    count = sum(len(group.names) for group in groups)
    if encoder is None:
        return Ranking([dict(UNKNOWN)] * count, np.zeros((count, 0)), {})
    rows, latents = [], []
    for group in groups:
        encoding = encoder.encode_many(group.layout, group.vectors)
        latents.append(encoding.latents.numpy())
        for vector, inside in zip(group.vectors, encoding.inside.tolist(), strict=True):
            state = group.layout.unflatten(torch.from_numpy(vector))
            rows.append(
                {**UNKNOWN, "inside": inside, **(_predicted(head.read, state) if head and inside > OUTSIDE else {})}
            )
    known = any(row["inside"] > OUTSIDE for row in rows)
    return Ranking(rows, np.concatenate(latents), encoder.probes if known else {})


def _predicted(
    read: Callable[[dict[str, Tensor]], dict[str, Any]], state: dict[str, Tensor]
) -> dict[str, float | None]:
    told = read(state)
    names = {"predicted": TARGET, "low": f"{TARGET}_low", "high": f"{TARGET}_high"}
    return {key: told.get(name) for key, name in names.items()}
