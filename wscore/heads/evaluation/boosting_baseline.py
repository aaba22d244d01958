"""Gradient boosting on seven statistics of each tensor: the simple rival that every head is printed beside.

Unterthiner et al. (2020), "Predicting neural network accuracy from weights", arXiv 2002.11448, with the table of
`wscore.heads.weight_statistics`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingRegressor

from wscore.errors import DataError
from wscore.heads.boosting import Boosted, Known, boosted, class_weights, split_gains, varying
from wscore.heads.targets import Binary, Continuous, Target
from wscore.heads.weight_statistics import Features

MAX_BINS = 127  # also the most layouts that are told apart as categories


class Boost(NamedTuple):
    """What gradient boosting says, and what it looked at.

    Attributes:
        answers: (N, width): probability of true, scaled number, or probability of each name of the vocabulary.
        gains: share of each column in the sum of the gains of all splits, largest first; columns without one left out.
    """

    answers: Float[np.ndarray, "rows width"]
    gains: dict[int, float]


def boost(target: Target, train: Known, validation: Known, test: Features, *, iterations: int, seed: int) -> Boost:
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

    Raises:
        DataError: if no statistic varies over the training rows.
    """
    kept = varying(train.features)
    if not kept.size:
        raise DataError("no weight statistic varies over the training networks", where=target.name)
    known = [Known(rows.features[:, kept], rows.values) for rows in (train, validation)]
    categories = _categories(train.features, kept)
    options = {"max_bins": MAX_BINS, "categorical_features": categories}
    model = boosted(target, *known, iterations=iterations, seed=seed, **options)
    return Boost(boosted_answers(model, target, test[:, kept]), split_gains(model, kept))


def _categories(features: Features, kept: np.ndarray) -> list[int] | None:
    layout = features.shape[1] - 1
    return [len(kept) - 1] if kept[-1] == layout and features[:, layout].max() < MAX_BINS else None


def boosted_answers(model: Boosted, target: Target, features: Features) -> np.ndarray:
    """Return predictions as (N, width); a class without a training row has probability 0.

    The probabilities are weighed as the classes are in the loss of the head, w_k p_k / sum_j w_j p_j, so that both
    answer the same question. Weights in the fitting would come to the same in the limit, but sklearn bins weighted rows
    slowly.
    """
    if isinstance(target, Continuous) or isinstance(model, HistGradientBoostingRegressor):
        return model.predict(features)[:, None]
    share = np.zeros((len(features), max(2, target.width)))
    share[:, np.asarray(model.classes_).astype(int)] = model.predict_proba(features)
    share *= class_weights(target)
    share /= share.sum(axis=1, keepdims=True)
    return share[:, 1:] if isinstance(target, Binary) else share
