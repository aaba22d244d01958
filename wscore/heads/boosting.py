"""Gradient-boosted trees: fitted by scikit-learn, stored as tensors (`wscore.heads.trees`)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from wscore.encoder.weight_statistics import Features
from wscore.errors import DataError
from wscore.heads.targets import Binary, Continuous, Discrete, Encoded, Target, Targets
from wscore.heads.trees import Forest, ForestConfig, Nodes

Boosted = Any  # a HistGradientBoostingRegressor or HistGradientBoostingClassifier of scikit-learn, which loads slowly
Tree = dict[str, np.ndarray]
AT_ONCE = 1 << 24  # entries processed together
PATIENCE = 20  # rounds without gain on the validation rows
SETTINGS: dict[str, Any] = {"learning_rate": 0.1, "max_leaf_nodes": 15, "n_iter_no_change": PATIENCE}


STUMP: Tree = {  # a tree without splits that adds 0
    "feature": np.array([0]), "threshold": np.array([0.0]), "left": np.array([0]), "right": np.array([0]),
    "missing_left": np.array([True]), "value": np.array([0.0]),
}  # fmt: skip


class Examples(NamedTuple):
    """Features and targets of networks.

    Attributes:
        features: (N, F); NaN marks a missing value.
        encoded: their targets.
    """

    features: Features
    encoded: Encoded


class Known(NamedTuple):
    """Rows with a known target.

    Attributes:
        features: (N, F) inputs; NaN marks a missing value.
        values: (N,) encoded target.
    """

    features: Features
    values: Float[np.ndarray, " rows"]


def boosted(target: Target, train: Known, validation: Known, *, iterations: int, seed: int, **options: Any) -> Boosted:
    """Return gradient boosting fitted on the training rows.

    Early stopping after `PATIENCE` rounds without gain on the validation rows, if there are any.

    Args:
        target: what is predicted.
        train: training rows.
        validation: may be empty.
        iterations: maximum number of rounds.
        seed: for ties, feature subsampling, and the binning of large tables.
        options: scikit-learn options that override `SETTINGS`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    stops = {"X_val": validation.features, "y_val": validation.values} if len(validation.values) else {}
    kind = HistGradientBoostingRegressor if isinstance(target, Continuous) else HistGradientBoostingClassifier
    settings = {**SETTINGS, "early_stopping": bool(stops), **options}
    model = kind(max_iter=iterations, random_state=seed, **settings)
    return model.fit(train.features, train.values, **stops)


def varying(features: Features) -> np.ndarray:
    """Return the indices of the columns with at least two distinct values, ignoring NaN."""
    step = max(1, AT_ONCE // max(1, len(features)))
    chosen = [np.zeros(0, np.int64)]
    for start in range(0, features.shape[1], step):
        columns = features[:, start : start + step]
        finite = np.isfinite(columns)
        low = np.where(finite, columns, np.inf).min(axis=0, initial=np.inf)
        chosen.append(start + np.flatnonzero(np.where(finite, columns, -np.inf).max(axis=0, initial=-np.inf) > low))
    return np.concatenate(chosen)


def class_weights(target: Binary | Discrete) -> Float[np.ndarray, " classes"]:
    """Return the class weights used in the loss of a head."""
    return np.array([1.0, target.positive_weight] if isinstance(target, Binary) else target.class_weights)


def split_gains(model: Any, kept: Int[np.ndarray, " column"]) -> dict[int, float]:
    """Return the share of each column in the gains of all splits of a fitted model, largest first.

    Args:
        model: as `boosted` returns it.
        kept: indices of the columns that it was fitted on.
    """
    nodes = [tree.nodes for iteration in model._predictors for tree in iteration]  # noqa: SLF001
    gains = np.zeros(len(kept))
    for tree_nodes in nodes:
        inner = tree_nodes[tree_nodes["is_leaf"] == 0]
        np.add.at(gains, inner["feature_idx"].astype(int), np.maximum(inner["gain"], 0.0))
    order = [place for place in np.argsort(-gains, kind="stable").tolist() if gains[place] > 0]
    return {int(kept[place]): float(gains[place] / gains.sum()) for place in order}


def fit_forest(targets: Targets, train: Examples, validation: Examples, **settings: Any) -> Forest:
    """Return a forest of all targets, each fitted by `boosted` on the rows where it is known.

    Each class logit is shifted by the logarithm of the class weight, which gives the probabilities
    w_k p_k / sum_j w_j p_j: the optimum of a class-weighted loss.

    Args:
        targets: what is predicted.
        train: features and encoded targets.
        validation: the same for early stopping.
        settings: `iterations`, `seed` and options of `boosted`.

    Raises:
        DataError: if no feature varies over the training rows.
    """
    columns = varying(train.features)
    if not columns.size:
        raise DataError("no feature varies over the training networks", where="heads.features")
    grown = {}
    for number, target in enumerate(targets):
        known = [_known(features[:, columns], encoded, number) for features, encoded in (train, validation)]
        grown[target.name] = _grow(boosted(target, *known, **settings), target, columns)
    return _plant(targets, grown, train.features.shape[1])


class Grown(NamedTuple):
    """Trees of one target, ordered by round and output, and the initial values they add to."""

    trees: Sequence[Tree]
    base: Float[np.ndarray, " width"]


def _known(features: Features, encoded: Encoded, number: int) -> Known:
    known = encoded.known[:, number]
    return Known(features[known], encoded.values[known, number])


def _grow(model: Any, target: Target, columns: np.ndarray) -> Grown:
    """Return the trees of a fitted model in terms of all features.

    The private attributes `_predictors` and `_baseline_prediction` are scikit-learn's only way to its trees; a test
    compares the predictions.
    """
    base = np.asarray(model._baseline_prediction, float).reshape(-1)  # noqa: SLF001
    trees = [[_tree(tree.nodes, columns) for tree in iteration] for iteration in model._predictors]  # noqa: SLF001
    if isinstance(target, Binary):
        base = base + np.log(target.positive_weight)
    if isinstance(target, Discrete):
        if len(base) < target.width:  # for two classes scikit-learn stores only the logit of the second
            base, trees = np.append(0.0, base), [[STUMP, *iteration] for iteration in trees]
        base = base + np.log(class_weights(target))
    return Grown([tree for iteration in trees for tree in iteration], base)


def _tree(nodes: np.ndarray, columns: np.ndarray) -> Tree:
    leaf, numbers = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
    return {
        "feature": np.where(leaf, 0, columns[np.where(leaf, 0, nodes["feature_idx"])]),
        "threshold": np.where(leaf, 0.0, nodes["num_threshold"]),
        "left": np.where(leaf, numbers, nodes["left"].astype(np.int64)),
        "right": np.where(leaf, numbers, nodes["right"].astype(np.int64)),
        "missing_left": nodes["missing_go_to_left"].astype(bool),
        "value": nodes["value"].astype(float),
    }


def _plant(targets: Targets, grown: Mapping[str, Grown], inputs: int) -> Forest:
    trees = [tree for ensemble in grown.values() for tree in ensemble.trees]
    sizes = np.array([len(tree["value"]) for tree in trees], dtype=np.int64)
    roots = np.cumsum(sizes) - sizes
    config = ForestConfig(
        inputs=inputs,
        outputs={target.name: target.width for target in targets},
        trees={target.name: len(grown[target.name].trees) // target.width for target in targets},
        nodes=int(sizes.sum()),
    )
    moved = [
        tree | {side: tree[side] + root for side in ("left", "right")} for tree, root in zip(trees, roots, strict=True)
    ]
    columns = {
        name: np.concatenate([tree[name] for tree in moved]) if moved else np.zeros(0)
        for name in Nodes._fields
        if name not in ("root", "base")
    }
    base = np.concatenate([ensemble.base for ensemble in grown.values()])
    forest = Forest(config)
    forest.fill(
        Nodes(**{name: torch.from_numpy(values) for name, values in (columns | {"root": roots, "base": base}).items()})
    )
    return forest.eval()
