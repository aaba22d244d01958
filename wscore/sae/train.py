"""Trains the sparse dictionary: rows of weights or latents in, a sparse autoencoder out."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from wscore.config import Section
from wscore.errors import TrainingError, WscoreWarning
from wscore.sae.dataset import Input, NetworkRows, RowBatches, Scaler, Scaling, fit_scaler, stream
from wscore.sae.losses import hoyer_sparsity_loss, kl_divergence_sparsity_loss, l0, l1_sparsity_loss
from wscore.sae.model import SparseAutoencoder, TiedWeightSparseAutoencoder, unit_rows
from wscore.sae.rows import UnitBatch
from wscore.training.batches import derive_seed
from wscore.training.callbacks import Callback, PostStep
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.state import FitConfig, TrainingState

Sparsity = Literal["l1", "kl", "hoyer", "topk", "batchtopk", "jumprelu"]
Model = SparseAutoencoder | TiedWeightSparseAutoencoder
Losses = dict[str, Tensor]
Positive = Annotated[int, Meta(ge=1)]
Hidden = Annotated[tuple[Positive, ...], Meta(max_length=1)]
Weight = Annotated[float, Meta(ge=0)]
PENALTY_WEIGHTS = {"l1": 0.1, "kl": 0.1, "hoyer": 1.0, "jumprelu": 1.0}  # penalty weights at `sparsity_weight: 1`
SCHEDULE = "linear"  # of the learning rate: atoms settle at the end
AUX_WEIGHT = 1 / 32  # of the auxiliary loss
AUX_K = 64  # dead latents used in it, per row
CALIBRATION = 1 << 24  # maximum number of activations used to calibrate the inference threshold of batchtopk
RESAMPLED = 4096  # training rows from which directions of resampled latents are drawn
REVIVED_NORM = 0.2  # of a resampled encoder row, relative to the others (Bricken et al. 2023)


class SaeConfig(Section):
    """Sparse dictionary (section `sae:`)."""

    input: Input
    tied: bool
    latent_dim: Annotated[int, Meta(ge=2)]
    encoder_hidden: Hidden
    decoder_hidden: Hidden
    sparsity: Sparsity
    k: Positive
    target_rate: Annotated[float, Meta(gt=0, lt=1)]
    sparsity_weight: Weight
    emphasis: Annotated[float, Meta(ge=0, le=1)]
    scaling: Scaling
    dead: Literal["auxiliary", "resample", "none"]
    dead_window: Annotated[float, Meta(gt=0)]
    epochs: Positive
    batch_size: Annotated[int, Meta(ge=2)]
    lr: Annotated[float, Meta(gt=0)]
    weight_decay: Weight
    patience: Positive
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        if self.k > self.latent_dim:
            raise ValueError(f"k {self.k} is larger than latent_dim {self.latent_dim}")
        if self.tied and self.encoder_hidden != self.decoder_hidden:
            raise ValueError("tied weights need encoder_hidden and decoder_hidden to be equal")
        if self.dead == "resample" and (self.encoder_hidden or self.decoder_hidden):
            raise ValueError("dead: resample needs empty encoder_hidden and decoder_hidden")

    @property
    def penalty_weight(self) -> float:
        """Weight of the penalty in the loss, 0 for sparsities without penalty."""
        return self.sparsity_weight * PENALTY_WEIGHTS.get(self.sparsity, 0.0)


class TrainedSae(NamedTuple):
    """A trained dictionary and its training history.

    Attributes:
        model: in evaluation mode, with the weights of its best epoch.
        history: one row per epoch.
        figures: metrics, as floats.
    """

    model: Model
    history: History
    figures: dict[str, float]

    def summary(self) -> str:
        """Return a one-line summary."""
        figures = self.figures
        return (
            f"best epoch {self.history.best_epoch} of {figures['epochs']:.0f}, validation: {figures['validation_l0']:.1f} of "
            f"{figures['latents']:.0f} latents active per row, {figures['validation_fvu']:.3f} of the variance unexplained, "
            f"{figures['dead_fraction']:.1%} of the latents dead"
        )


class SparseTrainingModule(nn.Module):
    """The model, with the number of training rows since each latent was last active."""

    silent: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("silent", torch.zeros(model.config.latent_dim))

    def forward(self, batch: UnitBatch) -> Tensor:
        """Return reconstructed rows."""
        return self.model(batch.values, batch.mask)

    @torch.no_grad()
    def watch(self, codes: Tensor) -> None:
        """Record which latents were active in a training batch."""
        self.silent.add_(len(codes)).mul_(~(codes > 0).any(dim=0))


Penalty = Callable[[Model, Tensor, Tensor, SaeConfig], Tensor]
Objective = Callable[[SparseTrainingModule, UnitBatch], Losses]

#: Penalty as a function of model, pre-activations and codes; sparsities without an entry have none.
PENALTIES: Mapping[str, Penalty] = {
    "l1": lambda model, values, codes, config: l1_sparsity_loss(codes, reduction="sum"),  # noqa: ARG005
    "kl": lambda model, values, codes, config: kl_divergence_sparsity_loss(  # noqa: ARG005
        codes, config.target_rate, reduction="sum"
    ),
    "hoyer": lambda model, values, codes, config: hoyer_sparsity_loss(codes),  # noqa: ARG005
    "jumprelu": lambda model, values, codes, config: model.l0_penalty(values, config.k),  # noqa: ARG005
}


def train_sae(
    rows: NetworkRows, config: SaeConfig, *, callbacks: Sequence[Callback] = (), resume: Path | None = None
) -> TrainedSae:
    """Return a dictionary trained on the training split, from the epoch with the lowest validation loss.

    Raises:
        TrainingError: if a row or a loss is not finite, all columns are constant, or all latents are dead at the end.
        ConfigError: if the device is not available.
    """
    train, validation = rows.rows_of("train"), rows.rows_of("validation")
    scaler = fit_scaler(rows, train, config.scaling)
    trainee = SparseTrainingModule(build_sae(config, rows.width, scaler))
    size = {"batch_size": config.batch_size, "seed": config.seed}
    history = fit(
        trainee,
        train=RowBatches(rows, train, shuffle=True, **size),
        validation=RowBatches(rows, validation, shuffle=False, **size),
        loss=sae_objective(config, spread=scaler.spread, rows=len(train)),
        config=FitConfig.of(config, schedule=SCHEDULE),
        callbacks=[PostStep(_normalize), *_resampling(config, rows, train), *callbacks],
        resume=resume,
    )
    if config.sparsity == "batchtopk":
        calibrate_threshold(trainee.model, rows, train)
    return TrainedSae(trainee.model, history, sae_metrics(trainee.model, rows, scaler, history))


def build_sae(config: SaeConfig, width: int, scaler: Scaler) -> Model:
    """Return the untrained model of a section for rows of this width, with its input scaling."""
    kind = TiedWeightSparseAutoencoder if config.tied else SparseAutoencoder
    activation = config.sparsity if config.sparsity in ("topk", "batchtopk", "jumprelu") else "relu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "sae"))
        model = kind(
            width, config.latent_dim, encoder_hidden=list(config.encoder_hidden),
            decoder_hidden=list(config.decoder_hidden), activation=activation, k=config.k,
        )  # fmt: skip
    model.standardise(scaler.centre, scaler.scale)
    return model


def sae_objective(config: SaeConfig, *, spread: float, rows: int) -> Objective:
    """Return the loss: reconstruction + weight x penalty, and in training the auxiliary loss of dead latents.

    reconstruction = sum |u - u^|^2 / (B spread) over valid entries: the fraction of unexplained variance of the
    training rows. All parts are logged, along with `l0` and the share of `dead` latents.

    Args:
        config: of the dictionary.
        spread: mean of |u|^2 over the training rows.
        rows: number of training rows, the unit of the dead-latent window.
    """
    penalty, weight, window = PENALTIES.get(config.sparsity), config.penalty_weight, config.dead_window * rows

    def loss(trainee: SparseTrainingModule, batch: UnitBatch) -> Losses:
        model = trainee.model
        u = model.scaled(batch.values, batch.mask)
        values = model.preactivations(u)
        codes = model.activate(values)
        error = (u - model.reconstruct(codes)) * batch.mask
        reconstruction = error.float().square().sum() / (len(u) * spread)
        sparsity = reconstruction.new_zeros(()) if penalty is None else penalty(model, values, codes, config)
        if trainee.training:
            trainee.watch(codes)
        dead = trainee.silent >= window
        total = reconstruction + weight * sparsity
        if config.dead == "auxiliary" and trainee.training and bool(dead.any()):
            total = total + AUX_WEIGHT * auxiliary_loss(model, values, dead, error.detach(), batch.mask, AUX_K)
        return {
            "loss": total, "reconstruction": reconstruction, "sparsity": sparsity, "l0": l0(codes),
            "dead": dead.float().mean(),
        }  # fmt: skip

    return loss


def auxiliary_loss(model: Model, values: Tensor, dead: Tensor, error: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return the fraction of the reconstruction error left unexplained by the k most activated dead latents.

    |e - e^|^2 / |e|^2, where e is the detached error and e^ the decoding of the dead latents with the largest
    pre-activations, without the bias (Gao et al. 2024, "Scaling and evaluating sparse autoencoders", A.2, without its flaw that
    a latent whose pre-activation is negative everywhere gets no gradient: here a straight-through ReLU is used).

    Args:
        model: with the latents.
        values: pre-activations (B, L).
        dead: mask of the dead latents (L,).
        error: e (B, D) in scaled units, zero at padding.
        mask: False at padding (B, D).
        k: latents per row.
    """
    candidates = values.masked_fill(~dead, -torch.inf)
    best = candidates.topk(min(k, int(dead.sum())), dim=-1, sorted=False)
    straight = best.values + (best.values.relu() - best.values).detach()
    codes = torch.zeros_like(values).scatter(-1, best.indices, straight)
    rebuilt = (model.reconstruct(codes) - model.decoder_bias) * mask
    return (error - rebuilt).square().sum() / error.square().sum().clamp_min(torch.finfo(torch.float32).tiny)


class Resample(Callback):
    """Re-initialises dead latents to directions of poorly reconstructed training rows (Bricken et al. 2023).

    A row is drawn with a probability proportional to its squared loss; its scaled input becomes the atom and, at a fifth
    of the usual norm, the encoder row; the bias and both AdamW moments are set to zero.

    Args:
        rows: source.
        chosen: training rows.
        config: of the dictionary; its window sets the interval.
    """

    def __init__(self, rows: NetworkRows, chosen: np.ndarray, config: SaeConfig) -> None:
        self.rows, self.chosen, self.config = rows, chosen, config
        self.every = max(1, round(config.dead_window))

    def on_epoch(self, state: TrainingState) -> None:
        """Resample after each window but the last."""
        if state.epoch % self.every or state.epoch >= state.config.epochs:
            return
        trainee: Any = state.model
        dead = (trainee.silent >= self.config.dead_window * len(self.chosen)).nonzero()[:, 0]
        if len(dead):
            self.revive(trainee, dead, state)

    @torch.no_grad()
    def revive(self, trainee: SparseTrainingModule, dead: Tensor, state: TrainingState) -> None:
        """Reset the weights of dead latents and their optimizer moments."""
        model = trainee.model
        directions = self.directions(model, len(dead), derive_seed(self.config.seed, "resample", state.epoch))
        if isinstance(model, SparseAutoencoder):
            alive = torch.ones(model.config.latent_dim, dtype=torch.bool, device=dead.device).index_fill(0, dead, False)
            norms = model.encoder_weight[alive].norm(dim=1)
            norm = REVIVED_NORM * (norms.mean() if len(norms) else norms.new_ones(()))
            model.decoder_weight[dead], model.encoder_weight[dead] = directions, norm * directions
            changed = [model.decoder_weight, model.encoder_weight, model.encoder_bias]
        else:
            model.weight[dead] = directions
            changed = [model.weight, model.encoder_bias]
        model.encoder_bias[dead] = 0
        for parameter in changed:
            for name in ("exp_avg", "exp_avg_sq"):
                state.optimizer.state[parameter][name][dead] = 0
        trainee.silent[dead] = 0

    def directions(self, model: Model, count: int, seed: int) -> Tensor:
        """Return unit vectors of poorly reconstructed training rows."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.chosen), generator=generator)[:RESAMPLED]
        batch = self.rows.batch(self.chosen[order.numpy()])
        device = model.decoder_bias.device
        mask = batch.mask.to(device)
        u = model.scaled(batch.values.to(device), mask)
        error = (u - model.reconstruct(model.activate(model.preactivations(u)))) * mask
        chances = error.square().sum(-1).square().cpu().double() + torch.finfo(torch.float64).tiny
        drawn = torch.multinomial(chances, count, replacement=count > len(chances), generator=generator)
        return unit_rows(u[drawn.to(device)])


@torch.no_grad()
def calibrate_threshold(model: Model, rows: NetworkRows, chosen: np.ndarray) -> None:
    """Set the inference threshold of `batchtopk`, so that training rows have k active codes on average.

    Uses evenly spaced training rows, as many as `CALIBRATION` activations allow.
    """
    count = max(1, CALIBRATION // model.config.latent_dim)
    sampled = chosen[:: -(-len(chosen) // count)]
    positive: list[Tensor] = []
    for _, batch in stream(rows, sampled):
        values = model.preactivations(model.scaled(batch.values, batch.mask)).relu().flatten()
        positive.append(values[values > 0])
    values, wanted = torch.cat(positive), model.config.k * len(sampled)
    if wanted < len(values):
        kept, dropped = values.topk(wanted + 1).values[-2:]
        model.threshold.fill_(float((kept.double() + dropped.double()) / 2))
    else:
        model.threshold.zero_()


@torch.no_grad()
def sae_metrics(model: Model, rows: NetworkRows, scaler: Scaler, history: History) -> dict[str, float]:
    """Return model size, training length, and L0 and FVU (fraction of variance unexplained) on the validation split.

    `dead_fraction` is the fraction of latents inactive on every training row.

    Raises:
        TrainingError: if all latents are dead.
    """
    fired = torch.zeros(model.config.latent_dim, dtype=torch.bool)
    for _, batch in stream(rows, rows.rows_of("train")):
        fired |= (model.encode(batch.values, batch.mask) > 0).any(dim=0)
    error = spread = active = 0.0
    validation = rows.rows_of("validation")
    for _, batch in stream(rows, validation):
        codes = model.encode(batch.values, batch.mask)
        error += float(((model.decode(codes) - batch.values) * batch.mask).double().square().sum())
        spread += float(((batch.values - scaler.mean) * batch.mask).double().square().sum())
        active += float((codes > 0).sum())
    _check_alive(fired)
    return {
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        "rows": float(len(rows.rows_of("train"))),
        "width": float(rows.width),
        "latents": float(model.config.latent_dim),
        "epochs": float(history.rows[-1]["epoch"]),
        "best_epoch": float(history.best_epoch),
        "validation_loss": history.best["validation_loss"],
        "validation_fvu": error / max(spread, 1e-12),
        "validation_l0": active / max(1, len(validation)),
        "dead_fraction": float((~fired).float().mean()),
    }


def _check_alive(fired: Tensor) -> None:
    if not bool(fired.any()):
        raise TrainingError(
            "every latent is dead: all codes are zero", where="sae", expected="at least one active latent",
            fix="lower sae.sparsity_weight or sae.lr",
        )  # fmt: skip
    if (share := float((~fired).float().mean())) > 0.5:
        warnings.warn(f"{share:.0%} of the latents are dead (see sae.dead)", WscoreWarning, stacklevel=3)


def _normalize(trainee: Any) -> None:
    trainee.model.normalize()


def _resampling(config: SaeConfig, rows: NetworkRows, chosen: np.ndarray) -> list[Callback]:
    return [Resample(rows, chosen, config)] if config.dead == "resample" else []
