"""Recipe of the autoencoder: a token cache in, encoder and decoder out."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from wscore.config import Section
from wscore.errors import TrainingError
from wscore.losses.contrastive import nt_xent
from wscore.losses.reconstruction import reconstruction_loss
from wscore.models.autoencoder import Autoencoder, AutoencoderConfig
from wscore.models.linear import LinearConfig, LinearGroup, signatures
from wscore.models.mlp import MlpConfig, Pooling
from wscore.models.positions import Positions
from wscore.models.projection import ProjectionConfig, ProjectionHead
from wscore.models.transformer import TransformerConfig
from wscore.tokens.augment import two_views
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache
from wscore.training.bases import Basis, pca
from wscore.training.batches import derive_seed, permutation
from wscore.training.callbacks import Callback
from wscore.training.engine import Device, Precision
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.schedule import Schedule
from wscore.training.state import FitConfig

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0)]
Losses = dict[str, Tensor]
BLOCK = 256  # networks at once where nothing is trained


class LossWeights(Section):
    """Weights of the parts of the loss `combined`."""

    mse: Weight
    mae: Weight
    cosine: Weight


class AeConfig(Section):
    """Autoencoder of tokenized networks (section `ae:`).

    Args:
        arch: `mlp` or `transformer`.
        latent_dim: numbers Z per network (or window of one).
        hidden_dim: width of the layers inside; a multiple of `heads` for the transformer.
        layers: blocks on each side.
        heads: attention heads (transformer).
        memory: slots made from the latent that the decoder attends to (transformer).
        pooling: how tokens become one vector.
        positions: how the place of a token is embedded.
        dropout: share of activations left out in training.
        linear_path: `pca` adds the principal components of each layout, so that training starts from PCA; or `none`.
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

    arch: Literal["mlp", "transformer"]
    latent_dim: Count
    hidden_dim: Count
    layers: Annotated[int, Meta(ge=0)]
    heads: Count
    memory: Count
    pooling: Pooling
    positions: Positions
    dropout: Share
    linear_path: Literal["none", "pca"]
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
            f"best epoch {self.history.best_epoch} of {len(self.history)}, validation R2 "
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
        return math.ceil(len(self.items) / self.batch_size)

    def epoch(self, number: int) -> Iterator[TokenBatch]:
        """Yield the batches of one epoch."""
        items = self.items
        if self.shuffle:
            items = items[permutation(len(items), self.seed, number).numpy()]
        for start in range(0, len(items), self.batch_size):
            yield self.cache.batch(items[start : start + self.batch_size])


class Trainee(nn.Module):
    """What is trained: the autoencoder and the projection head, which serves the contrastive loss alone."""

    def __init__(self, config: AeConfig, sizes: AutoencoderConfig) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(sizes)
        head = ProjectionConfig(latent_dim=config.latent_dim, projection_dim=config.projection_dim)
        self.projection = ProjectionHead(head) if config.gamma > 0 else None

    def forward(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        """Return latents and reconstructed tokens."""
        return self.autoencoder(batch)


def train_autoencoder(
    cache: TokenCache, config: AeConfig, *, callbacks: Sequence[Callback] = (), resume: Path | None = None
) -> Trained:
    """Return an autoencoder trained on the training split, the epoch with the lowest validation loss.

    Raises:
        TrainingError: if a loss is not finite.
        ConfigError: if the device is missing.
    """
    train, validation = cache.indices("train"), cache.indices("validation")
    bases = fit_bases(cache, train, config) if config.linear_path == "pca" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "autoencoder"))
        trainee = Trainee(config, sizes(cache, config, bases))
    _fill_bases(trainee.autoencoder, list(bases.values()))
    size = {"batch_size": config.batch_size, "seed": config.seed}
    history = fit(
        trainee,
        train=CacheBatches(cache, train, shuffle=True, **size),
        validation=CacheBatches(cache, validation, shuffle=False, **size),
        loss=objective(config),
        config=FitConfig.of(config),
        callbacks=callbacks,
        resume=resume,
    )
    return Trained(trainee.autoencoder, history, figures(trainee.autoencoder, cache, history))


def objective(config: AeConfig) -> Callable[[Trainee, TokenBatch], Losses]:
    """Return the loss (1 - gamma) reconstruction + gamma NT-Xent; what is reconstructed is the clean input.

    A batch of a single network has no other to be told from, so it takes no part in the contrastive loss.
    """
    rebuilt = reconstruction_loss(
        config.loss, {name: getattr(config.loss_weights, name) for name in ("mse", "mae", "cosine")}
    )

    def loss(model: Trainee, batch: TokenBatch) -> Losses:
        reconstruction = rebuilt(model(batch)[1], batch.tokens, batch.mask)
        if model.projection is None or len(batch.tokens) < 2:
            return {"loss": reconstruction, "reconstruction": reconstruction}
        contrast = contrastive(model, batch, config)
        total = (1 - config.gamma) * reconstruction + config.gamma * contrast
        return {"loss": total, "reconstruction": reconstruction, "contrastive": contrast}

    return loss


def contrastive(model: Trainee, batch: TokenBatch, config: AeConfig) -> Tensor:
    """Return NT-Xent between the projected latents of two augmented views of every network."""
    if model.projection is None:
        raise TrainingError("there is no projection head", where="ae.gamma", expected="more than 0")
    views = two_views(batch, noise=config.noise, dropout=config.token_dropout, generator=torch.default_generator)
    first, second = (model.projection(model.autoencoder.encoder(view)) for view in views)
    return nt_xent(first, second, config.temperature)


def sizes(cache: TokenCache, config: AeConfig, bases: dict[int, Basis]) -> AutoencoderConfig:
    """Return the sizes of both sides for a cache; `bases` are those of the linear path by signature."""
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
    groups = tuple(
        LinearGroup(signature=key, weights=len(basis.mean), rank=basis.vectors.shape[1]) for key, basis in bases.items()
    )
    linear = LinearConfig(latent_dim=config.latent_dim, scale=_scale(bases), groups=groups) if bases else None
    return AutoencoderConfig(network=network, linear=linear)


def fit_bases(cache: TokenCache, items: np.ndarray, config: AeConfig) -> dict[int, Basis]:
    """Return the principal components of the networks of each layout (and window), by the signature of their batches."""
    alike: dict[int, list[int]] = {}
    for start in range(0, len(items), BLOCK):
        part = items[start : start + BLOCK]
        for item, signature in zip(part, signatures(cache.batch(part)).tolist(), strict=True):
            alike.setdefault(signature, []).append(int(item))
    return {
        signature: pca(lambda members=members: _networks(cache, members), config.latent_dim, seed=config.seed)
        for signature, members in sorted(alike.items())
        if len(members) > 1
    }


def figures(model: Autoencoder, cache: TokenCache, history: History) -> dict[str, float]:
    """Return size, length of training, validation loss, and R2 of normalised weights on the validation split.

    R2 = 1 - sum (x - x^)^2 / sum (x - m)^2 over valid entries, where m is the mean training network of the same layout.
    """
    whole = cache.table["layout"][cache.table["window"] == 0]
    weights = sum(cache.layouts[name].size for name in whole)
    return {
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        "epochs": float(len(history)),
        "best_epoch": float(history.best_epoch),
        "validation_loss": history.best["validation_loss"],
        "validation_r2": validation_r2(model, cache),
        "compression": weights / (len(cache) * model.encoder.latent_dim),
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


def _networks(cache: TokenCache, items: list[int]) -> Iterator[np.ndarray]:
    """Yield the valid entries (n, D) of networks that are alike, some at once."""
    for start in range(0, len(items), BLOCK):
        batch = cache.batch(items[start : start + BLOCK])
        yield batch.tokens[batch.mask].view(len(batch.tokens), -1).numpy()


def _scale(bases: dict[int, Basis]) -> float:
    """Return the root mean square of a coordinate, over all bases."""
    mean = float(np.mean([basis.variances.mean() for basis in bases.values()]))
    return max(mean, 1e-12) ** 0.5


def _fill_bases(model: Autoencoder, bases: list[Basis]) -> None:
    for side in (model.encoder.linear, model.decoder.linear):
        if side is not None:
            for place, basis in enumerate(bases):
                side.means[place].data.copy_(torch.from_numpy(basis.mean))
                side.bases[place].data.copy_(torch.from_numpy(basis.vectors))
