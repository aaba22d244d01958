"""Trains the autoencoder: a token cache in, encoder and decoder out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from wscore.autoencoder.models.autoencoder import Autoencoder, AutoencoderConfig, Reconstruction
from wscore.autoencoder.models.embeddings import Positions
from wscore.autoencoder.models.mlp import Pooling
from wscore.autoencoder.models.projection import ProjectionConfig, ProjectionHead
from wscore.autoencoder.models.registry import ARCHITECTURES
from wscore.autoencoder.models.vae import Posterior
from wscore.autoencoder.training.behaviour import (
    REMEDY,
    Behaviour,
    BehaviourConfig,
    NetworkBatch,
    SameShapeBatches,
    alone,
    runnable,
)
from wscore.autoencoder.training.contrastive_loss import nt_xent
from wscore.autoencoder.training.kl_loss import kl_standard_normal
from wscore.autoencoder.training.reconstruction_loss import reconstruction_loss
from wscore.config import Section, to_plain
from wscore.errors import TrainingError
from wscore.networks.datasets import Tasks
from wscore.networks.images import Images
from wscore.tokens.augment import augment
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache
from wscore.training.batches import derive_seed, permutation
from wscore.training.callbacks import Callback
from wscore.training.engine import Precision
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.state import FitConfig
from wscore.zoo.store import Zoo

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0)]
Losses = dict[str, Tensor]
Objective = Callable[["TrainingModule", NetworkBatch], Losses]
#: Monitored scalar (lower is better) for each value of `ae.select`.
MONITORS = {"agreement": "disagreement", "loss": "loss", "reconstruction": "reconstruction", "behaviour": "behaviour"}
BLOCK = 256  # networks at once outside training
BEHAVIOUR = ("behaviour", "disagreement")  # scalars of the behaviour loss


class LossWeights(Section):
    """Weights of the parts of the loss `combined`."""

    mse: Weight
    mae: Weight
    cosine: Weight


class VaeOptions(Section):
    """Options of the convolutional VAE (`ae.vae`)."""

    input: Literal["image", "linear"]
    channels: Count
    levels: Annotated[int, Meta(ge=1, le=8)]
    kl_weight: Weight
    encoding: Literal["sampled", "deterministic"]
    checkpointing: bool


class AeConfig(Section):
    """Autoencoder of tokenized networks (section `ae:`)."""

    compression: Annotated[float, Meta(gt=1)]
    arch: str
    latent_dim: Count
    hidden_dim: Count
    layers: Annotated[int, Meta(ge=0)]
    heads: Count
    memory: Count
    vae: VaeOptions
    pooling: Pooling
    positions: Positions
    dropout: Share
    loss: Literal["mse", "mae", "cosine", "combined"]
    loss_weights: LossWeights
    behaviour: BehaviourConfig
    select: Literal["agreement", "loss", "reconstruction", "behaviour"]
    interpolate: Annotated[float, Meta(ge=0, le=1)]
    gamma: Annotated[float, Meta(ge=0, le=1)]
    temperature: Annotated[float, Meta(gt=0)]
    projection_dim: Count
    noise: Weight
    token_dropout: Share
    epochs: Count
    batch_size: Annotated[int, Meta(ge=2)]
    lr: Annotated[float, Meta(gt=0)]
    weight_decay: Weight
    accumulate: Count
    patience: Count
    precision: Precision
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"Expected `arch` to be one of {', '.join(ARCHITECTURES)}, got {self.arch!r}")
        if self.arch == "transformer" and self.hidden_dim % self.heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of heads {self.heads}")
        if self.loss == "combined" and not any(to_plain(self.loss_weights).values()):
            raise ValueError("Expected one of `loss_weights` to be positive for loss `combined`")
        if self.select in ("agreement", "behaviour") and not self.behaviour.share:
            raise ValueError(
                f"select `{self.select}` needs `behaviour.share` above 0, since otherwise no network is run"
            )


class TrainedAutoencoder(NamedTuple):
    """A trained autoencoder and its training history.

    Attributes:
        model: in evaluation mode, with the weights of its best epoch.
        history: one row per epoch.
        figures: metrics, as floats.
    """

    model: Autoencoder
    history: History
    figures: dict[str, float]

    def summary(self) -> str:
        """Return a one-line summary."""
        size = self.figures["compression"]
        kind = f"{size:.1f}x smaller" if size > 1 else f"an EXPANSION to {1 / size:.1f}x the weights"
        return (
            f"best epoch {self.history.best_epoch} of {self.figures['epochs']:.0f}, validation R2 "
            f"{self.figures['validation_r2']:.3f}, latents {kind} than their networks"
            + (
                ""
                if self.figures["validation_r2"] > 0
                else "; WORSE than the mean network of each layout: train longer"
            )
        )


class CacheBatches:
    """Batches of cached networks, reshuffled every epoch if `shuffle` is set.

    Args:
        cache: of tokens.
        items: indices of the items in use.
        batch_size: items per batch.
        seed: determines the order, together with the epoch number.
        shuffle: whether to reshuffle every epoch.
    """

    def __init__(self, cache: TokenCache, items: np.ndarray, *, batch_size: int, seed: int, shuffle: bool) -> None:
        self.cache, self.items, self.batch_size, self.seed, self.shuffle = cache, items, batch_size, seed, shuffle

    def __len__(self) -> int:
        count = len(self.items)
        return max(1, min(-(-count // self.batch_size), count // 2))  # at least two each, for the contrastive loss

    def epoch(self, number: int) -> Iterator[NetworkBatch]:
        """Yield the batches of one epoch, of nearly equal size; every window is a separate item."""
        items = self.items
        if self.shuffle:
            items = items[permutation(len(items), self.seed, number).numpy()]
        for part in np.array_split(items, len(self)):
            yield alone(self.cache.batch(part), part)


class TrainingModule(nn.Module):
    """The autoencoder and the projection head, which is used only by the contrastive loss."""

    def __init__(self, config: AeConfig, sizes: AutoencoderConfig) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(sizes)
        head = ProjectionConfig(latent_dim=sizes.network.latent_dim, projection_dim=config.projection_dim)
        self.projection = ProjectionHead(head) if config.gamma > 0 else None

    def forward(self, batch: TokenBatch) -> Reconstruction:
        """Return latents, tokens reconstructed from them, and, for a VAE, posteriors."""
        return self.autoencoder(batch)


class TrainingData(NamedTuple):
    """Training data and loss of an autoencoder.

    Attributes:
        train: batches of the training split.
        validation: batches of the validation split.
        loss: loss of a batch.
    """

    train: CacheBatches | SameShapeBatches
    validation: CacheBatches | SameShapeBatches
    loss: Objective


def train_autoencoder(
    cache: TokenCache,
    config: AeConfig,
    *,
    zoo: Zoo | None = None,
    images: Images | Tasks | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Path | None = None,
) -> TrainedAutoencoder:
    """Return an autoencoder trained on the training split, from the best epoch on the validation split (`ae.select`).

    Args:
        cache: tokens of the networks.
        config: of the training.
        zoo: source of the cache; needed by the behaviour loss.
        images: of one or several data sets; needed by the behaviour loss, which uses training images only.
        callbacks: of the loop.
        resume: folder for the state of an interrupted training.

    Raises:
        TrainingError: if a loss is not finite, or the behaviour loss is on and some networks cannot be run.
        ConfigError: if the device is not available.
    """
    trainee, material = start(cache, config), prepare(cache, config, zoo, images)
    history = fit(
        trainee, train=material.train, validation=material.validation, loss=material.loss, config=FitConfig.of(config),
        monitor=MONITORS[config.select], callbacks=callbacks, resume=resume,
    )  # fmt: skip
    model = trainee.autoencoder
    return TrainedAutoencoder(model, history, autoencoder_metrics(model, cache, history))


def prepare(cache: TokenCache, config: AeConfig, zoo: Zoo | None, images: Images | Tasks | None) -> TrainingData:
    """Return batches and loss: batches of arbitrary windows, or of networks run together for the behaviour loss."""
    size = {"batch_size": config.batch_size, "seed": config.seed}
    if not config.behaviour.share:
        train = CacheBatches(cache, cache.indices("train"), shuffle=True, **size)
        validation = CacheBatches(cache, cache.indices("validation"), shuffle=False, **size)
        return TrainingData(train, validation, autoencoder_objective(config))
    if zoo is None or images is None:
        raise TrainingError(
            "the behaviour loss needs the zoo and the images of its task", where="ae.behaviour", fix=REMEDY
        )
    groups, others = (runnable(cache, zoo, split, images) for split in ("train", "validation"))
    quiet = config.behaviour.warmup * config.epochs
    train = SameShapeBatches(cache, groups, first=0, shuffle=True, quiet=quiet, **size)
    validation = SameShapeBatches(cache, others, first=len(groups), shuffle=False, **size)
    behaviour = Behaviour([*groups, *others], images, config.behaviour, config.seed)
    return TrainingData(train, validation, autoencoder_objective(config, behaviour))


def start(cache: TokenCache, config: AeConfig) -> TrainingModule:
    """Return the initial model, its weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "autoencoder"))
        return TrainingModule(config, sizes(cache, config))


def autoencoder_objective(config: AeConfig, behaviour: Behaviour | None = None) -> Objective:
    """Return the loss (1 - gamma) fit + gamma NT-Xent with fit = (1 - s) reconstruction + s behaviour.

    The weight s of the behaviour loss is the configured share, and 0 before it counts; networks are not run then, and its
    scalars are NaN. The reconstruction target is the clean (or interpolated) network. A batch with a single network has no
    negatives: its contrastive loss is 0.
    """
    rebuilt, unknown = reconstruction_loss(config.loss, to_plain(config.loss_weights)), torch.tensor(torch.nan)

    def loss(model: TrainingModule, batch: NetworkBatch) -> Losses:
        if model.training:
            batch = interpolated(batch, config.interpolate)
        windows = batch.windows
        outputs = model(windows)
        reconstruction = rebuilt(outputs[1], windows.tokens, windows.mask)
        terms = {"reconstruction": reconstruction}
        fit = reconstruction
        if behaviour is not None:
            share = config.behaviour.share * float(batch.behaving[0])
            terms |= (
                behaviour(batch, outputs[1], training=model.training) if share else dict.fromkeys(BEHAVIOUR, unknown)
            )
            fit = (1 - share) * reconstruction + share * terms["behaviour"] if share else reconstruction
        if outputs[2] is not None:
            terms["kl"] = nats_per_weight(outputs[2], windows)
        if model.projection is not None:
            terms["contrastive"] = contrastive(model, windows, config) if windows.networks > 1 else fit.new_zeros(())
            fit = (1 - config.gamma) * fit + config.gamma * terms["contrastive"]
        regular = config.vae.kl_weight * terms["kl"] if "kl" in terms else 0.0
        return {"loss": fit + regular, **terms}

    return loss


def interpolated(batch: NetworkBatch, share: float) -> NetworkBatch:
    """Replace a fraction of the networks of a batch by points between them and others; single windows are unchanged."""
    if not share or batch.networks < 2 or int(batch.subject[0]) < 0:
        return batch
    others = batch.tokens[torch.randperm(batch.networks)]
    place = torch.rand(batch.networks) * (torch.rand(batch.networks) < share)
    return batch._replace(tokens=torch.lerp(batch.tokens, others, place.to(others)[:, None, None, None]))


def nats_per_weight(posterior: Posterior, batch: TokenBatch) -> Tensor:
    """Return the mean over networks of KL(posterior || N(0, 1)) divided by their number of weights."""
    weights = batch.mask.flatten(1).sum(1).clamp(min=1)  # (B,)
    return (kl_standard_normal(posterior.mean, posterior.log_variance) / weights).mean()


def contrastive(model: TrainingModule, windows: TokenBatch, config: AeConfig) -> Tensor:
    """Return NT-Xent between the projected latents of two augmented views of every window."""
    if model.projection is None:
        raise TrainingError("there is no projection head", where="ae.gamma", expected="more than 0")
    options = {"noise": config.noise, "dropout": config.token_dropout, "generator": torch.default_generator}
    views = (augment(windows, **options) for _ in range(2))
    first, second = (model.projection(model.autoencoder.encoder(one)) for one in views)
    return nt_xent(first, second, config.temperature)


def sizes(cache: TokenCache, config: AeConfig) -> AutoencoderConfig:
    """Return the configuration of both sides for a cache."""
    kind = ARCHITECTURES[config.arch].config
    options = {name: getattr(config, name) for name in config.__struct_fields__}
    options |= {name: getattr(config.vae, name) for name in config.vae.__struct_fields__}
    options |= {"model_dim": config.hidden_dim, "weights": int(cache.item_weights.max())}
    options |= {"token_dim": cache.token_dim, "max_tokens": cache.max_tokens}
    return AutoencoderConfig(network=kind(**{name: options[name] for name in kind.__struct_fields__}))


def autoencoder_metrics(model: Autoencoder, cache: TokenCache, history: History) -> dict[str, float]:
    """Return model size, training length, validation loss, and R2 of normalised weights on the validation split.

    R2 = 1 - sum (x - x^)^2 / sum (x - m)^2 over valid entries, where m is the mean training network of the same layout.
    """
    networks = len(set(cache.table["row"]))
    stored = len(cache) * model.encoder.latent_dim + networks  # one for the layout of each network
    compression = float(cache.item_weights.sum()) / stored
    disagreement = history.best.get("validation_disagreement")
    return {
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        "epochs": float(history.rows[-1]["epoch"]),
        "best_epoch": float(history.best_epoch),
        "validation_loss": history.best["validation_loss"],
        **({} if disagreement is None else {"validation_agreement": 1 - disagreement}),
        "validation_r2": validation_r2(model, cache),
        "compression": compression,
        "expansion": float(compression < 1),
    }


def validation_r2(model: Autoencoder, cache: TokenCache) -> float:
    """Return R2 of normalised weights on the validation split, see `autoencoder_metrics`."""
    means: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for batch, keys in _stream(cache, "train"):
        for tokens, key in zip(batch.tokens.double(), keys, strict=True):
            means[key] = means.get(key, torch.zeros(())) + tokens
            counts[key] = counts.get(key, 0) + 1
    error = spread = 0.0
    with torch.no_grad():
        for batch, keys in _stream(cache, "validation"):
            centre = torch.stack(
                [means[key] / counts[key] if key in means else torch.zeros_like(batch.tokens[0]) for key in keys]
            )
            tokens = model(batch).tokens
            error += float(((tokens - batch.tokens)[batch.mask]).square().double().sum())
            spread += float(((batch.tokens - centre)[batch.mask]).square().sum())
    return 1 - error / max(spread, 1e-12)


def _stream(cache: TokenCache, split: str) -> Iterator[tuple[TokenBatch, list[int]]]:
    items = cache.indices(split)
    for start in range(0, len(items), BLOCK):
        batch = cache.batch(items[start : start + BLOCK])
        yield batch, batch.layouts.tolist()
