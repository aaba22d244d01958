"""Normalization of weights with statistics of the training networks, and its inverse."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from wscore.config import Section, convert, to_plain
from wscore.errors import DataError
from wscore.io import read_json, write_json
from wscore.networks.layout import Layout

Normalization = Literal["none", "zscore", "minmax", "layer"]
Array = TypeVar("Array", np.ndarray, Tensor)

#: Minimum scale of a tensor relative to the scale of all weights: prevents huge normalized values of other networks in
#: tensors that hardly vary over the training networks.
FLOOR = 1e-3
PART = 1 << 18  # weights processed at once when computing moments
LARGEST = 3.4e38  # of float32


class Affine(Section, frozen=True):
    """normalized = (raw - shift) / scale."""

    shift: Annotated[float, msgspec.Meta(gt=-LARGEST, lt=LARGEST)]
    scale: Annotated[float, msgspec.Meta(gt=0, lt=LARGEST)]


class Normalizer(Section, frozen=True):
    """Shift and scale of every weight: per tensor if the layout is known, else per kind of tensor, else global.

    Args:
        mode: `none` is the identity; `zscore` uses one mean and standard deviation for all weights; `minmax` maps the
            range of all weights to [-1, 1]; `layer` uses a mean and standard deviation for each tensor of each layout
            and, for layouts not seen in training, for each kind of tensor.
        overall: global fallback.
        kinds: by kind of tensor, for unknown layouts.
        layouts: by layout identity, one per tensor.
    """

    mode: Normalization
    overall: Affine
    kinds: dict[str, Affine]
    layouts: dict[str, tuple[Affine, ...]]

    @classmethod
    def load(cls, path: Path) -> "Normalizer":
        """Return the normalizer saved at `path`.

        Raises:
            DataError: if the file is missing or is not JSON.
            ConfigError: if it does not describe a normalizer.
        """
        return convert(read_json(path), cls, where=str(path))

    def save(self, path: Path) -> None:
        """Write the normalizer as JSON; numbers round-trip exactly."""
        write_json(path, to_plain(self))

    def statistics(self, layout: Layout) -> tuple[Float32[np.ndarray, " weights"], Float32[np.ndarray, " weights"]]:
        """Return shift (D,) and scale (D,) of each weight of a layout.

        Raises:
            DataError: if the layout is known with another number of tensors.
        """
        known = self.layouts.get(layout.identity)
        affine = known or tuple(self.kinds.get(spec.kind, self.overall) for spec in layout.tensors)
        if len(affine) != len(layout.tensors):
            expected = f"a transform of each of {len(layout.tensors)} tensors"
            raise DataError("normalizer does not fit", where=layout.identity, expected=expected, got=len(affine))
        sizes = [spec.size for spec in layout.tensors]
        shift = np.repeat(np.array([transform.shift for transform in affine], np.float32), sizes)
        return shift, np.repeat(np.array([transform.scale for transform in affine], np.float32), sizes)

    def normalize(self, layout: Layout, vectors: Float[Array, "*n weights"]) -> Float[Array, "*n weights"]:
        """Return the normalized weights (..., D) of one layout: (raw - shift) / scale."""
        if self.mode == "none":
            return vectors
        shift, scale = self.statistics(layout)
        if isinstance(vectors, Tensor):
            return (vectors - torch.from_numpy(shift).to(vectors)) / torch.from_numpy(scale).to(vectors)
        return (vectors - shift) / scale

    def restore(self, layout: Layout, vectors: Float[Array, "*n weights"]) -> Float[Array, "*n weights"]:
        """Return the raw weights (..., D) of one layout: normalized * scale + shift."""
        if self.mode == "none":
            return vectors
        shift, scale = self.statistics(layout)
        if isinstance(vectors, Tensor):
            return vectors * torch.from_numpy(scale).to(vectors) + torch.from_numpy(shift).to(vectors)
        return vectors * scale + shift


class Moments(NamedTuple):
    """Mergeable moments of groups of numbers.

    Attributes:
        n: count; low and high are +inf and -inf where it is 0.
        mean: of each group.
        deviation: sum of squared deviations from the mean.
        low: minimum.
        high: maximum.
    """

    n: Float64[np.ndarray, " group"]
    mean: Float64[np.ndarray, " group"]
    deviation: Float64[np.ndarray, " group"]
    low: Float64[np.ndarray, " group"]
    high: Float64[np.ndarray, " group"]


def fit_normalizer(mode: Normalization, blocks: Iterable[tuple[Layout, np.ndarray]]) -> Normalizer:
    """Return the normalizer fitted on blocks of (layout, weights (n, D))."""
    fit = NormalizerFit(mode)
    for layout, vectors in blocks:
        fit.add(layout, vectors)
    return fit.finish()


class NormalizerFit:
    """Accumulates the statistics of a normalizer over blocks of networks.

    Args:
        mode: see `Normalizer`.
    """

    def __init__(self, mode: Normalization) -> None:
        self.mode: Normalization = mode
        self._layouts: dict[str, Layout] = {}
        self._moments: dict[str, Moments] = {}

    def add(self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]) -> None:
        """Add the weights (n, D) of networks of one layout."""
        if self.mode != "none" and len(vectors):
            self.merge(layout, tensor_moments(layout, vectors))

    def merge(self, layout: Layout, moments: Moments) -> None:
        """Add the moments of the tensors of networks of one layout."""
        known = self._moments.get(layout.identity)
        self._layouts[layout.identity] = layout
        self._moments[layout.identity] = moments if known is None else merge_moments(known, moments)

    def finish(self) -> Normalizer:
        """Return the fitted normalizer; the identity without any networks."""
        if not self._moments:
            return Normalizer(mode=self.mode, overall=Affine(shift=0.0, scale=1.0), kinds={}, layouts={})
        names = sorted(self._moments)
        parts = Moments(
            *(np.concatenate(columns) for columns in zip(*(self._moments[name] for name in names), strict=True))
        )
        total = pool_moments(parts)
        if self.mode == "minmax":
            return Normalizer(mode=self.mode, overall=_range(total), kinds={}, layouts={})
        overall = _spread(total, floor=0.0)
        if self.mode == "zscore":
            return Normalizer(mode=self.mode, overall=overall, kinds={}, layouts={})
        floor = FLOOR * overall.scale
        kinds = np.array([spec.kind for name in names for spec in self._layouts[name].tensors])
        return Normalizer(
            mode=self.mode,
            overall=overall,
            kinds={
                str(kind): _spread(pool_moments(_pick(parts, kinds == kind)), floor=floor) for kind in np.unique(kinds)
            },
            layouts={name: _each(self._moments[name], floor) for name in names},
        )


def tensor_moments(layout: Layout, vectors: Float[np.ndarray, "networks weights"]) -> Moments:
    """Return the moments of each tensor of a layout over networks (n, D), in float64."""
    sizes = np.array([spec.size for spec in layout.tensors])
    used, starts = sizes > 0, np.array(layout.offsets)[sizes > 0]
    count = sizes * float(len(vectors))
    mean, deviation = np.zeros(len(sizes)), np.zeros(len(sizes))
    low, high = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    sums = [np.add.reduceat(x, starts, axis=1, dtype=np.float64) for x in _batches(vectors)]  # (n, tensors) together
    mean[used] = np.concatenate(sums).sum(0) / count[used]
    middle = np.repeat(mean, sizes)  # float64, and so are the squares
    squares = [np.add.reduceat(np.square(x - middle), starts, axis=1) for x in _batches(vectors)]
    deviation[used] = np.concatenate(squares).sum(0)
    low[used] = np.min([np.minimum.reduceat(x, starts, axis=1).min(0) for x in _batches(vectors)], axis=0)
    high[used] = np.max([np.maximum.reduceat(x, starts, axis=1).max(0) for x in _batches(vectors)], axis=0)
    return Moments(count, mean, deviation, low, high)


def _batches(vectors: Float[np.ndarray, "networks weights"]) -> Iterator[np.ndarray]:
    """Yield batches of networks, to limit the memory of float64 copies."""
    rows = max(1, PART // max(1, vectors.shape[1]))
    return (vectors[start : start + rows] for start in range(0, len(vectors), rows))


def merge_moments(first: Moments, second: Moments) -> Moments:
    """Return the combined moments of two sets of numbers, group by group (Chan, Golub and LeVeque, 1983)."""
    count = first.n + second.n
    share = second.n / np.maximum(count, 1)
    delta = second.mean - first.mean
    return Moments(
        n=count,
        mean=first.mean + delta * share,
        deviation=first.deviation + second.deviation + delta**2 * first.n * share,
        low=np.minimum(first.low, second.low),
        high=np.maximum(first.high, second.high),
    )


def pool_moments(parts: Moments) -> Moments:
    """Return the moments of all groups together, as one group."""
    count = parts.n.sum()
    mean = (parts.n * parts.mean).sum() / max(count, 1)
    deviation = parts.deviation.sum() + (parts.n * (parts.mean - mean) ** 2).sum()
    return Moments(*(np.array([value], float) for value in (count, mean, deviation, parts.low.min(), parts.high.max())))


def _pick(parts: Moments, chosen: np.ndarray) -> Moments:
    return Moments(*(values[chosen] for values in parts))


def _each(parts: Moments, floor: float) -> tuple[Affine, ...]:
    return tuple(_spread(_pick(parts, np.array([place])), floor=floor) for place in range(len(parts.n)))


def _spread(moments: Moments, *, floor: float) -> Affine:
    """Mean and standard deviation, the latter at least `floor` and 1 if it is zero."""
    deviation = float(np.sqrt(moments.deviation[0] / max(moments.n[0], 1)))
    return Affine(shift=float(moments.mean[0]), scale=_usable(max(deviation, floor)))


def _range(moments: Moments) -> Affine:
    """Middle and half width of the range."""
    low, high = float(moments.low[0]), float(moments.high[0])
    return Affine(shift=(low + high) / 2, scale=_usable((high - low) / 2))


def _usable(scale: float) -> float:
    return scale if scale > np.finfo(np.float32).tiny else 1.0
