"""Gradient boosting on seven statistics of each tensor: the main baseline of the property heads.

Unterthiner et al. (2020), "Predicting neural network accuracy from weights", arXiv 2002.11448, with the table of
`wscore.encoder.weight_statistics`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingRegressor

from wscore.encoder.weight_statistics import Features
from wscore.errors import DataError
from wscore.heads.boosting import Boosted, Known, boosted, class_weights, split_gains, varying
from wscore.heads.targets import Binary, Continuous, Target

MAX_BINS = 63  # also the maximum number of layouts treated as categories
#: A third of the time of the heads' own boosting, and scores that are as high or higher.
QUICK: dict[str, Any] = {"max_bins": MAX_BINS, "learning_rate": 0.15, "n_iter_no_change": 10}
SEARCHED = 0.3  # share of the statistics among which each split is searched


class Boost(NamedTuple):
    """Predictions of gradient boosting with feature importances.

    Attributes:
        outputs: (N, width): probability of true, scaled value, or probability of each class.
        gains: share of each column in the total split gain, largest first; columns without gain are omitted.
    """

    outputs: Float[np.ndarray, "rows width"]
    gains: dict[int, float]


def boost(target: Target, train: Known, validation: Known, test: Features, *, iterations: int, seed: int) -> Boost:
    """Return what gradient boosting on statistics, fitted on the training rows, predicts for the test rows.

    Early stopping after 10 iterations without gain on the validation rows, if there are any. Constant columns are
    dropped; the last column, the layout, is categorical if there are at most `MAX_BINS` layouts.

    Args:
        target: what is predicted.
        train: rows of `statistics_table`.
        validation: rows for early stopping; may be empty.
        test: rows to predict.
        iterations: maximum number of trees (per class).
        seed: for ties and the binning of large tables.

    Raises:
        DataError: if no statistic varies over the training rows.
    """
    columns = varying(train.features)
    if not columns.size:
        raise DataError("no weight statistic varies over the training networks", where=target.name)
    known = [Known(rows.features[:, columns], rows.values) for rows in (train, validation)]
    categories = _categories(train.features, columns)
    options = QUICK | {"max_features": SEARCHED, "categorical_features": categories}
    model = boosted(target, *known, iterations=iterations, seed=seed, **options)
    return Boost(boosted_outputs(model, target, test[:, columns]), split_gains(model, columns))


def _categories(features: Features, columns: np.ndarray) -> list[int] | None:
    layout = features.shape[1] - 1
    return [len(columns) - 1] if columns[-1] == layout and features[:, layout].max() < MAX_BINS else None


def boosted_outputs(model: Boosted, target: Target, features: Features) -> np.ndarray:
    """Return predictions as (N, width); a class without a training row has probability 0.

    The probabilities are reweighted by the class weights of the head's loss, w_k p_k / sum_j w_j p_j, so that both are
    comparable. Sample weights in the fit are equivalent in the limit, but scikit-learn bins weighted rows slowly.
    """
    if isinstance(target, Continuous) or isinstance(model, HistGradientBoostingRegressor):
        return model.predict(features)[:, None]
    share = np.zeros((len(features), max(2, target.width)))
    share[:, np.asarray(model.classes_).astype(int)] = model.predict_proba(features)
    share *= class_weights(target)
    share /= share.sum(axis=1, keepdims=True)
    return share[:, 1:] if isinstance(target, Binary) else share
