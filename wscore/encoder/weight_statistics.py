"""Seven statistics of each tensor of a network.

Unterthiner et al. (2020), "Predicting neural network accuracy from weights", arXiv 2002.11448.
Networks of different architectures share a table: a column is one statistic of the k-th tensor of its kind, counted
from the output of the network, so that classifier weights of all networks share a column; missing tensors are NaN. The
last column is the index of the layout.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wscore.io import scratch_array
from wscore.networks.layout import Layout
from wscore.zoo.store import Zoo

PERCENTILES = (0, 25, 50, 75, 100)
STATISTICS = ("mean", "std", *(f"p{percent}" for percent in PERCENTILES))
CHUNK = 128  # networks of one layout whose statistics are computed at once

Features = Float[np.ndarray, "rows feature"]


class FeatureTable(NamedTuple):
    """A table of network features.

    Attributes:
        values: (N, F); NaN where a network lacks the feature.
        names: column names such as `linear[-1].std`.
    """

    values: Features
    names: tuple[str, ...]


def tensor_statistics(
    layout: Layout, vectors: Float[np.ndarray, "rows weights"], tensors: Sequence[int] | None = None
) -> Float[np.ndarray, "rows tensor statistic"]:
    """Return `STATISTICS` of tensors (all, or those with these numbers) of networks (n, D) that share a layout, in float64."""
    spans = list(layout.slices().values())
    chosen = spans if tensors is None else [spans[number] for number in tensors]
    parts = [vectors[:, span].astype(np.float64) for span in chosen]
    if not parts:
        return np.empty((len(vectors), 0, len(STATISTICS)))
    return np.stack([_statistics(tensor) for tensor in parts], axis=1)  # (n, tensors, 7)


def tensor_roles(layout: Layout) -> list[tuple[str, int]]:
    """Return (kind, k) for each tensor: it is the k-th of its kind from the output, counted from 1."""
    kinds = [spec.kind for spec in layout.tensors]
    return [(kind, kinds[number:].count(kind)) for number, kind in enumerate(kinds)]


def statistics_table(zoo: Zoo) -> FeatureTable:
    """Return the statistics of all networks of a zoo, row by row; the weights are streamed, never all held in memory."""
    layouts = sorted(zoo.layouts)
    roles = {key: tensor_roles(zoo.layouts[key]) for key in layouts}
    order = sorted({role for tensors in roles.values() for role in tensors})
    columns = {key: [order.index(role) for role in tensors] for key, tensors in roles.items()}
    names = [f"{kind}[-{position}].{name}" for kind, position in order for name in STATISTICS]
    values = scratch_array((len(zoo), len(names) + 1), float)
    values[:, :-1] = np.nan
    keys = zoo.table["layout"].astype(str).tolist()
    for key, rows, vectors in chunks(zoo, keys):
        statistics = tensor_statistics(zoo.layouts[key], vectors)  # (n, tensors, 7)
        places = np.add.outer(np.array(columns[key]) * len(STATISTICS), np.arange(len(STATISTICS))).ravel()
        values[np.array(rows)[:, None], places] = statistics.reshape(len(rows), -1)
    values[:, -1] = [layouts.index(key) for key in keys]
    return FeatureTable(values, (*names, "layout"))


def _statistics(weights: np.ndarray) -> np.ndarray:
    percentiles = np.percentile(weights, PERCENTILES, axis=1).T
    return np.column_stack([weights.mean(axis=1), weights.std(axis=1), percentiles])


def chunks(zoo: Zoo, keys: Sequence[str]) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """Yield (layout, rows, weights) of `CHUNK` networks of one layout at a time, in one pass over the files."""
    waiting: dict[str, list[tuple[int, np.ndarray]]] = {}
    for row, vector in zoo.stream():
        group = waiting.setdefault(keys[row], [])
        group.append((row, vector))
        if len(group) == CHUNK:
            yield _chunk(keys[row], waiting.pop(keys[row]))
    for key, group in waiting.items():
        yield _chunk(key, group)


def _chunk(key: str, group: Sequence[tuple[int, np.ndarray]]) -> tuple[str, list[int], np.ndarray]:
    return key, [row for row, _ in group], np.stack([vector for _, vector in group])
