"""Recipe of the autoencoder: a token cache in, encoder and decoder out."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from wscore.config import Section, convert, to_plain
from wscore.errors import TrainingError
from wscore.losses.contrastive import nt_xent
from wscore.losses.divergence import kl_standard_normal
from wscore.losses.reconstruction import reconstruction_loss
from wscore.models.autoencoder import Autoencoder, AutoencoderConfig, Reconstruction
from wscore.models.linear import signatures
from wscore.models.mlp import MlpConfig, Pooling
from wscore.models.positions import Positions
from wscore.models.projection import ProjectionConfig, ProjectionHead
from wscore.models.transformer import TransformerConfig
from wscore.models.vae import Posterior, VaeConfig
from wscore.tokens.augment import two_views
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache
from wscore.training.batches import derive_seed, permutation
from wscore.training.callbacks import Callback
from wscore.training.engine import Device, Precision
from wscore.training.history import History
from wscore.training.linear_path import LinearFit, LinearPathConfig, fit_linear_path
from wscore.training.loop import fit
from wscore.training.schedule import Schedule
from wscore.training.state import FitConfig

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0)]
Losses = dict[str, Tensor]
Objective = Callable[["Trainee", TokenBatch], Losses]
BLOCK = 256  # networks at once where nothing is trained


class LossWeights(Section):
    """Weights of the parts of the loss `combined`."""

    mse: Weight
    mae: Weight
    cosine: Weight


class VaeOptions(Section):
    """What the convolutional VAE needs besides (`ae.vae`).

    Args:
        input: `image`: the weight vector is an image; `linear`: learned linear maps into and out of the convolutions.
        channels: of the first convolution; each level doubles them.
        levels: times the image is halved.
        kl_weight: the loss is the reconstruction + kl_weight KL / weights of the network, in nats.
        encoding: latents that the decoder is trained on: `sampled` from the posterior or its mean (`deterministic`).
        checkpointing: compute activations again instead of keeping them.
    """

    input: Literal["image", "linear"]
    channels: Count
    levels: Annotated[int, Meta(ge=1, le=8)]
    kl_weight: Weight
    encoding: Literal["sampled", "deterministic"]
    checkpointing: bool


class AeConfig(Section):
    """Autoencoder of tokenized networks (section `ae:`).

    Args:
        arch: `mlp`, `transformer` or `vae`.
        latent_dim: numbers Z per network (or window of one).
        hidden_dim: width of the layers inside; a multiple of `heads` for the transformer.
        layers: blocks on each side.
        heads: attention heads (transformer).
        memory: slots made from the latent that the decoder attends to (transformer).
        vae: what the VAE needs besides.
        pooling: how tokens become one vector.
        positions: how the place of a token is embedded.
        dropout: share of activations left out in training.
        linear_path: `pca` adds principal components of each layout, so that training starts from PCA; or `none`.
        symmetry: share of their covariance that is averaged over all orders of the hidden units; 0 for a plain PCA.
        balance: their errors in a tensor of n weights count n ** -balance: 0 for a plain PCA, 1 for tensors that all
            count alike.
        loss: of the reconstruction, over valid entries.
        loss_weights: for `combined`.
        gamma: share of the contrastive loss; the total is (1 - gamma) reconstruction + gamma contrastive.
        temperature: of the contrastive loss.
        projection_dim: numbers that the contrastive loss compares.
        noise: of the contrastive views, relative to the standard deviation of each token.
        token_dropout: share of the weights that a contrastive view sets to zero.
        epochs: most passes over the training networks.
        batch_size: networks per step.
        lr: highest learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        schedule: decay of the learning rate after the warm-up.
        warmup: share of the steps in which the rate rises.
        clip_norm: largest norm of the gradient; null = no limit.
        accumulate: batches per optimizer step.
        patience: epochs without improvement of the validation loss.
        device: where to compute.
        precision: of the forward pass.
        seed: of the initial weights, the order of the batches, dropout and views.
    """

    arch: Literal["mlp", "transformer", "vae"]
    latent_dim: Count
    hidden_dim: Count
    layers: Annotated[int, Meta(ge=0)]
    heads: Count
    memory: Count
    vae: VaeOptions
    pooling: Pooling
    positions: Positions
    dropout: Share
    linear_path: Literal["none", "pca"]
    symmetry: Annotated[float, Meta(ge=0, le=1)]
    balance: Annotated[float, Meta(ge=0, le=1)]
    loss: Literal["mse", "mae", "cosine", "combined"]
    loss_weights: LossWeights
    gamma: Annotated[float, Meta(ge=0, le=1)]
    temperature: Annotated[float, Meta(gt=0)]
    projection_dim: Count
    noise: Weight
    token_dropout: Share
    epochs: Count
    batch_size: Annotated[int, Meta(ge=2)]
    lr: Annotated[float, Meta(gt=0)]
    weight_decay: Weight
    schedule: Schedule
    warmup: Share
    clip_norm: Annotated[float, Meta(gt=0)] | None
    accumulate: Count
    patience: Count
    device: Device
    precision: Precision
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        if self.arch == "transformer" and self.hidden_dim % self.heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of heads {self.heads}")
        if self.loss == "combined" and not any(to_plain(self.loss_weights).values()):
            raise ValueError("Expected one of `loss_weights` to be positive for loss `combined`")


def with_latent_dim(config: AeConfig, latent_dim: int | None) -> AeConfig:
    """Return the configuration with latents of another size, or as it is without one."""
    return (
        config if latent_dim is None else convert(to_plain(config) | {"latent_dim": latent_dim}, AeConfig, where="ae")
    )


class Trained(NamedTuple):
    """A trained autoencoder and how it came about.

    Attributes:
        model: in evaluation mode, with the weights of its best epoch.
        history: one row per epoch.
        figures: what is worth knowing about it, as floats.
    """

    model: Autoencoder
    history: History
    figures: dict[str, float]

    def summary(self) -> str:
        """Return one line for the user."""
        size = self.figures["compression"]
        kind = f"{size:.1f}x smaller" if size > 1 else f"an EXPANSION to {1 / size:.1f}x the weights"
        return (
            f"best epoch {self.history.best_epoch} of {self.figures['epochs']:.0f}, validation R2 "
            f"{self.figures['validation_r2']:.3f}, latents {kind} than their networks"
        )


class CacheBatches:
    """Batches of cached networks; each epoch has an order of its own unless `shuffle` is off.

    Args:
        cache: of tokens.
        items: numbers of the items that are used.
        batch_size: items per batch.
        seed: with the epoch number it decides the order.
        shuffle: whether there is one.
    """

    def __init__(self, cache: TokenCache, items: np.ndarray, *, batch_size: int, seed: int, shuffle: bool) -> None:
        self.cache, self.items, self.batch_size, self.seed, self.shuffle = cache, items, batch_size, seed, shuffle

    def __len__(self) -> int:
        count = len(self.items)
        return max(1, min(-(-count // self.batch_size), count // 2))  # two items or more in each, to be contrasted

    def epoch(self, number: int) -> Iterator[TokenBatch]:
        """Yield the batches of one epoch, as equal in size as can be."""
        items = self.items
        if self.shuffle:
            items = items[permutation(len(items), self.seed, number).numpy()]
        for part in np.array_split(items, len(self)):
            yield self.cache.batch(part)


class Trainee(nn.Module):
    """What is trained: the autoencoder and the projection head, which serves the contrastive loss alone."""

    def __init__(self, config: AeConfig, sizes: AutoencoderConfig) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(sizes)
        head = ProjectionConfig(latent_dim=config.latent_dim, projection_dim=config.projection_dim)
        self.projection = ProjectionHead(head) if config.gamma > 0 else None

    def forward(self, batch: TokenBatch) -> Reconstruction:
        """Return latents, reconstructed tokens and, of a VAE, posteriors."""
        return self.autoencoder(batch)


def train_autoencoder(
    cache: TokenCache, config: AeConfig, *, callbacks: Sequence[Callback] = (), resume: Path | None = None
) -> Trained:
    """Return an autoencoder trained on the training split, the epoch with the lowest validation loss.

    With a linear path, epoch 0 is the PCA from which training starts; it takes part in the choice.

    Raises:
        TrainingError: if a loss is not finite.
        ConfigError: if the device is missing.
    """
    trainee, loss = start(cache, config), objective(config)
    size = {"batch_size": config.batch_size, "seed": config.seed}
    train = CacheBatches(cache, cache.indices("train"), shuffle=True, **size)
    validation = CacheBatches(cache, cache.indices("validation"), shuffle=False, **size)
    parts = {"train": train, "validation": validation} if trainee.autoencoder.config.linear is not None else {}
    first = {f"{k}_{name}": v for k, part in parts.items() for name, v in scores(trainee, part, loss).items()}
    initial = copy.deepcopy(trainee.state_dict())
    history = fit(
        trainee, train=train, validation=validation, loss=loss, config=FitConfig.of(config), callbacks=callbacks,
        resume=resume,
    )  # fmt: skip
    if first:
        history.rows.insert(0, {"epoch": 0, "step": 0, "lr": 0.0, **first})
        if history.best_epoch == 0:
            trainee.load_state_dict(initial)
    return Trained(trainee.autoencoder, history, figures(trainee.autoencoder, cache, history))


def start(cache: TokenCache, config: AeConfig) -> Trainee:
    """Return what is trained as it is before: random, or with a linear path the PCA of the training networks."""
    how = LinearPathConfig(config.latent_dim, config.symmetry, config.balance, config.seed)
    linear = fit_linear_path(cache, how) if config.linear_path == "pca" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "autoencoder"))
        trainee = Trainee(config, sizes(cache, config, linear))
    if linear is not None:
        linear.fill(trainee.autoencoder)
    return trainee


@torch.no_grad()
def scores(model: Trainee, batches: CacheBatches, loss: Objective) -> dict[str, float]:
    """Return the mean of each scalar of a loss over the items of one pass, in evaluation mode."""
    model.eval()
    sums: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(batches.seed, "scores"))
        for batch in batches.epoch(1):
            for name, value in loss(model, batch).items():
                sums[name] = sums.get(name, 0.0) + float(value) * batch.networks
    return {name: value / len(batches.items) for name, value in sums.items()}


def objective(config: AeConfig) -> Objective:
    """Return the loss (1 - gamma) reconstruction + gamma NT-Xent; what is reconstructed is the clean input.

    A batch of a single network has no other to be told from: its contrastive loss is 0.
    """
    rebuilt = reconstruction_loss(
        config.loss, {name: getattr(config.loss_weights, name) for name in ("mse", "mae", "cosine")}
    )

    def loss(model: Trainee, batch: TokenBatch) -> Losses:
        found = model(batch)
        reconstruction = rebuilt(found[1], batch.tokens, batch.mask)
        divergence = {} if found[2] is None else {"kl": nats_per_weight(found[2], batch)}
        regular = config.vae.kl_weight * divergence["kl"] if divergence else 0.0
        if model.projection is None:
            return {"loss": reconstruction + regular, "reconstruction": reconstruction, **divergence}
        contrast = contrastive(model, batch, config) if batch.networks > 1 else reconstruction.new_zeros(())
        total = (1 - config.gamma) * reconstruction + config.gamma * contrast + regular
        return {"loss": total, "reconstruction": reconstruction, "contrastive": contrast, **divergence}

    return loss


def nats_per_weight(posterior: Posterior, batch: TokenBatch) -> Tensor:
    """Return the mean over networks of KL(posterior || N(0, 1)) divided by their count of weights."""
    weights = batch.mask.flatten(1).sum(1).clamp(min=1)  # (B,)
    return (kl_standard_normal(posterior.mean, posterior.log_variance) / weights).mean()


def contrastive(model: Trainee, batch: TokenBatch, config: AeConfig) -> Tensor:
    """Return NT-Xent between the projected latents of two augmented views of every network."""
    if model.projection is None:
        raise TrainingError("there is no projection head", where="ae.gamma", expected="more than 0")
    views = two_views(batch, noise=config.noise, dropout=config.token_dropout, generator=torch.default_generator)
    first, second = (model.projection(model.autoencoder.encoder(view)) for view in views)
    return nt_xent(first, second, config.temperature)


def sizes(cache: TokenCache, config: AeConfig, linear: LinearFit | None = None) -> AutoencoderConfig:
    """Return the sizes of both sides for a cache, with a linear path or without."""
    if config.arch == "vae":
        return AutoencoderConfig(network=_vae(cache, config), linear=None if linear is None else linear.config)
    common = {
        "token_dim": cache.token_dim,
        "max_tokens": cache.max_tokens,
        "latent_dim": config.latent_dim,
        "layers": config.layers,
        "pooling": config.pooling,
        "positions": config.positions,
        "dropout": config.dropout,
    }
    network = (
        MlpConfig(hidden_dim=config.hidden_dim, **common)
        if config.arch == "mlp"
        else TransformerConfig(model_dim=config.hidden_dim, heads=config.heads, memory=config.memory, **common)
    )
    return AutoencoderConfig(network=network, linear=None if linear is None else linear.config)


def _vae(cache: TokenCache, config: AeConfig) -> VaeConfig:
    options = config.vae
    return VaeConfig(
        weights=int(cache.item_weights.max()), max_tokens=cache.max_tokens, latent_dim=config.latent_dim,
        input=options.input, channels=options.channels, levels=options.levels, encoding=options.encoding,
        positions=config.positions, dropout=config.dropout, checkpointing=options.checkpointing,
    )  # fmt: skip


def figures(model: Autoencoder, cache: TokenCache, history: History) -> dict[str, float]:
    """Return size, length of training, validation loss, and R2 of normalised weights on the validation split.

    R2 = 1 - sum (x - x^)^2 / sum (x - m)^2 over valid entries, where m is the mean training network of the same layout.
    """
    first = cache.table["layout"][cache.table["window"] == 0]
    compression = sum(cache.layouts[str(name)].size for name in first) / (len(cache) * model.encoder.latent_dim)
    return {
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        "epochs": float(history.rows[-1]["epoch"]),
        "best_epoch": float(history.best_epoch),
        "validation_loss": history.best["validation_loss"],
        "validation_r2": validation_r2(model, cache),
        "compression": compression,
        "expansion": float(compression < 1),
    }


def validation_r2(model: Autoencoder, cache: TokenCache) -> float:
    """Return R2 of normalised weights on the validation split, see `figures`."""
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
            error += float(((model(batch).tokens - batch.tokens)[batch.mask]).square().double().sum())
            spread += float(((batch.tokens - centre)[batch.mask]).square().sum())
    return 1 - error / max(spread, 1e-12)


def _stream(cache: TokenCache, split: str) -> Iterator[tuple[TokenBatch, list[int]]]:
    items = cache.indices(split)
    for start in range(0, len(items), BLOCK):
        batch = cache.batch(items[start : start + BLOCK])
        yield batch, signatures(batch).tolist()
