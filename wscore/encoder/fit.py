"""Fits the encoder to the networks of a zoo, without labels.

1. Probe images are dreamed by the training networks.
2. Features of all networks are standardised, and their principal components are taken.
3. A small network learns to predict from the features what each network outputs on the probes (distillation); the numbers from
   which it predicts them linearly are the other part of the latent.
4. A discriminator learns to recognise damaged copies of the training networks; its scores, and the residuals of the principal
   components, are calibrated on the validation networks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wscore.encoder.config import EncoderConfig
from wscore.encoder.damage import damaged
from wscore.encoder.dreamed_probes import Probes, ProbeSets, dream
from wscore.encoder.features import CHAIN, feature_matrix, zoo_features
from wscore.encoder.model import EncoderNetwork, EncoderShape
from wscore.encoder.targets import output_targets
from wscore.errors import TrainingError
from wscore.pca import fit_pca
from wscore.training.batches import TensorBatches, derive_seed
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.state import FitConfig
from wscore.zoo.store import Zoo

DAMAGED = 1024  # networks that are damaged in every way
CALIBRATION = 4096  # maximum number of networks on which scores are calibrated
LEAST = 8  # training networks
WARMUP = 0.1  # share of the steps; an epoch has few
CONSTANT = 1e-6  # features of a smaller standard deviation are left out


class FittedEncoder(NamedTuple):
    """A fitted encoder.

    Attributes:
        network: in evaluation mode.
        probes: images on which it runs networks.
        history: of the distillation, or of the discriminator if no network can be run.
    """

    network: EncoderNetwork
    probes: dict[str, Probes]
    history: History


class _Student(nn.Module):
    """The hidden part of an encoder with a linear readout of the outputs."""

    def __init__(self, network: EncoderNetwork, targets: int, config: EncoderConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.readout = nn.Linear(network.config.components + network.config.distilled, targets)
        names = network.config.features
        chain = [name.startswith(CHAIN) for name in names]
        flags = [chain[place] for place in network.optional.tolist()]
        self.chain_inputs = torch.tensor([*chain, *flags])
        self.chain_flags = torch.tensor([*(False for _ in names), *flags])

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        u, targets = batch
        predicted = self.readout(self.network.latents(self._hidden_in_part(u) if self.training else u))
        errors = (predicted - targets).square().nan_to_num()
        return {"loss": errors.sum() / (~targets[:, 0].isnan()).sum().clamp_min(1)}

    def _hidden_in_part(self, u: Tensor) -> Tensor:
        """Return inputs with noise, some of them hidden, and some networks without the outputs of their chain."""
        without = torch.rand(len(u), 1, device=u.device) < self.config.blank
        u = torch.where(without & self.chain_inputs.to(u.device), self.chain_flags.to(u), u)
        return (u + self.config.noise * torch.randn_like(u)) * (torch.rand_like(u) >= self.config.blank)


def fit_encoder(
    zoo: Zoo, split: Sequence[str] | np.ndarray, config: EncoderConfig, *, latent_dim: int, **extras: Any
) -> FittedEncoder:
    """Return an encoder fitted to the training networks of a zoo and calibrated on its validation networks.

    Args:
        zoo: the networks; outputs of those of unknown architecture are not used.
        split: of each network: `train`, `validation`, or another that is not looked at.
        config: how it is trained.
        latent_dim: length of the latent; numbers that there are too few networks for are 0.
        extras: `callbacks` and `resume` of the distillation.

    Raises:
        TrainingError: if there are too few training or validation networks.
    """
    train, validation = (np.flatnonzero(np.asarray(split) == name) for name in ("train", "validation"))
    if len(train) < LEAST or not len(validation):
        raise TrainingError(
            "too few networks for the encoder", where="zoo", got=f"{len(train)} to train on, {len(validation)} for validation",
            expected=f"at least {LEAST} and 1", fix="make more runs, or change the fractions in tokens",
        )  # fmt: skip
    last = train[np.isin(train, zoo.last_checkpoints())]
    probes = dream(zoo, last, count=config.probes, steps=config.probe_steps, seed=config.seed)
    features, names = zoo_features(zoo, probes)
    targets = output_targets(zoo, train, validation, probes)
    distilled = min(round(latent_dim * config.distilled), latent_dim - 1) if targets.shape[1] else 0
    kept, shape = _shape(features[train], names, config, (latent_dim - distilled, distilled), len(validation))
    network = _prepared(torch.from_numpy(features[train][:, kept]), shape, config.seed)
    u = network.inputs(torch.from_numpy(features[:, kept]))
    histories = []
    if distilled:
        histories.append(_distil(network, u, torch.from_numpy(targets), (train, validation), config, **extras))
    bad = _damaged_inputs(network, zoo, train, probes, config.seed)
    histories.append(_discriminate(network, u[train], bad, config))
    with torch.no_grad():
        scores = network.eval().scores(u[validation[: shape.calibration]])
    network.calibration.copy_(scores.sort(dim=1).values)
    return FittedEncoder(network, probes, histories[0])


def _shape(
    features: Float[np.ndarray, "train feature"],
    names: Sequence[str],
    config: EncoderConfig,
    parts: tuple[int, int],
    calibration: int,
) -> tuple[Int[np.ndarray, " kept"], EncoderShape]:
    """Return the features that vary among the training networks, and the shape of a network with two parts of a latent."""
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(features)
        least, most = (np.where(known, features, fill).T for fill in (np.inf, -np.inf))
    kept = np.flatnonzero(most.max(1) - least.min(1) > CONSTANT)
    chosen = [names[place] for place in kept.tolist()]
    optional = _optional(~known[:, kept], chosen)
    return kept, EncoderShape(
        features=tuple(chosen), optional=optional, components=parts[0], distilled=parts[1],
        hidden_dim=config.hidden_dim, layers=config.layers, dropout=config.dropout,
        calibration=min(calibration, CALIBRATION),
    )  # fmt: skip


def _optional(missing: Bool[np.ndarray, "train feature"], names: Sequence[str]) -> tuple[int, ...]:
    """Return a feature of each set of features that networks lack together; outputs of the chain are such a set too."""
    _, first = np.unique(missing, axis=1, return_index=True)
    found = {int(place) for place in first if missing[:, place].any()}
    chain = [place for place, name in enumerate(names) if name.startswith(CHAIN)]
    return tuple(sorted(found | set(chain[:1])))


def _prepared(features: Float[Tensor, "train feature"], shape: EncoderShape, seed: int) -> EncoderNetwork:
    """Return a network with fitted standardisation and principal components; its perceptrons are untrained."""
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(seed, "encoder"))
        network = EncoderNetwork(shape)
    log = (features.sign() * features.abs().log1p()).double().numpy()
    network.mean.copy_(torch.from_numpy(np.nanmean(log, axis=0)))
    network.std.copy_(torch.from_numpy(np.nanstd(log, axis=0)).clamp_min(CONSTANT))
    u = network.inputs(features)
    network.centre.copy_(u.mean(0))
    centred = network.centred(u).numpy()
    pca = fit_pca(lambda: [centred], shape.components, seed=seed)
    network.basis[:, : len(pca.basis)] = torch.from_numpy(pca.basis.T)
    network.stds[: len(pca.basis)] = torch.from_numpy(np.sqrt(pca.variances)).clamp_min(CONSTANT)
    return network


def _distil(
    network: EncoderNetwork, u: Tensor, targets: Tensor, rows: tuple[np.ndarray, np.ndarray], config: EncoderConfig,
    **extras: Any,
) -> History:  # fmt: skip
    """Train the hidden part of a network on the outputs of the training networks that can be run."""
    runnable = (~targets.isnan()).any(1)
    train, validation = (
        TensorBatches(u[part], targets[part], batch_size=config.batch_size, seed=config.seed, shuffle=shuffle)
        if len(part := torch.from_numpy(places)[runnable[places]]) else None
        for places, shuffle in zip(rows, (True, False), strict=True)
    )  # fmt: skip
    assert train is not None, "components of targets are fitted on training networks"
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(config.seed, "readout"))
        student = _Student(network, targets.shape[1], config)
    student.network.discriminator.requires_grad_(False)
    loss = lambda model, batch: model.loss(batch)  # noqa: E731
    settings = FitConfig.of(config, warmup=WARMUP)
    history = fit(student, train=train, validation=validation, loss=loss, config=settings, **extras)
    student.network.discriminator.requires_grad_(True)
    return history


def _damaged_inputs(network: EncoderNetwork, zoo: Zoo, train: np.ndarray, probes: ProbeSets, seed: int) -> Tensor:
    """Return the inputs of damaged copies of some training networks."""
    random = np.random.default_rng(seed)
    drawn = np.sort(random.choice(train, min(DAMAGED, len(train)), replace=False))
    inputs = []
    for key, rows in zoo.table["layout"].iloc[drawn].groupby(zoo.table["layout"].iloc[drawn]):
        layout = zoo.layouts[str(key)]
        for vectors in damaged(layout, zoo.weights(rows.index.to_numpy()), random).values():
            values = feature_matrix(layout, vectors, probes, network.config.features)
            inputs.append(network.inputs(torch.from_numpy(values)))
    return torch.cat(inputs)


def _discriminate(network: EncoderNetwork, good: Tensor, bad: Tensor, config: EncoderConfig) -> History:
    """Train the discriminator of a network: logit of being damaged; both sides weigh the same."""
    labels = torch.cat([torch.zeros(len(good)), torch.ones(len(bad))])
    weight = torch.tensor(len(good) / len(bad))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        u, label = batch
        u = u + config.noise * torch.randn_like(u) if model.training else u
        return {"loss": F.binary_cross_entropy_with_logits(model(u)[:, 0], label, pos_weight=weight.to(u))}

    batches = TensorBatches(torch.cat([good, bad]), labels, batch_size=config.batch_size, seed=config.seed)
    settings = FitConfig.of(config, warmup=WARMUP)
    return fit(network.discriminator, train=batches, validation=None, loss=loss, config=settings)
