"""Per-weight forecasters: each weight is forecast from its own last increments and statistics of its tensor.

A weight's series is its last c - 1 increments d_i, newest first, in units of the RMS increment s of its tensor in this
window, each joined with the window statistics of `gram_features`. Targets are (w(t + k) - w(t)) / (s sqrt(k)).

    SeriesPredictor     the mean of the targets, from a transformer over the increments
    DiffusionPredictor  samples of the targets, from a denoiser; their mean is the forecast, their spread gives bands

With `chunk_size` m > 1 a series is one of m consecutive weights of a tensor.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.forecasting.models.predictors import (
    FLAGGED_KINDS,
    TINY,
    Count,
    PredictorShape,
    Snapshots,
    Steps,
    WeightPredictor,
    blocks_of,
    checked,
    gram_features,
    increment_grams,
    increments,
    transformer,
    zero,
)
from wscore.networks.layout import Layout
from wscore.training.model_folder import register

SERIES_AT_ONCE = 16_384
TIME_FEATURES = 16  # of the noise level, even
LARGEST = 10.0  # bound on the forecast change of one weight, in units of s sqrt(k)


class SeriesPredictorConfig(PredictorShape):
    """Configuration of a `SeriesPredictor`.

    Args:
        chunk_size: weights m per series.
    """

    chunk_size: Count


class DiffusionPredictorConfig(SeriesPredictorConfig):
    """Configuration of a `DiffusionPredictor`.

    Args:
        steps: denoising steps per sample.
        samples: drawn per forecast, which is their mean.
        band: nominal coverage of the calibrated bands.
        seed: of the noise.
    """

    steps: Count
    samples: Annotated[int, msgspec.Meta(ge=2)]
    band: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    seed: int


class Series(NamedTuple):
    """Series of consecutive weights of one tensor.

    Attributes:
        place: slice of the weights in the flat vector.
        values: increments in units of `scale`; the last series is padded with zeros.
        statistics: `gram_features` of the tensor.
        scale: RMS increment s of the tensor.
    """

    place: slice
    values: Float[Tensor, "series increment chunk"]
    statistics: Float[Tensor, "increment feature"]
    scale: Float[Tensor, ""]


class Bands(NamedTuple):
    """A forecast with a band per weight.

    Attributes:
        mean: the forecast.
        low: lower end of the band.
        high: upper end.
    """

    mean: Float[Tensor, "horizon weights"]
    low: Float[Tensor, "horizon weights"]
    high: Float[Tensor, "horizon weights"]


def scales(
    grams: Float[Tensor, "*window tensor increment increment"], layout: Layout
) -> Float[Tensor, "*window tensor"]:
    """Return the RMS increment s of each tensor from the inner products of its increments."""
    sizes = grams.new_tensor([spec.size for spec in layout.tensors])
    return (grams.diagonal(dim1=-2, dim2=-1).mean(-1) / sizes).clamp_min(TINY).sqrt()


class SeriesModel(WeightPredictor):
    """Base class of the series forecasters: snapshots to series and back."""

    config: SeriesPredictorConfig

    @abstractmethod
    def forward(
        self, values: Float[Tensor, "series increment chunk"], statistics: Float[Tensor, "series increment feature"]
    ) -> Float[Tensor, "series horizon chunk"]:
        """Return the expected targets of series."""

    def series(self, history: Float[Tensor, "snapshot weights"], layout: Layout) -> Iterator[Series]:
        """Yield all weights of c snapshots as series, some thousand at a time."""
        grams = increment_grams(history, layout)
        statistics, sizes = gram_features(grams[None], layout)[0], scales(grams, layout).float()
        step = SERIES_AT_ONCE * self.config.chunk_size
        for number, block in blocks_of(layout):
            for start in range(block.start, block.stop, step):
                place = slice(start, min(start + step, block.stop))
                scale = sizes[number]
                yield Series(place, self._cut(increments(history, place) / scale), statistics[number], scale)

    @torch.no_grad()
    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Float[Tensor, "horizon weights"]:
        """Return the weights some steps after the last snapshot, as `WeightPredictor.predict` says."""
        history, chosen = checked(history, layout, self.config, horizons)
        forecast = history.new_empty(len(chosen), layout.size)
        for series in self.series(history, layout):
            change = self._whole(self(series.values, expanded(series)), series)  # (K, columns)
            forecast[:, series.place] = history[-1, series.place] + change[chosen]
        return forecast

    def _cut(self, columns: Tensor) -> Tensor:
        """Return (c-1, n) as series (S, c-1, m), the last one padded."""
        size = self.config.chunk_size
        padded = nn.functional.pad(columns, (0, -columns.shape[1] % size))
        return padded.unflatten(1, (-1, size)).transpose(0, 1)

    def _whole(self, targets: Tensor, series: Series) -> Tensor:
        """Return the change (.., K, n) of weights for scaled targets (.., S, K, m) of their series."""
        units = series.scale * torch.tensor(self.config.horizons, device=targets.device).float().sqrt()[:, None]
        joined = targets.clamp(-LARGEST, LARGEST).transpose(-3, -2).flatten(-2)
        return units * joined[..., : series.place.stop - series.place.start]


def expanded(series: Series) -> Float[Tensor, "series increment feature"]:
    """Return the statistics once per series."""
    return series.statistics.expand(len(series.values), -1, -1)


@register
class SeriesPredictor(SeriesModel):
    """w(t + k) = w(t) + s sqrt(k) head(transformer(d_1 / s, .., d_(c-1) / s, statistics))[k]."""

    def __init__(self, config: SeriesPredictorConfig) -> None:
        super().__init__()
        self.config = config
        count, width = config.sequence_length - 1, config.model_dim
        self.inputs = nn.Linear(config.chunk_size + features_of(config), width)
        self.recency = nn.Parameter(0.02 * torch.randn(count, width))
        self.blocks = transformer(config, feed_forward=2)
        self.head = zero(nn.Linear(width, len(config.horizons) * config.chunk_size))

    def forward(
        self, values: Float[Tensor, "series increment chunk"], statistics: Float[Tensor, "series increment feature"]
    ) -> Float[Tensor, "series horizon chunk"]:
        """Return the expected targets of series."""
        tokens = self.inputs(torch.cat([values, statistics], dim=-1)) + self.recency  # (S, c-1, H)
        return self.head(self.blocks(tokens).mean(1)).unflatten(-1, (len(self.config.horizons), -1))


@register
class DiffusionPredictor(SeriesModel):
    """x(1) ~ N(0, 1), then x(u) = cos(pi u / 2) x0 + sin(pi u / 2) e with x0 = net(x(v), v, series), for u < v.

    The network predicts the clean targets x0 from noisy ones (Salimans & Ho 2022); sampling goes deterministically to
    the next lower noise level (DDIM, Song et al. 2021), e being the noise implied by x0. A sample has twice the
    irreducible error, so it is further from the truth than the mean. Bands are mean +- width x standard deviation of
    the samples, with the width of each horizon calibrated on held-out windows (`calibrate_bands`).
    """

    def __init__(self, config: DiffusionPredictorConfig) -> None:
        super().__init__()
        self.config: DiffusionPredictorConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        width, outputs = 2 * config.model_dim, len(config.horizons) * config.chunk_size
        condition = (config.sequence_length - 1) * (config.chunk_size + features_of(config))
        self.condition = nn.Sequential(nn.Linear(condition, width), nn.SiLU(), nn.Linear(width, width))
        self.noisy = nn.Linear(outputs, width)
        self.level = nn.Linear(TIME_FEATURES, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(config.layers)
        )
        self.head = zero(nn.Linear(width, outputs))
        self.width: Tensor
        self.register_buffer("width", torch.ones(len(config.horizons)))

    def denoise(
        self,
        noisy: Float[Tensor, "*sample series horizon chunk"],
        level: Float[Tensor, "*#sample #series"],
        condition: Float[Tensor, "series hidden"],
    ) -> Float[Tensor, "*sample series horizon chunk"]:
        """Return the predicted clean targets x0 from noisy ones at a noise level in [0, 1]."""
        hidden = self.noisy(noisy.flatten(-2)) + condition + self.level(_waves(level))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(nn.functional.silu(hidden)).unflatten(-1, noisy.shape[-2:])

    def conditioned(
        self, values: Float[Tensor, "series increment chunk"], statistics: Float[Tensor, "series increment feature"]
    ) -> Float[Tensor, "series hidden"]:
        """Return the conditioning of the denoiser for each series."""
        return self.condition(torch.cat([values, statistics], dim=-1).flatten(1))

    def draw(
        self,
        values: Float[Tensor, "series increment chunk"],
        statistics: Float[Tensor, "series increment feature"],
        count: int,
        generator: torch.Generator,
    ) -> Float[Tensor, "sample series horizon chunk"]:
        """Return samples of the targets of series."""
        condition = self.conditioned(values, statistics)
        shape = (count, len(values), len(self.config.horizons), self.config.chunk_size)
        state = torch.randn(shape, generator=generator).to(values.device)
        levels = torch.linspace(1, 0, self.config.steps + 1).tolist()
        clean = state
        for now, after in pairwise(levels):
            clean = self.denoise(state, torch.full((1, 1), now, device=values.device), condition)
            noise = (state - math.cos(math.pi * now / 2) * clean) / math.sin(math.pi * now / 2)
            state = math.cos(math.pi * after / 2) * clean + math.sin(math.pi * after / 2) * noise
        return clean

    def forward(
        self, values: Float[Tensor, "series increment chunk"], statistics: Float[Tensor, "series increment feature"]
    ) -> Float[Tensor, "series horizon chunk"]:
        """Return the mean of samples of the targets of series."""
        return self.draw(values, statistics, self.config.samples, self.generator()).mean(0)

    def generator(self) -> torch.Generator:
        """Return a freshly seeded generator, so that forecasts are reproducible."""
        return torch.Generator().manual_seed(self.config.seed)

    @torch.no_grad()
    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Float[Tensor, "horizon weights"]:
        """Return the mean of samples; arguments and errors as for `WeightPredictor.predict`."""
        return self.bands(history, layout, horizons).mean

    @torch.no_grad()
    def sample(
        self, history: Snapshots, layout: Layout, horizons: Steps, count: int
    ) -> Float[Tensor, "sample horizon weights"]:
        """Return sampled futures; arguments and errors as for `predict`."""
        history, chosen = checked(history, layout, self.config, horizons)
        samples = history.new_empty(count, len(chosen), layout.size)
        noise = self.generator()
        for series in self.series(history, layout):
            change = self._whole(self.draw(series.values, expanded(series), count, noise), series)
            samples[:, :, series.place] = history[-1, series.place] + change[:, chosen]
        return samples

    @torch.no_grad()
    def bands(self, history: Snapshots, layout: Layout, horizons: Steps) -> Bands:
        """Return the forecast with calibrated bands; arguments and errors as for `predict`."""
        history, chosen = checked(history, layout, self.config, horizons)
        bands = Bands(*(history.new_empty(len(chosen), layout.size) for _ in Bands._fields))
        noise = self.generator()
        for series in self.series(history, layout):
            drawn = self._whole(self.draw(series.values, expanded(series), self.config.samples, noise), series)
            middle, spread = drawn.mean(0)[chosen], drawn.std(0)[chosen] * self.width[chosen, None]
            for target, values in zip(bands, (middle, middle - spread, middle + spread), strict=True):
                target[:, series.place] = history[-1, series.place] + values
        return bands


def features_of(config: SeriesPredictorConfig) -> int:
    """Return the number of `gram_features` per increment."""
    return 2 * (config.sequence_length - 1) + 4 + len(FLAGGED_KINDS)


def _waves(level: Tensor) -> Tensor:
    frequencies = math.pi * 2.0 ** torch.arange(TIME_FEATURES // 2, device=level.device).div(2)
    angles = level[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
