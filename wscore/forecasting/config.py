"""Section `predictor:` of params.yaml: what is forecast from what, by which model, and how that is trained."""

from typing import Annotated, Any, Literal

import msgspec

from wscore.config import Section
from wscore.models.predictor import GramPredictorConfig, PcaPredictorConfig
from wscore.training.engine import Device
from wscore.training.schedule import Schedule
from wscore.training.state import FitConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class PredictorConfig(Section):
    """The weight predictor (section `predictor:`).

    Args:
        kind: `gram` combines the last increments by what their inner products say, and works on runs and networks that
            it
            never saw; `transformer_pca` reads whole weight vectors and works on the runs that it was trained on.
        sequence_length: snapshots that it looks at.
        train_split: share of each trajectory, in time, that it may learn from.
        holdout_runs: runs, the last ones, of which it sees nothing while training.
        stride: snapshots per forecast step.
        augment_strides: further strides of the training windows.
        extrapolation_steps: steps ahead; all are forecast directly, from the same window.
        apply_pca: `transformer_pca` reads principal components; else whole vectors.
        n_components: most components; at most training snapshots - 1 and the numerical rank are used.
        mode: of `transformer_pca`.
        model_dim: width inside, a multiple of `heads`.
        layers: transformer blocks.
        heads: attention heads.
        dropout: share of activations dropped while training.
        predictor_epochs: passes over the training windows.
        batch_size: windows per step.
        learning_rate: highest rate of AdamW.
        gram_lr_factor: `gram` learns at this many times the rate.
        weight_decay: decoupled weight decay of AdamW.
        schedule: decay of the learning rate after the warm-up.
        warmup: share of the steps in which the rate rises.
        clip_norm: largest norm of the gradient; null = no limit.
        device: where to train.
        seed: of the initial weights, the order of the windows and dropout.
    """

    kind: Literal["gram", "transformer_pca"]
    sequence_length: Annotated[int, msgspec.Meta(ge=3)]
    train_split: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    holdout_runs: Annotated[int, msgspec.Meta(ge=0)]
    stride: Count
    augment_strides: tuple[Count, ...]
    extrapolation_steps: Count
    apply_pca: bool
    n_components: Count
    mode: Literal["residual", "absolute"]
    model_dim: Count
    layers: Count
    heads: Count
    dropout: Share
    predictor_epochs: Count
    batch_size: Count
    learning_rate: Positive
    gram_lr_factor: Positive
    weight_decay: Annotated[float, msgspec.Meta(ge=0)]
    schedule: Schedule
    warmup: Share
    clip_norm: Positive | None
    device: Device
    seed: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        self.gram()

    @property
    def strides(self) -> list[int]:
        """Strides of the training windows."""
        return sorted({self.stride, *self.augment_strides})

    def gram(self) -> GramPredictorConfig:
        """Return the shape of a `GramPredictor`."""
        return GramPredictorConfig(**self._shape())

    def pca(self, weights: int, rank: int | None) -> PcaPredictorConfig:
        """Return the shape of a `PcaPredictor` for networks of so many weights."""
        return PcaPredictorConfig(**self._shape(), weights=weights, rank=rank, mode=self.mode)

    def fit(self) -> FitConfig:
        """Return how it is trained: all epochs, in float32."""
        names = ("weight_decay", "schedule", "warmup", "clip_norm", "device", "seed")
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
        return {"horizons": self.extrapolation_steps, **{name: getattr(self, name) for name in names}}
