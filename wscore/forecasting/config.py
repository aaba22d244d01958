"""Section `predictor:` of params.yaml: inputs and horizons of the weight predictor, its model and its training."""

from typing import Annotated, Any, Literal

import msgspec

from wscore.config import Section
from wscore.forecasting.models.per_weight import DiffusionPredictorConfig, SeriesPredictorConfig
from wscore.forecasting.models.predictors import GramPredictorConfig, PcaPredictorConfig
from wscore.training.state import FitConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Kind = Literal["gram", "transformer_pca", "transformer_param", "diffusion"]
LR_FACTORS = {"gram": 20.0, "transformer_pca": 1.0, "transformer_param": 10.0, "diffusion": 10.0}  # on `learning_rate`


class PredictorConfig(Section):
    """The weight predictor (section `predictor:`)."""

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
    weight_decay: Annotated[float, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        self.gram()

    @property
    def strides(self) -> list[int]:
        """Strides of the training windows."""
        return sorted({self.stride, *self.augment_strides})

    @property
    def steps(self) -> tuple[int, ...]:
        """Horizons: 1 to `extrapolation_steps`, and `far_step`."""
        near = range(1, self.extrapolation_steps + 1)
        return (*near, self.far_step) if self.far_step and self.far_step not in near else tuple(near)

    def gram(self) -> GramPredictorConfig:
        """Return the configuration of a `GramPredictor`."""
        lagged_snapshots = tuple(step for step in self.lagged_snapshots if step >= self.sequence_length)
        return GramPredictorConfig(
            **self._shape(),
            lagged_snapshots=lagged_snapshots,
            rank_splits=self.rank_splits,
            ensemble_size=self.ensemble_size,
        )

    def pca(self, weights: int, rank: int | None) -> PcaPredictorConfig:
        """Return the configuration of a `PcaPredictor` for networks with this number of weights."""
        return PcaPredictorConfig(**self._shape(), weights=weights, rank=rank, mode=self.mode)

    def series(self) -> SeriesPredictorConfig:
        """Return the configuration of a `SeriesPredictor`."""
        return SeriesPredictorConfig(**self._shape(), chunk_size=self.chunk_size)

    def diffusion(self) -> DiffusionPredictorConfig:
        """Return the configuration of a `DiffusionPredictor`."""
        names = ("chunk_size", "samples", "band", "seed")
        chosen = {name: getattr(self, name) for name in names}
        return DiffusionPredictorConfig(**self._shape(), **chosen, steps=self.diffusion_steps)

    def fit(self) -> FitConfig:
        """Return the training configuration: all epochs, in float32."""
        epochs = self.predictor_epochs
        return FitConfig.of(self, epochs=epochs, lr=self.learning_rate, patience=epochs)

    def _shape(self) -> dict[str, Any]:
        names = ("sequence_length", "model_dim", "layers", "heads", "dropout")
        return {"horizons": self.steps, **{name: getattr(self, name) for name in names}}
