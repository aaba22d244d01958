"""Baselines (controls) of the property heads, fitted and evaluated on the same networks.

    control          input and method
    mean             no input: mean, or class frequencies, of the training networks
    shapes           kinds and shapes of the tensors: the same per set of shapes, over all networks for an unseen set
    linear_probe     encoder latents: ridge regression, penalty selected on the validation networks
    untrained        latents of an untrained encoder, random combinations of its features: the same ridge regression
    shuffled         encoder latents, with the labels of the training networks shuffled: the same ridge regression
    pca              the same number of principal components of the weights: the same ridge regression
    hyperparameters  training hyperparameters instead of weights (for the accuracy only): gradient boosting
    statistics       seven statistics of each tensor: gradient boosting, early stopping on the validation networks
    probes           outputs on the probe images: the same gradient boosting
    spectra          singular values, neuron norms, balance of layers (for the accuracy only): the same gradient boosting
    invariants       statistics and spectra, all that the encoder reads of the weights (for the accuracy only): the same

All take a `Case` and return predictions as a head does: probability of true (N, 1), scaled value (N, 1), or probability
of each class (N, K); those of the linear probe are clipped to [0, 1] but do not sum to 1.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from wscore.heads.boosting import Known, boosted, varying
from wscore.heads.evaluation.boosting_baseline import QUICK, Boost, boost, boosted_outputs
from wscore.heads.targets import Binary, Continuous, Discrete, Target
from wscore.networks.layout import Layout
from wscore.pca import fit_pca
from wscore.zoo.store import Zoo

TOGETHER = 256  # networks whose weights are read at once
HELD = 25_000_000  # weights that stay in memory between passes
CLIP, SMALLEST = 6.0, 1e-6
SPARSE = {"max_features": 0.1}  # share of the columns among which boosting searches each split: there are hundreds
STRENGTHS = tuple(10.0**exponent for exponent in range(-3, 6))  # of the ridge penalty, per unit of latent variance


class ControlInputs(NamedTuple):
    """Inputs of the controls.

    Attributes:
        latents: (N, Z).
        statistics: (N, F), see `wscore.heads.evaluation.boosting_baseline.statistics_table`.
        untrained: (N, Z), see `untrained_latents`.
        probes: (N, P) numbers of the outputs on probe images; NaN for networks that were not run.
        spectra: (N, S) numbers of the weights beyond the statistics; NaN where a network lacks the tensor.
        shapes: (N,) index of the set of kinds and shapes.
        components: (N, Z) of a PCA of the weights, see `weight_components`.
        hyperparameters: (N, H) numbers, NaN where missing; categories as integers.
        names: column names of the statistics.
    """

    latents: Float[np.ndarray, "rows latent"]
    statistics: Float[np.ndarray, "rows feature"]
    untrained: Float[np.ndarray, "rows latent"]
    probes: Float[np.ndarray, "rows number"]
    spectra: Float[np.ndarray, "rows number"]
    shapes: Int[np.ndarray, " rows"]
    components: Float[np.ndarray, "rows latent"]
    hyperparameters: Float[np.ndarray, "rows setting"]
    names: tuple[str, ...]

    def take(self, rows: Bool[np.ndarray, " rows"] | Int[np.ndarray, " taken"]) -> "ControlInputs":
        """Return a subset of the networks."""
        return ControlInputs(*(values[rows] for values in self[:-1]), names=self.names)


class Case(NamedTuple):
    """One target to predict.

    Attributes:
        target: as fitted on the training networks.
        train: training networks of which it is known.
        train_values: their encoded values.
        validation: validation networks of which it is known.
        validation_values: their encoded values.
        test: networks to predict.
        iterations: maximum number of trees.
        seed: for trees and shuffling.
    """

    target: Target
    train: ControlInputs
    train_values: Float[np.ndarray, " train"]
    validation: ControlInputs
    validation_values: Float[np.ndarray, " validation"]
    test: ControlInputs
    iterations: int
    seed: int


def training_mean(case: Case) -> Float[np.ndarray, "rows width"]:
    """Predict the training mean for every network."""
    return np.repeat(_columns(case.target, case.train_values).mean(axis=0)[None], len(case.test.shapes), axis=0)


def shapes(case: Case) -> Float[np.ndarray, "rows width"]:
    """Predict the mean over the training networks with the same shapes."""
    columns, predicted = _columns(case.target, case.train_values), training_mean(case)
    for number in np.intersect1d(case.train.shapes, case.test.shapes):
        predicted[case.test.shapes == number] = columns[case.train.shapes == number].mean(axis=0)
    return predicted


def linear_probe(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return ridge regression predictions from standardised latents; labels and classes are one-hot targets."""
    return _ridge(case, *(inputs.latents for inputs in (case.train, case.validation, case.test)))


def untrained(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return the same as `linear_probe` on latents of an untrained encoder."""
    return _ridge(case, *(inputs.untrained for inputs in (case.train, case.validation, case.test)))


def shuffled(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return the same as `linear_probe` after training on shuffled values; no better than chance if nothing leaks."""
    order = np.random.default_rng(case.seed).permutation(len(case.train_values))
    return linear_probe(case._replace(train_values=case.train_values[order]))


def pca_probe(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return the same as `linear_probe` on principal components of the weights."""
    return _ridge(case, *(inputs.components for inputs in (case.train, case.validation, case.test)))


def hyperparameters(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return gradient boosting predictions from the hyperparameters; the mean if there are none or none varies."""
    return _boosting(case, *(inputs.hyperparameters for inputs in (case.train, case.validation, case.test)))


def probes(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return gradient boosting predictions from outputs on the probe images; the mean if no network was run."""
    return _boosting(case, *(inputs.probes for inputs in (case.train, case.validation, case.test)), **QUICK, **SPARSE)


def spectra(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return gradient boosting predictions from the spectra; the mean if there are none."""
    return _boosting(case, *(inputs.spectra for inputs in (case.train, case.validation, case.test)), **SPARSE)


def invariants(case: Case) -> Float[np.ndarray, "rows width"]:
    """Return gradient boosting predictions from statistics and spectra."""
    tables = (np.c_[inputs.statistics, inputs.spectra] for inputs in (case.train, case.validation, case.test))
    return _boosting(case, *tables, **SPARSE)


def _boosting(case: Case, train: np.ndarray, validation: np.ndarray, test: np.ndarray, **options: Any) -> np.ndarray:
    columns = varying(train)
    if not columns.size:
        return training_mean(case)
    known = (Known(train[:, columns], case.train_values), Known(validation[:, columns], case.validation_values))
    model = boosted(case.target, *known, iterations=case.iterations, seed=case.seed, **options)
    return boosted_outputs(model, case.target, test[:, columns])


def _ridge(case: Case, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> np.ndarray:
    columns = _columns(case.target, case.train_values)
    centre, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 1e-6 * (1 + np.abs(centre)), spread, 1.0)
    train, validation, test = ((inputs.astype(np.float64) - centre) / spread for inputs in (train, validation, test))
    left, sizes, right = np.linalg.svd(train, full_matrices=False)
    projected = left.T @ (columns - columns.mean(axis=0))  # (R, K)
    weights = [right.T @ (projected * _shrink(sizes, strength, len(train))[:, None]) for strength in STRENGTHS]
    truth = _columns(case.target, case.validation_values) - columns.mean(axis=0)
    errors = [float(np.sum((validation @ weight - truth) ** 2)) for weight in weights]
    chosen = weights[int(np.argmin(errors))] if len(truth) else weights[STRENGTHS.index(1.0)]
    predicted = test @ chosen + columns.mean(axis=0)
    return predicted if isinstance(case.target, Continuous) else predicted.clip(0.0, 1.0)


def statistics(case: Case) -> Boost:
    """Return gradient boosting predictions from the weight statistics, with feature importances."""
    return boost(
        case.target,
        Known(case.train.statistics, case.train_values),
        Known(case.validation.statistics, case.validation_values),
        case.test.statistics,
        iterations=case.iterations,
        seed=case.seed,
    )


CONTROLS: dict[str, Callable[[Case], Float[np.ndarray, "rows width"]]] = {
    "mean": training_mean,
    "shapes": shapes,
    "linear_probe": linear_probe,
    "untrained": untrained,
    "shuffled": shuffled,
    "pca": pca_probe,
    "hyperparameters": hyperparameters,
    "probes": probes,
    "spectra": spectra,
    "invariants": invariants,
    "statistics": lambda case: statistics(case).outputs,
}
OF_ACCURACY = ("hyperparameters", "spectra", "invariants")  # controls of this task alone


def controls_of(task: str) -> dict[str, Callable[[Case], Float[np.ndarray, "rows width"]]]:
    """Return the controls of a task by name."""
    return {name: control for name, control in CONTROLS.items() if task == "accuracy" or name not in OF_ACCURACY}


def weight_components(
    zoo: Zoo, rows: Int[np.ndarray, " rows"], train: Bool[np.ndarray, " rows"], *, components: int, seed: int
) -> Float[np.ndarray, "rows component"]:
    """Return principal components of the weights of networks, fitted on a subset of them.

    Weight vectors are centred per layout (mean over the fitted networks; unseen layouts are not centred) and zero-padded
    to a common length.

    Args:
        zoo: of the networks.
        rows: which ones, in the order of the result.
        train: which of these the PCA is fitted on.
        components: maximum number of components.
        seed: of the PCA.
    """
    longest = max(layout.size for layout in zoo.layouts.values())
    keys = zoo.table["layout"].astype(str).to_numpy()[rows]
    centres = {key: zoo.weights(rows[(keys == key) & train]).mean(axis=0) for key in np.unique(keys[train])}

    def read(places: np.ndarray) -> np.ndarray:
        vectors = zoo.weights(rows[places])
        padded = np.zeros((len(places), longest), np.float32)
        padded[:, : vectors.shape[1]] = vectors - centres.get(keys[places[0]], 0.0)
        return padded

    batch = _held(read) if len(rows) * longest <= HELD else read

    def batches(chosen: np.ndarray) -> Iterator[np.ndarray]:
        for key in np.unique(keys):
            places = np.flatnonzero((keys == key) & chosen)
            yield from (batch(at) for at in np.split(places, range(TOGETHER, len(places), TOGETHER)) if len(at))

    pca = fit_pca(lambda: batches(train), components, seed=seed)
    order = np.concatenate([np.flatnonzero(keys == key) for key in np.unique(keys)])
    scores = np.concatenate([(vectors - pca.mean) @ pca.basis.T for vectors in batches(np.ones(len(rows), bool))])
    return scores[np.argsort(order)]


def _held(read: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a reader of batches that reads each of them once."""
    read_before: dict[bytes, np.ndarray] = {}

    def batch(places: np.ndarray) -> np.ndarray:
        key = places.tobytes()
        if key not in read_before:
            read_before[key] = read(places)
        return read_before[key]

    return batch


def untrained_latents(
    features: Float[np.ndarray, "rows feature"], train: Bool[np.ndarray, " rows"], *, latent_dim: int, seed: int
) -> Float[np.ndarray, "rows latent"]:
    """Return random combinations of the features of an encoder, standardised on a subset of the networks, 0 where missing."""
    logs = np.sign(features) * np.log1p(np.abs(features))
    known = np.where(train[:, None], logs, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # features that no training network has
        centre, spread = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    standard = np.nan_to_num((logs - centre) / np.where(spread > SMALLEST, spread, np.inf))
    random = np.random.default_rng(seed).standard_normal((features.shape[1], latent_dim))
    return standard.clip(-CLIP, CLIP) @ (random / np.sqrt(features.shape[1]))


def hyperparameter_numbers(table: pd.DataFrame, names: Sequence[str]) -> Float[np.ndarray, "rows setting"]:
    """Return hyperparameters as numbers (N, H), categories numbered alphabetically; missing columns are omitted."""
    columns = [np.zeros((len(table), 0))]
    for name in (name for name in names if name in table):
        column = pd.Series(table[name])
        if pd.api.types.is_numeric_dtype(column):
            columns.append(column.to_numpy(float)[:, None])
        else:
            codes = pd.Categorical(column.astype(object).map(str, na_action="ignore")).codes.astype(float)
            columns.append(np.where(codes < 0, np.nan, codes)[:, None])
    return np.concatenate(columns, axis=1)


def shape_numbers(layouts: list[Layout]) -> Int[np.ndarray, " rows"]:
    """Return an index per layout, equal for layouts with equal kinds and shapes; tensor names are ignored."""
    seen: dict[tuple[object, ...], int] = {}
    keys = [tuple((spec.kind, spec.shape) for spec in layout.tensors) for layout in layouts]
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=int)


def _columns(target: Target, values: np.ndarray) -> np.ndarray:
    """Return encoded values as (N, width), one-hot for a vocabulary."""
    if isinstance(target, Discrete):
        return np.eye(target.width)[values.astype(int)]
    assert isinstance(target, Binary | Continuous)
    return values.astype(float)[:, None]


def _shrink(sizes: np.ndarray, strength: float, rows: int) -> np.ndarray:
    """Return s / (s^2 + strength * rows) of the singular values, 0 where they vanish."""
    positive = sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-30)
    return np.where(positive, sizes / (sizes**2 + strength * rows), 0.0)
