"""Weight statistics per tensor and gradient boosting on them: the simple rival that every head is printed beside.

Seven statistics of each tensor predict test accuracy very well: Unterthiner et al. (2020), "Predicting neural network
accuracy from weights", arXiv 2002.11448. Networks of different architectures share a table: a column is one statistic
of the k-th tensor of its kind, counted from the output of the network, so that the classifiers' weights stand in one
column; what a network does not have is NaN. The last column tells the layouts apart.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from wscore.errors import DataError
from wscore.training.targets import Binary, Continuous, Discrete, Target
from wscore.zoo.layout import Layout
from wscore.zoo.store import Zoo

PERCENTILES = (0, 25, 50, 75, 100)
STATISTICS = ("mean", "std", *(f"p{percent}" for percent in PERCENTILES))
CHUNK = 128  # networks of one layout whose statistics are taken at once
MAX_BINS = 127  # also the most layouts that are told apart as categories
SETTINGS: dict[str, Any] = {"learning_rate": 0.1, "max_leaf_nodes": 15, "max_bins": MAX_BINS, "n_iter_no_change": 20}

Features = Float[np.ndarray, "rows feature"]
Model = HistGradientBoostingClassifier | HistGradientBoostingRegressor


class Columns(NamedTuple):
    """A table of statistics.

    Attributes:
        values: (N, F) float64; NaN where a network has no such tensor.
        names: what each column is, such as `linear[-1].std`; the last one is `layout`.
    """

    values: Features
    names: tuple[str, ...]


class Known(NamedTuple):
    """Rows of which a target is known.

    Attributes:
        features: (N, F) numbers that it is predicted from.
        values: (N,) encoded target.
    """

    features: Features
    values: Float[np.ndarray, " rows"]


def tensor_statistics(
    layout: Layout, vectors: Float[np.ndarray, "rows weights"]
) -> Float[np.ndarray, "rows tensor statistic"]:
    """Return `STATISTICS` of each tensor of networks (n, D) that share a layout, in float64."""
    parts = [vectors[:, span].astype(np.float64) for span in layout.slices().values()]
    return np.stack([_statistics(part) for part in parts], axis=1)  # (n, tensors, 7)


def tensor_roles(layout: Layout) -> list[tuple[str, int]]:
    """Return (kind, k) for each tensor: it is the k-th of its kind from the output, counted from 1."""
    kinds = [spec.kind for spec in layout.tensors]
    return [(kind, kinds[number:].count(kind)) for number, kind in enumerate(kinds)]


def statistics_table(zoo: Zoo) -> Columns:
    """Return the statistics of all networks of a zoo, row by row; the weights are streamed, never held together."""
    layouts = sorted(zoo.layouts)
    roles = {key: tensor_roles(zoo.layouts[key]) for key in layouts}
    order = sorted({role for found in roles.values() for role in found})
    columns = {key: [order.index(role) for role in found] for key, found in roles.items()}
    values = np.full((len(zoo), len(order), len(STATISTICS)), np.nan)
    keys = zoo.table["layout"].astype(str).tolist()
    for key, rows, vectors in _chunks(zoo, keys):
        values[np.ix_(rows, columns[key])] = tensor_statistics(zoo.layouts[key], vectors)
    layout = np.array([layouts.index(key) for key in keys], dtype=float)
    names = [f"{kind}[-{position}].{name}" for kind, position in order for name in STATISTICS]
    return Columns(np.column_stack([values.reshape(len(zoo), -1), layout]), (*names, "layout"))


def boost(
    target: Target, train: Known, validation: Known, test: Features, *, iterations: int, seed: int
) -> Float[np.ndarray, "rows width"]:
    """Return what gradient boosting on statistics, fitted on the training rows, predicts for the test rows.

    The validation rows, if there are any, end it after 20 iterations without gain. Columns that do not vary are left
    out; the last column, the layout, is a category as long as there are at most `MAX_BINS` layouts.

    Args:
        target: what is predicted.
        train: rows of `statistics_table`.
        validation: likewise; may be empty.
        test: likewise.
        iterations: most trees (per class).
        seed: of ties and of the binning of large tables.

    Returns:
        (N, width): probability of true, scaled number, or probability of each name of the vocabulary.

    Raises:
        DataError: if no statistic varies over the training rows.
    """
    kept = _varying(train.features)
    if not kept.size:
        raise DataError("no weight statistic varies over the training networks", where=target.name)
    stops = {"X_val": validation.features[:, kept], "y_val": validation.values} if len(validation.values) else {}
    categories = _categories(train.features, kept)
    options = {**SETTINGS, "categorical_features": categories, "early_stopping": bool(stops)}
    kind = HistGradientBoostingRegressor if isinstance(target, Continuous) else HistGradientBoostingClassifier
    model = kind(max_iter=iterations, random_state=seed, **options)
    model.fit(train.features[:, kept], train.values, **stops)
    return _outputs(model, target, test[:, kept])


def _statistics(part: np.ndarray) -> np.ndarray:
    percentiles = np.percentile(part, PERCENTILES, axis=1).T
    return np.column_stack([part.mean(axis=1), part.std(axis=1), percentiles])


def _chunks(zoo: Zoo, keys: Sequence[str]) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """Yield (layout, rows, weights) of `CHUNK` networks of one layout at a time, in one pass over the files."""
    waiting: dict[str, list[tuple[int, np.ndarray]]] = {}
    for row, vector in zoo.stream():
        group = waiting.setdefault(keys[row], [])
        group.append((row, vector))
        if len(group) == CHUNK:
            yield _stack(keys[row], waiting.pop(keys[row]))
    for key, group in waiting.items():
        yield _stack(key, group)


def _stack(key: str, group: Sequence[tuple[int, np.ndarray]]) -> tuple[str, list[int], np.ndarray]:
    return key, [row for row, _ in group], np.stack([vector for _, vector in group])


def _varying(features: Features) -> np.ndarray:
    """Return the numbers of the columns with two different values or more, NaN not counted."""
    found = np.isfinite(features)
    low = np.where(found, features, np.inf).min(axis=0)
    return np.flatnonzero(np.where(found, features, -np.inf).max(axis=0) > low)


def _categories(features: Features, kept: np.ndarray) -> list[int] | None:
    layout = features.shape[1] - 1
    return [len(kept) - 1] if kept[-1] == layout and features[:, layout].max() < MAX_BINS else None


def _class_weights(target: Binary | Discrete) -> np.ndarray:
    """Return the weights that the head's loss gives to the classes."""
    return np.array([1.0, target.positive_weight] if isinstance(target, Binary) else target.class_weights)


def _outputs(model: Model, target: Target, features: Features) -> np.ndarray:
    """Return predictions as (N, width); a class without a training row has probability 0.

    The probabilities are weighed as the classes are in the loss of the head, w_k p_k / sum_j w_j p_j, so that both
    answer the same question. Weights in the fitting would come to the same in the limit, but sklearn bins weighted rows
    slowly.
    """
    if isinstance(target, Continuous) or isinstance(model, HistGradientBoostingRegressor):
        return model.predict(features)[:, None]
    share = np.zeros((len(features), max(2, target.width)))
    share[:, np.asarray(model.classes_).astype(int)] = model.predict_proba(features)
    share *= _class_weights(target)
    share /= share.sum(axis=1, keepdims=True)
    return share[:, 1:] if isinstance(target, Binary) else share
