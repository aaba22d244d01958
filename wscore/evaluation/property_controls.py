"""What a property head must beat, on the same held-out networks, fitted on the same training networks.

    control        what it is given
    mean           nothing: the mean, or the share of each label or name, of the training networks
    shapes         the kinds and shapes of the tensors: the same by set of shapes, all networks if a set was never seen
    linear_probe   the latents that the head is given: ridge regression, its strength chosen on the validation networks
    statistics     seven statistics of each tensor: gradient boosting, ended by the validation networks

All take a `Case` and return what a head returns: probability of true (N, 1), scaled number (N, 1), or probability of
each name of the vocabulary (N, K); the linear probe's are clipped to [0, 1] but don't add up to 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wscore.evaluation.statistics import Known, boost
from wscore.training.targets import Binary, Continuous, Discrete, Target
from wscore.zoo.layout import Layout

STRENGTHS = tuple(10.0**exponent for exponent in range(-3, 6))  # of the ridge penalty, per unit of latent variance


class Rows(NamedTuple):
    """What controls are given about networks.

    Attributes:
        latents: (N, Z).
        statistics: (N, F), see `wscore.evaluation.statistics.statistics_table`.
        shapes: (N,) number of the set of kinds and shapes, equal for equal sets.
    """

    latents: Float[np.ndarray, "rows latent"]
    statistics: Float[np.ndarray, "rows feature"]
    shapes: Int[np.ndarray, " rows"]

    def take(self, rows: Bool[np.ndarray, " rows"] | Int[np.ndarray, " taken"]) -> "Rows":
        """Return some of the networks."""
        return Rows(*(part[rows] for part in self))


class Case(NamedTuple):
    """One target to be predicted.

    Attributes:
        target: as fitted on the training networks.
        train: training networks of which it is known.
        train_values: their encoded values.
        validation: validation networks of which it is known.
        validation_values: their encoded values.
        test: networks to predict.
        iterations: most trees of `statistics`.
        seed: of `statistics`.
    """

    target: Target
    train: Rows
    train_values: Float[np.ndarray, " train"]
    validation: Rows
    validation_values: Float[np.ndarray, " validation"]
    test: Rows
    iterations: int
    seed: int


def mean(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return the mean of the training networks for every network."""
    return np.repeat(_columns(case.target, case.train_values).mean(axis=0)[None], len(case.test.shapes), axis=0)


def shapes(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return for every network the mean of the training networks with the same shapes."""
    columns, found = _columns(case.target, case.train_values), mean(case)
    for number in np.intersect1d(case.train.shapes, case.test.shapes):
        found[case.test.shapes == number] = columns[case.train.shapes == number].mean(axis=0)
    return found


def linear_probe(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return the ridge regression of the target, or of each label or name as 0 and 1, on the standardised latents."""
    columns = _columns(case.target, case.train_values)
    centre, spread = case.train.latents.mean(axis=0), case.train.latents.std(axis=0)
    spread = np.where(spread > 1e-6 * (1 + np.abs(centre)), spread, 1.0)
    train, validation, test = (
        (part.latents.astype(np.float64) - centre) / spread for part in (case.train, case.validation, case.test)
    )
    left, sizes, right = np.linalg.svd(train, full_matrices=False)
    projected = left.T @ (columns - columns.mean(axis=0))  # (R, K)
    weights = [right.T @ (projected * _shrink(sizes, strength, len(train))[:, None]) for strength in STRENGTHS]
    truth = _columns(case.target, case.validation_values) - columns.mean(axis=0)
    errors = [float(np.sum((validation @ weight - truth) ** 2)) for weight in weights]
    chosen = weights[int(np.argmin(errors))] if len(truth) else weights[STRENGTHS.index(1.0)]
    found = test @ chosen + columns.mean(axis=0)
    return found if isinstance(case.target, Continuous) else found.clip(0.0, 1.0)


def statistics(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return what gradient boosting makes of the weight statistics."""
    return boost(
        case.target,
        Known(case.train.statistics, case.train_values),
        Known(case.validation.statistics, case.validation_values),
        case.test.statistics,
        iterations=case.iterations,
        seed=case.seed,
    )


CONTROLS: dict[str, Callable[[Case], Float[np.ndarray, "rows width"]]] = {
    "mean": mean,
    "shapes": shapes,
    "linear_probe": linear_probe,
    "statistics": statistics,
}


def shape_numbers(layouts: list[Layout]) -> Int[np.ndarray, " rows"]:
    """Return a number per layout, the same for those that agree in kinds and shapes; names of tensors don't count."""
    seen: dict[tuple[object, ...], int] = {}
    keys = [tuple((spec.kind, spec.shape) for spec in layout.tensors) for layout in layouts]
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=int)


def _columns(target: Target, values: np.ndarray) -> np.ndarray:
    """Return encoded values as (N, width), a column of 0 and 1 per name of a vocabulary."""
    if isinstance(target, Discrete):
        return np.eye(target.width)[values.astype(int)]
    assert isinstance(target, Binary | Continuous)
    return values.astype(float)[:, None]


def _shrink(sizes: np.ndarray, strength: float, rows: int) -> np.ndarray:
    """Return s / (s^2 + strength * rows) of the singular values, 0 for those that vanish."""
    kept = sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-30)
    return np.where(kept, sizes / (sizes**2 + strength * rows), 0.0)
