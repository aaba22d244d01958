"""Section `predictor:` of params.yaml: what is forecast from what, by which model, and how that is trained."""

from typing import Annotated, Any, Literal

import msgspec

from wscore.config import Section
from wscore.forecasting.models.per_weight import DiffusionPredictorConfig, SeriesPredictorConfig
from wscore.forecasting.models.predictors import GramPredictorConfig, PcaPredictorConfig
from wscore.training.schedule import Schedule
from wscore.training.state import FitConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Kind = Literal["gram", "transformer_pca", "transformer_param", "diffusion"]


class PredictorConfig(Section):
    """The weight predictor (section `predictor:`).

    Args:
        kind: `gram` combines the last increments by what their inner products say, and works on runs and networks that
            it never saw; `transformer_pca` reads whole weight vectors and works on the runs that it was trained on;
            `transformer_param` reads the increments of each weight; `diffusion` draws possible futures of each weight.
        split: `temporal` learns from the first part of the training runs, `run` from all of them.
        sequence_length: snapshots that it looks at.
        lagged_snapshots: further input snapshots of `gram` where the run has them, as steps back from the last one, rising;
            those that `sequence_length` holds add nothing.
        rank_splits: `gram` gives coefficients of their own to the changes of a matrix along its strongest directions of
            inputs, up to each of these numbers, and to the rest; none: to a whole tensor.
        train_split: share of each trajectory, in time, before the windows that are tested (and, for `temporal`, that
            may be learned from).
        holdout_runs: runs of each data set, optimiser and rate, the last ones, of which it sees nothing while training.
        validation_runs: runs before these, on which the best epoch is chosen; 0 takes the last epoch.
        unseen_optimizers: optimisers whose runs are not learned from but tested as `unseen_optimizer`.
        unseen_datasets: data sets, likewise, tested as `unseen_dataset`.
        stride: snapshots per forecast step.
        augment_strides: further strides of the training windows.
        extrapolation_steps: steps ahead; all are forecast directly, from the same window.
        far_step: one more step ahead, tested where the runs are long enough; null leaves it out.
        apply_pca: `transformer_pca` reads principal components; else whole vectors.
        n_components: most components; at most training snapshots - 1 and the numerical rank are used.
        mode: of `transformer_pca`.
        chunk_size: consecutive weights that `transformer_param` and `diffusion` read together.
        sampled_series: of these, how many of each window a training step looks at.
        diffusion_steps: denoising steps of a sample.
        samples: futures that `diffusion` draws for a forecast, which is their mean.
        band: share of the true weights that its calibrated bands are to hold.
        augment_share: share of the windows that `gram` learns from mixed with another one, and with noise of each of two
            kinds, drawn anew in every epoch.
        ensemble_size: transformers of `gram`, whose coefficients are averaged.
        model_dim: width inside, a multiple of `heads`.
        layers: transformer blocks.
        heads: attention heads.
        dropout: share of activations dropped while training.
        predictor_epochs: passes over the training windows.
        batch_size: windows per step.
        learning_rate: highest rate of AdamW.
        lr_factors: each kind learns at this many times the rate.
        weight_decay: decoupled weight decay of AdamW.
        schedule: decay of the learning rate after the warm-up.
        warmup: share of the steps in which the rate rises.
        clip_norm: largest norm of the gradient; null = no limit.
        seed: of the initial weights, the order of the windows, dropout and noise.
    """

    kind: Kind
    split: Literal["temporal", "run"]
    sequence_length: Annotated[int, msgspec.Meta(ge=3)]
    lagged_snapshots: tuple[Count, ...]
    rank_splits: tuple[Count, ...]
    train_split: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    holdout_runs: Annotated[int, msgspec.Meta(ge=0)]
    validation_runs: Annotated[int, msgspec.Meta(ge=0)]
    unseen_optimizers: tuple[str, ...]
    unseen_datasets: tuple[str, ...]
    stride: Count
    augment_strides: tuple[Count, ...]
    extrapolation_steps: Count
    far_step: Count | None
    apply_pca: bool
    n_components: Count
    mode: Literal["residual", "absolute"]
    chunk_size: Count
    sampled_series: Count
    diffusion_steps: Count
    samples: Annotated[int, msgspec.Meta(ge=2)]
    band: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    augment_share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    ensemble_size: Count
    model_dim: Count
    layers: Count
    heads: Count
    dropout: Share
    predictor_epochs: Count
    batch_size: Count
    learning_rate: Positive
    lr_factors: dict[Kind, Positive]
    weight_decay: Annotated[float, msgspec.Meta(ge=0)]
    schedule: Schedule
    warmup: Share
    clip_norm: Positive | None
    seed: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        self.gram()
        if self.kind not in self.lr_factors:
            raise ValueError(f"no entry for {self.kind} - at `$.lr_factors`")

    @property
    def strides(self) -> list[int]:
        """Strides of the training windows."""
        return sorted({self.stride, *self.augment_strides})

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps ahead that are forecast: 1 to `extrapolation_steps`, and `far_step`."""
        near = range(1, self.extrapolation_steps + 1)
        return (*near, self.far_step) if self.far_step and self.far_step not in near else tuple(near)

    def gram(self) -> GramPredictorConfig:
        """Return the shape of a `GramPredictor`."""
        lagged_snapshots = tuple(step for step in self.lagged_snapshots if step >= self.sequence_length)
        return GramPredictorConfig(
            **self._shape(),
            lagged_snapshots=lagged_snapshots,
            rank_splits=self.rank_splits,
            ensemble_size=self.ensemble_size,
        )

    def pca(self, weights: int, rank: int | None) -> PcaPredictorConfig:
        """Return the shape of a `PcaPredictor` for networks of so many weights."""
        return PcaPredictorConfig(**self._shape(), weights=weights, rank=rank, mode=self.mode)

    def series(self) -> SeriesPredictorConfig:
        """Return the shape of a `SeriesPredictor`."""
        return SeriesPredictorConfig(**self._shape(), chunk_size=self.chunk_size)

    def diffusion(self) -> DiffusionPredictorConfig:
        """Return the shape of a `DiffusionPredictor`."""
        names = ("chunk_size", "samples", "band", "seed")
        chosen = {name: getattr(self, name) for name in names}
        return DiffusionPredictorConfig(**self._shape(), **chosen, steps=self.diffusion_steps)

    def fit(self) -> FitConfig:
        """Return how it is trained: all epochs, in float32."""
        names = ("weight_decay", "schedule", "warmup", "clip_norm", "seed")
        return FitConfig(
            epochs=self.predictor_epochs,
            lr=self.learning_rate,
            accumulate=1,
            patience=self.predictor_epochs,
            precision="no",
            **{name: getattr(self, name) for name in names},
        )

    def _shape(self) -> dict[str, Any]:
        names = ("sequence_length", "model_dim", "layers", "heads", "dropout")
        return {"horizons": self.steps, **{name: getattr(self, name) for name in names}}
