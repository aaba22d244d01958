"""Weight features that depend on how a network was updated: what its optimizer keeps, and how far weights moved.

Gradient descent keeps, up to weight decay, what gradients do not change: the sums of the last layer over the classes (gradients
of softmax sum to 0), and |w_in|^2 + b^2 - |w_out|^2 of each unit of a network of ReLUs (Du, Hu & Lee 2018, arXiv 1806.00900).
Updates that are normalised per weight (Adam) keep neither, and move rarely used weights as far as others. No feature but
`initial` and `beyond` depends on the scale of all weights; none depends on the order of hidden units.
"""

import math

import numpy as np
from jaxtyping import Float

from wscore.encoder.weight_statistics import percentiles

SMALLEST = 1e-12
PREFIX = "update_"  # of the names of all of these features
SIZES = (5, 25, 50, 75, 95, 99)  # quantiles of the sizes of weights
NORMS = (0, 10, 25, 50, 75, 90, 100)  # quantiles of the norms of units

Numbers = dict[str, Float[np.ndarray, " rows"]]
Matrices = Float[np.ndarray, "rows out in kernel"]
Biases = Float[np.ndarray, "rows out"]


def layer_updates(stacked: Matrices, *, last: bool) -> Numbers:
    """Return quantiles of weights and norms of units in units of the root mean square, and its ratio to the initial one of torch.

    Of the last layer also the sums over the classes.
    """
    sizes, fan_in = np.abs(stacked.reshape(len(stacked), -1)), math.prod(stacked.shape[2:])
    scale = np.maximum(_rms(sizes), SMALLEST)
    norms = _log(_rms(stacked.reshape(*stacked.shape[:2], -1))) - _log(scale)[:, None]
    relative = percentiles(sizes, SIZES) / scale
    numbers = {"initial": _log(scale * math.sqrt(3 * fan_in)), "beyond": (sizes > fan_in**-0.5).mean(axis=1)}
    numbers |= dict(zip((f"size_p{q}" for q in SIZES), relative, strict=True))
    numbers |= dict(zip((f"norm_p{q}" for q in NORMS), percentiles(norms, NORMS), strict=True))
    numbers |= {"norm_std": norms.std(axis=1)} | (_class_sums(stacked, scale) if last else {})
    return _named(numbers)


def pair_updates(
    lower: Matrices, bias: Biases | None, upper: Float[np.ndarray, "rows above columns places"]
) -> Numbers:
    """Return statistics over the units between two layers of |w_in|^2 + b^2 - |w_out|^2, also relative to the sum of both.

    Args:
        lower: layer that enters the units.
        bias: its biases; None without any.
        upper: layer that leaves them, its columns a multiple of the units.
    """
    units = lower.shape[1]
    entering = (lower**2).sum(axis=(2, 3)) + (0 if bias is None else bias**2)
    leaving = (upper.reshape(len(upper), upper.shape[1], units, -1) ** 2).sum(axis=(1, 3))
    kept, both = entering - leaving, entering + leaving
    total, apart = np.maximum(both.mean(axis=1), SMALLEST), [_centred(entering), _centred(leaving)]
    product, variances = (apart[0] * apart[1]).mean(axis=1), [(side**2).mean(axis=1) for side in apart]
    return _named({
        "kept_mean": kept.mean(axis=1),
        "kept_std": _log(kept.std(axis=1)),
        "kept_mean_share": kept.mean(axis=1) / total,
        "kept_std_share": _log(kept.std(axis=1)) - _log(total),
        "kept_spread": _log(kept.std(axis=1)) - _log(both.std(axis=1)),
        "kept_slope": product / np.maximum(variances[0], SMALLEST),
        "kept_correlation": product / np.maximum(np.sqrt(variances[0] * variances[1]), SMALLEST),
    })  # fmt: skip


def _class_sums(stacked: Matrices, scale: Float[np.ndarray, " rows"]) -> Numbers:
    sums = stacked.sum(axis=1).reshape(len(stacked), -1)  # (n, inputs)
    return {
        "sum_size": _log(_rms(sums)) - _log(scale),
        "sum_mean": sums.mean(axis=1) / scale,
        "sum_std": _log(sums.std(axis=1)) - _log(scale),
        "centred": _log(_rms(_centred(stacked).reshape(len(stacked), -1))),
    }


def _named(numbers: Numbers) -> Numbers:
    return {f"{PREFIX}{name}": column for name, column in numbers.items()}


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=1, keepdims=True)


def _rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(values**2, axis=-1))


def _log(values: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(values, SMALLEST))
