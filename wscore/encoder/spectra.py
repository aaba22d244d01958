"""Weight features beyond simple statistics: spectra, norms per neuron, balance of layers, norm layers.

All features but the positional ones are invariant to permuting hidden units. The positional ones belong to axes with a
fixed order: positions within a kernel, inputs of the first layer, outputs of the last. As in
`wscore.encoder.weight_statistics` a column is one feature of the k-th tensor of its kind from the output, NaN where
there is none.
"""

import itertools
from collections.abc import Container, Mapping

import numpy as np
from jaxtyping import Float

from wscore.encoder.updates import layer_updates, pair_updates
from wscore.encoder.weight_statistics import percentiles, tensor_roles
from wscore.networks.layout import Layout, TensorSpec

QUANTILES = (0, 10, 25, 50, 75, 90, 100)
SINGULAR = 4  # largest singular values kept
KERNEL = 9  # kernel positions kept separate
INPUTS = 128  # maximum number of first-layer inputs kept separate
OUTPUTS = 16  # maximum number of last-layer outputs kept separate
SMALLEST = 1e-12
BATCH_NORM_EPS = 1e-5
LARGE = 1 << 18  # weights of a matrix above which its spectrum is that of its Gram matrix
RESOLVED = 1e-10  # smallest ratio of eigenvalues of a Gram matrix that is not rounding
MATRICES = ("linear", "conv")

Numbers = dict[str, Float[np.ndarray, " rows"]]
Matrices = Float[np.ndarray, "rows out in kernel"]


def network_numbers(
    layout: Layout, vectors: Float[np.ndarray, "rows weights"], wanted: Container[str] | None = None
) -> Numbers:
    """Return the features of networks (n, D) that share a layout, by name such as `conv[-1].singular1`.

    Args:
        layout: of the networks.
        vectors: their weights.
        wanted: what stands before the dot in the names that are needed; None: all.
    """
    parts = {spec.name: vectors[:, span].astype(np.float64) for spec, span in _spans(layout)}
    matrices = [spec for spec in layout.tensors if spec.kind in MATRICES]
    features: Numbers = {}
    for spec, (kind, place) in zip(layout.tensors, tensor_roles(layout), strict=True):
        if wanted is not None and f"{kind}[-{place}]" not in wanted:
            continue
        numbers = _moments(parts[spec.name])
        if spec.kind in MATRICES:
            stacked = _matrix(spec, parts[spec.name])
            numbers |= _spectrum(stacked) | _neurons(stacked) | _kernel(stacked)
            numbers |= _ends(stacked, first=spec is matrices[0], last=spec is matrices[-1])
            numbers |= layer_updates(stacked, last=spec is matrices[-1])
        else:
            numbers |= _quantiles("value", parts[spec.name]) | {"largest": _log(np.abs(parts[spec.name]).max(axis=1))}
        features |= {f"{kind}[-{place}].{name}": column for name, column in numbers.items()}
    for number, (lower, upper) in enumerate(itertools.pairwise(matrices)):
        name = f"pair[-{len(matrices) - 1 - number}]"
        if wanted is not None and name not in wanted:
            continue
        pair = _pair(_matrix(lower, parts[lower.name]), _matrix(upper, parts[upper.name]), _bias(layout, lower, parts))
        features |= {f"{name}.{statistic}": column for statistic, column in pair.items()}
    return features | _norm_layers(layout, parts)


def _spans(layout: Layout) -> list[tuple[TensorSpec, slice]]:
    return list(zip(layout.tensors, layout.slices().values(), strict=True))


def _matrix(spec: TensorSpec, values: np.ndarray) -> Matrices:
    return values.reshape(len(values), spec.shape[0], spec.shape[1], -1)


def _log(values: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(values, SMALLEST))


def _rms(values: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.mean(values**2, axis=axes))


def _quantiles(name: str, values: np.ndarray) -> Numbers:
    """Return the quantiles of each row."""
    return dict(zip((f"{name}_p{q}" for q in QUANTILES), percentiles(values, QUANTILES), strict=True))


def _moments(values: np.ndarray) -> Numbers:
    """Return scale and shape of the distribution of all weights of a tensor."""
    mean, std = values.mean(axis=1), np.maximum(values.std(axis=1), SMALLEST)
    standard = (values - mean[:, None]) / std[:, None]
    squared = standard * standard  # powers of higher order are slow
    low, high = percentiles(values, (5, 95))
    return {
        "rms": _log(_rms(values, 1)),
        "mean_size": _log(np.abs(values).mean(axis=1)),
        "skewness": (squared * standard).mean(axis=1),
        "kurtosis": np.log((squared * squared).mean(axis=1) + 1e-6),
        "near_zero": (np.abs(standard) < 0.1).mean(axis=1),
        "vanished": (np.abs(values) < 1e-3).mean(axis=1),
        "shift": np.abs(mean) / std,
        "p5": low,
        "p95": high,
    }


def _spectrum(stacked: Matrices) -> Numbers:
    """Return the largest and the smallest singular value, the effective rank (entropy) and the stable rank."""
    sizes = _singular_values(stacked.reshape(*stacked.shape[:2], -1))  # (n, rank)
    energy = np.maximum((sizes**2).sum(axis=1), SMALLEST)
    share = sizes**2 / energy[:, None]
    features = {f"singular{k + 1}": _log(sizes[:, k]) for k in range(min(SINGULAR, sizes.shape[1]))}
    return features | {
        "singular_last": _log(sizes[:, -1]),
        "effective_rank": -(share * np.log(share + SMALLEST)).sum(axis=1),
        "stable_rank": energy / np.maximum(sizes[:, 0] ** 2, SMALLEST),
    }


def _singular_values(matrices: Float[np.ndarray, "rows out columns"]) -> Float[np.ndarray, "rows rank"]:
    """Return the singular values, the largest first; of large matrices from their Gram matrix, which takes a quarter of the time.

    Eigenvalues below `RESOLVED` of the largest are mostly rounding; matrices with such are decomposed themselves.
    """
    _, height, width = matrices.shape
    if height * width >= LARGE:
        wide = matrices if height <= width else matrices.mT
        energies = np.linalg.eigvalsh(wide @ wide.mT)[:, ::-1]
        if (energies[:, -1] > RESOLVED * energies[:, 0]).all():
            return np.sqrt(energies)
    return np.linalg.svd(matrices, compute_uv=False)


def _neurons(stacked: Matrices) -> Numbers:
    """Return quantiles of the norms of rows and columns, cosines between rows, and magnitudes of the sums of both."""
    rows = stacked.reshape(*stacked.shape[:2], -1)  # (n, out, in * kernel)
    norms = np.linalg.norm(rows, axis=2)
    features = _quantiles("row", _log(norms)) | _quantiles("column", _log(_rms(stacked, (1, 3))))
    unit = rows / np.maximum(norms[..., None], SMALLEST)
    first, second = np.triu_indices(rows.shape[1], 1)
    if len(first):
        cosines = (unit @ unit.mT)[:, first, second]
        features |= {
            "cosine_high": cosines.max(axis=1),
            "cosine_low": cosines.min(axis=1),
            "cosine_mean": cosines.mean(axis=1),
            "cosine_size": np.abs(cosines).mean(axis=1),
        }
    sums = {"row_sum": rows.sum(axis=2), "column_sum": rows.sum(axis=1)}
    return features | {name: _log(_rms(values, 1)) for name, values in sums.items()}


def _kernel(stacked: Matrices) -> Numbers:
    """Return the RMS of the weights at each kernel position, and the share of the kernels' means."""
    places = stacked.shape[3]
    if places == 1:
        return {}
    features = {f"kernel{k + 1}": _log(_rms(stacked[..., k], (1, 2))) for k in range(min(places, KERNEL))}
    share = _log(_rms(stacked.mean(axis=3), (1, 2))) - _log(_rms(stacked, (1, 2, 3)))
    return features | {"kernel_mean": share}


def _ends(stacked: Matrices, *, first: bool, last: bool) -> Numbers:
    """Return norms by input of the first layer and by output of the last one, whose order is fixed."""
    inputs, outputs = _log(_rms(stacked, (1, 3))), _log(_rms(stacked, (2, 3)))
    features: Numbers = {}
    if first and inputs.shape[1] <= INPUTS:
        features |= {f"input{k + 1}": inputs[:, k] for k in range(inputs.shape[1])}
    if last:
        features |= {f"output{k + 1}": outputs[:, k] for k in range(min(OUTPUTS, outputs.shape[1]))}
    return features


def _bias(layout: Layout, matrix: TensorSpec, parts: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the biases of the layer of a matrix."""
    named = [spec.name for spec in layout.tensors if spec.layer == matrix.layer and spec.kind == "bias"]
    return parts[named[0]] if named else None


def _pair(
    lower: Matrices, upper: Float[np.ndarray, "rows above columns places"], bias: Float[np.ndarray, "rows out"] | None
) -> Numbers:
    """Return the features of the units between two layers; empty if the upper one does not read the lower one."""
    if upper.shape[2] % lower.shape[1]:
        return {}
    return _balance(lower, upper) | _product(lower, upper) | pair_updates(lower, bias, upper)


def _balance(lower: Matrices, upper: Float[np.ndarray, "rows above columns places"]) -> Numbers:
    """Return statistics of outgoing vs incoming norms of the units."""
    units = lower.shape[1]
    leaving = _log(_rms(upper.reshape(len(upper), upper.shape[1], units, -1), (1, 3)))
    entering = _log(_rms(lower, (2, 3)))
    ratio, apart = leaving - entering, [side - side.mean(axis=1, keepdims=True) for side in (leaving, entering)]
    spread = np.maximum(leaving.std(axis=1) * entering.std(axis=1), 1e-9)
    return {
        "balance_mean": ratio.mean(axis=1),
        "balance_std": ratio.std(axis=1),
        "balance_correlation": (apart[0] * apart[1]).mean(axis=1) / spread,
        "leaving_low": leaving.min(axis=1),
        "leaving_high": leaving.max(axis=1),
    }


def _product(lower: Matrices, upper: Float[np.ndarray, "rows above columns places"]) -> Numbers:
    """Return the largest singular values of the product of both layers, and how much of it is more than chance.

    Training aligns the layers: |B A|^2 units / (|A|^2 |B|^2) is 1 for random matrices.
    """
    units = lower.shape[1]
    rows = lower.reshape(*lower.shape[:2], -1)
    above = upper.reshape(len(upper), upper.shape[1], units, -1).swapaxes(2, 3).reshape(len(upper), -1, units)
    grams = above.mT @ above, rows @ rows.mT  # (n, units, units)
    values, vectors = np.linalg.eigh(grams[1])
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    sizes = np.sqrt(np.maximum(np.linalg.eigvalsh(root.mT @ grams[0] @ root), 0))[:, ::-1]
    traces = [np.trace(gram, axis1=1, axis2=2) for gram in grams]
    aligned = _log((sizes**2).sum(axis=1)) + np.log10(units) - _log(traces[0]) - _log(traces[1])
    rank = min(3, units, above.shape[1], rows.shape[2])
    return {f"product{k + 1}": _log(sizes[:, k]) for k in range(rank)} | {"aligned": aligned}


def _norm_layers(layout: Layout, parts: Mapping[str, np.ndarray]) -> Numbers:
    """Return effective scale weight / sqrt(var) and mean / sqrt(var) of each batch normalisation, per channel."""
    layers = [spec.name.rpartition(".")[0] for spec in layout.tensors if spec.kind == "running_var"]
    features: Numbers = {}
    for number, layer in enumerate(layers):
        prefix = f"{layer}." if layer else ""
        tensors = [parts.get(prefix + name) for name in ("weight", "bias", "running_mean", "running_var")]
        if any(tensor is None for tensor in tensors):
            continue
        weight, bias, mean, var = (tensor for tensor in tensors if tensor is not None)
        deviation = np.sqrt(np.maximum(var, 0) + BATCH_NORM_EPS)
        numbers = _quantiles("scale", weight / deviation) | _quantiles("offset", mean / deviation)
        numbers["shift_per_scale"] = (bias / np.maximum(np.abs(weight), 1e-6)).mean(axis=1)
        features |= {f"norm[-{len(layers) - number}].{name}": column for name, column in numbers.items()}
    return features
