"""Trains the autoencoder: a token cache in, encoder and decoder out."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from wscore.autoencoder.coding.entropy import Code, EntropyCode
from wscore.autoencoder.coding.uniform import FLOAT, Bits, LatentCode
from wscore.autoencoder.models.autoencoder import Autoencoder, AutoencoderConfig, Reconstruction
from wscore.autoencoder.models.embeddings import Positions
from wscore.autoencoder.models.mlp import MlpConfig, Pooling
from wscore.autoencoder.models.projection import ProjectionConfig, ProjectionHead
from wscore.autoencoder.models.transformer import TransformerConfig
from wscore.autoencoder.models.vae import Posterior, VaeConfig
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
from wscore.autoencoder.training.fit_linear_path import LinearFit, LinearPathConfig, fit_linear_path, fitted_to
from wscore.autoencoder.training.kl_loss import kl_standard_normal
from wscore.autoencoder.training.reconstruction_loss import reconstruction_loss
from wscore.autoencoder.training.sensitivity import output_sensitivities
from wscore.config import Section, convert, to_plain
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
from wscore.training.schedule import Schedule
from wscore.training.state import FitConfig
from wscore.zoo.store import Zoo

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0)]
Losses = dict[str, Tensor]
Objective = Callable[["TrainingModule", NetworkBatch], Losses]
#: Monitored scalar (lower is better) for each value of `ae.select`.
MONITORS = {"agreement": "disagreement", "loss": "loss", "reconstruction": "reconstruction", "behaviour": "behaviour"}
BITS = (4, 6, 8, 12, 16, 32)  # of allocation `uniform`
BLOCK = 256  # networks at once outside training


class LossWeights(Section):
    """Weights of the parts of the loss `combined`."""

    mse: Weight
    mae: Weight
    cosine: Weight


class VaeOptions(Section):
    """Options of the convolutional VAE (`ae.vae`).

    Args:
        input: `image`: the weight vector is an image; `linear`: learned linear maps into and out of the convolutions.
        channels: of the first convolution; each level doubles them.
        levels: number of downsampling steps.
        kl_weight: the loss is the reconstruction + kl_weight KL / weights of the network, in nats.
        encoding: decoder inputs in training: `sampled` from the posterior or its mean (`deterministic`).
        checkpointing: activation checkpointing.
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
        latent_dim: latent dimension Z.
        latent_bits: average bits per latent dimension. `uniform`: 4, 6, 8, 12, 16, or 32 for floats; `waterfilling`: the mean
            over the dimensions of a layout.
        allocation: `uniform`: equal bits for every dimension; `waterfilling`: bits according to the variance.
        hidden_dim: hidden width; a multiple of `heads` for the transformer.
        layers: blocks on each side.
        heads: attention heads (transformer).
        memory: memory slots computed from the latent, attended to by the decoder (transformer).
        vae: options of the VAE.
        pooling: aggregation of tokens into one vector.
        positions: kind of position embedding.
        dropout: dropout rate.
        linear_path: `pca` adds principal components of each layout, so that training starts from PCA; or `none`.
        linear_lr: learning rate of the linear path relative to lr; 0 freezes it.
        symmetry: weight of the covariance averaged over all orders of the hidden units; 0 for a plain PCA.
        balance: PCA errors in a tensor of n weights are weighted by n ** -balance: 0 for a plain PCA, 1 for equal weight per
            tensor. Used for layouts without sensitivity.
        sensitivity: training images per network used to estimate output sensitivity (Gauss-Newton); the basis is weighted by
            it. Off at 0, and with `behaviour.share: 0`, since it runs networks.
        loss: reconstruction loss, over valid entries.
        loss_weights: for `combined`.
        behaviour: loss on the outputs of decoded networks.
        select: criterion of the best epoch: highest `agreement` of validation networks with their reconstructions, or lowest
            validation `loss`, `reconstruction` or `behaviour`.
        interpolate: fraction of the networks of a training batch that are replaced by a point between them and another
            network of the same shape.
        gamma: weight of the contrastive loss; the total is (1 - gamma) fit + gamma contrastive, where fit is
            (1 - share) reconstruction + share behaviour.
        temperature: of the contrastive loss.
        projection_dim: dimension of the projections compared by the contrastive loss.
        noise: of the contrastive views, relative to the standard deviation of each token.
        token_dropout: fraction of the weights set to zero in a contrastive view.
        epochs: maximum number of passes over the training networks.
        batch_size: networks per step.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        schedule: decay of the learning rate after the warm-up.
        warmup: fraction of the steps with linear warm-up.
        clip_norm: maximum gradient norm; null = no clipping.
        accumulate: batches per optimizer step.
        patience: epochs without improvement of the monitored value before stopping.
        precision: of the forward pass.
        seed: for initial weights, batch order, dropout and views.
    """

    arch: Literal["mlp", "transformer", "vae"]
    latent_dim: Count
    latent_bits: Annotated[float, Meta(ge=0.25, le=FLOAT)]
    allocation: Literal["uniform", "waterfilling"]
    hidden_dim: Count
    layers: Annotated[int, Meta(ge=0)]
    heads: Count
    memory: Count
    vae: VaeOptions
    pooling: Pooling
    positions: Positions
    dropout: Share
    linear_path: Literal["none", "pca"]
    linear_lr: Weight
    symmetry: Annotated[float, Meta(ge=0, le=1)]
    balance: Annotated[float, Meta(ge=0, le=1)]
    sensitivity: Annotated[int, Meta(ge=0)]
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
    schedule: Schedule
    warmup: Share
    clip_norm: Annotated[float, Meta(gt=0)] | None
    accumulate: Count
    patience: Count
    precision: Precision
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        if self.arch == "transformer" and self.hidden_dim % self.heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of heads {self.heads}")
        if self.allocation == "uniform" and self.latent_bits not in BITS:
            raise ValueError(
                f"Expected `latent_bits` of allocation `uniform` to be one of {BITS}, got {self.latent_bits}"
            )
        if self.loss == "combined" and not any(to_plain(self.loss_weights).values()):
            raise ValueError("Expected one of `loss_weights` to be positive for loss `combined`")
        if self.select in ("agreement", "behaviour") and not self.behaviour.share:
            raise ValueError(
                f"select `{self.select}` needs `behaviour.share` above 0, since otherwise no network is run"
            )


def with_latent_bits(config: AeConfig, latent_bits: float | None) -> AeConfig:
    """Return the configuration with another `latent_bits`; unchanged if None."""
    if latent_bits is None:
        return config
    return convert(to_plain(config) | {"latent_bits": latent_bits}, AeConfig, where="ae")


class TrainedAutoencoder(NamedTuple):
    """A trained autoencoder and its training history.

    Attributes:
        model: in evaluation mode, with the weights of its best epoch.
        code: quantisation of its latents.
        history: one row per epoch.
        figures: metrics, as floats.
    """

    model: Autoencoder
    code: Code
    history: History
    figures: dict[str, float]

    def summary(self) -> str:
        """Return a one-line summary."""
        size = self.figures["compression"]
        kind = f"{size:.1f}x smaller" if size > 1 else f"an EXPANSION to {1 / size:.1f}x the weights"
        return (
            f"best epoch {self.history.best_epoch} of {self.figures['epochs']:.0f}, validation R2 "
            f"{self.figures['validation_r2']:.3f}, latents {kind} than their networks"
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
        self.code: Code | None = None
        self.widening: dict[int, Tensor] = {}

    def forward(self, batch: TokenBatch) -> Reconstruction:
        """Return latents, tokens reconstructed from the quantised latents, and, for a VAE, posteriors.

        The rounding uses a straight-through gradient.
        """
        return self.autoencoder(batch, self.code)


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

    With a linear path, epoch 0 is the PCA initialisation; it is a candidate too.

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
    trainee = start(cache, config, zoo, images)
    material = prepare(cache, config, zoo, images)
    monitor = MONITORS[config.select]
    parts = {"train": material.train, "validation": material.validation}
    parts = parts if trainee.autoencoder.config.linear is not None else {}
    first = {
        f"{k}_{name}": v for k, part in parts.items() for name, v in mean_losses(trainee, part, material.loss).items()
    }
    initial = copy.deepcopy(trainee.state_dict())
    history = fit(
        trainee, train=material.train, validation=material.validation, loss=material.loss, config=FitConfig.of(config),
        monitor=monitor, callbacks=callbacks, resume=resume, groups=lambda model: autoencoder_parameter_groups(model, config),
    )  # fmt: skip
    if first:
        history.rows.insert(0, {"epoch": 0, "step": 0, "lr": 0.0, **first})
        if history.best_epoch == 0:
            trainee.load_state_dict(initial)
    code = latent_code(trainee.autoencoder, cache, config, trainee.widening)
    return TrainedAutoencoder(
        trainee.autoencoder, code, history, autoencoder_metrics(trainee.autoencoder, cache, history, code)
    )


def latent_code(
    model: Autoencoder, cache: TokenCache, config: AeConfig, widening: Mapping[int, Tensor] | None = None
) -> Code:
    """Return the code of the latents, fitted to those of the training networks.

    Args:
        model: computes the latents.
        cache: of the networks.
        config: number and allocation of bits.
        widening: of the latents of a layout, by signature, see `LinearFit.widening`; used for bit allocation.
    """
    latents, kinds = _encoded(model, cache)
    if config.allocation == "uniform":
        return LatentCode.fit(latents, cast("Bits", int(config.latent_bits)))
    for kind, factors in (widening or {}).items():
        rows = (kinds == kind).nonzero()[:, 0]
        centre = latents[rows].mean(0)
        wider = nn.functional.pad(factors, (0, latents.shape[1] - len(factors)), value=1.0)
        latents[rows] = centre + (latents[rows] - centre) * wider
    groups = () if model.config.linear is None else model.config.linear.groups
    ranks = {group.signature: group.rank for group in groups if group.rank}
    return EntropyCode.fit(latents, kinds, ranks, config.latent_bits)


@torch.no_grad()
def _encoded(model: Autoencoder, cache: TokenCache) -> tuple[Tensor, Tensor]:
    """Return latents and layout keys of the training networks, see `fitted_to`."""
    latents, kinds = [], []
    items = np.sort(np.concatenate(fitted_to(cache)))
    for start in range(0, len(items), BLOCK):
        batch = cache.batch(items[start : start + BLOCK])
        latents.append(model.encoder(batch))
        kinds.append(batch.layouts)
    return torch.cat(latents), torch.cat(kinds)


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
    rising = config.behaviour.warmup * config.epochs
    train = SameShapeBatches(cache, groups, first=0, shuffle=True, rising=rising, **size)
    validation = SameShapeBatches(cache, others, first=len(groups), shuffle=False, **size)
    behaviour = Behaviour([*groups, *others], images, config.behaviour, config.seed)
    return TrainingData(train, validation, autoencoder_objective(config, behaviour))


def autoencoder_parameter_groups(model: TrainingModule, config: AeConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: the networks, and, without weight decay, the linear paths if they are trained."""
    linear = [
        path for side in (model.autoencoder.encoder, model.autoencoder.decoder) if (path := side.linear) is not None
    ]
    for path in linear:
        path.means.requires_grad_(config.linear_lr > 0)
        path.bases.requires_grad_(config.linear_lr > 0)
    own = [parameter for path in linear for parameter in path.parameters() if parameter.requires_grad]
    taken = {id(parameter) for path in linear for parameter in path.parameters()}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    groups: list[dict[str, Any]] = [{"params": rest}]
    return [*groups, {"params": own, "lr_factor": config.linear_lr, "weight_decay": 0.0}] if own else groups


def start(
    cache: TokenCache, config: AeConfig, zoo: Zoo | None = None, images: Images | Tasks | None = None
) -> TrainingModule:
    """Return the initial model: random, plus the PCA of the training networks if it has a linear path.

    With zoo and images the PCA is weighted by output sensitivity (`ae.sensitivity`).
    """
    how = LinearPathConfig(config.latent_dim, config.symmetry, config.balance, config.seed)
    known = {}
    if (
        config.linear_path == "pca"
        and config.sensitivity
        and config.behaviour.share
        and zoo is not None
        and images is not None
    ):
        groups = runnable(cache, zoo, "train", images)
        options = {"count": config.sensitivity, "temperature": config.behaviour.temperature, "seed": config.seed}
        known = output_sensitivities(cache, groups, images, **options)
    linear = fit_linear_path(cache, how, known) if config.linear_path == "pca" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "autoencoder"))
        trainee = TrainingModule(config, sizes(cache, config, linear))
    if linear is not None:
        linear.fill(trainee.autoencoder)
        if config.allocation == "waterfilling":
            trainee.widening = linear.widening(*_encoded(trainee.autoencoder, cache))
            trainee.code = latent_code(trainee.autoencoder, cache, config, trainee.widening)
    return trainee


@torch.no_grad()
def mean_losses(model: TrainingModule, batches: CacheBatches | SameShapeBatches, loss: Objective) -> dict[str, float]:
    """Return the mean of each scalar of a loss over the items of one pass, in evaluation mode."""
    model.eval()
    sums: dict[str, float] = {}
    count = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(batches.seed, "scores"))
        for batch in batches.epoch(1):
            count += batch.networks
            for name, value in loss(model, batch).items():
                sums[name] = sums.get(name, 0.0) + float(value) * batch.networks
    return {name: value / count for name, value in sums.items()}


def autoencoder_objective(config: AeConfig, behaviour: Behaviour | None = None) -> Objective:
    """Return the loss (1 - gamma) fit + gamma NT-Xent with fit = (1 - s) reconstruction + s behaviour.

    The weight s of the behaviour loss is the configured share times its warm-up factor. The reconstruction target is the clean
    (or interpolated) network. A batch with a single network has no negatives: its contrastive loss is 0.
    """
    rebuilt = reconstruction_loss(config.loss, to_plain(config.loss_weights))

    def loss(model: TrainingModule, batch: NetworkBatch) -> Losses:
        if model.training:
            batch = interpolated(batch, config.interpolate)
        windows = batch.windows
        found = model(windows)
        reconstruction = rebuilt(found[1], windows.tokens, windows.mask)
        terms = {"reconstruction": reconstruction}
        fit = reconstruction
        if behaviour is not None:
            terms |= behaviour(batch, found[1], training=model.training)
            share = config.behaviour.share * batch.rise[0]
            fit = (1 - share) * reconstruction + share * terms["behaviour"]
        if found[2] is not None:
            terms["kl"] = nats_per_weight(found[2], windows)
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


def sizes(cache: TokenCache, config: AeConfig, linear: LinearFit | None = None) -> AutoencoderConfig:
    """Return the configuration of both sides for a cache, with or without a linear path."""
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


def autoencoder_metrics(model: Autoencoder, cache: TokenCache, history: History, code: Code) -> dict[str, float]:
    """Return model size, training length, validation loss, and R2 of normalised weights on the validation split.

    R2 = 1 - sum (x - x^)^2 / sum (x - m)^2 over valid entries, where m is the mean training network of the same layout.
    """
    sizes = stored_sizes(cache, code)
    names = cache.table["layout"][cache.table["window"] == 0].astype(str)
    compression = sum(cache.layouts[name].size for name in names) / sum(sizes[name] for name in names)
    return {
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        "epochs": float(history.rows[-1]["epoch"]),
        "best_epoch": float(history.best_epoch),
        "validation_loss": history.best["validation_loss"],
        **(
            {"validation_agreement": 1 - disagreement}
            if (disagreement := history.best.get("validation_disagreement")) is not None
            else {}
        ),
        "validation_r2": validation_r2(model, cache, code),
        "compression": compression,
        "expansion": float(compression < 1),
    }


def stored_sizes(cache: TokenCache, code: Code) -> dict[str, float]:
    """Return the size per network of each layout in 32-bit floats: those of its windows, and one for its layout."""
    first = cache.table.reset_index(drop=True).drop_duplicates(["layout", "window"])
    found: dict[str, float] = {}
    for layout, kind in zip(first["layout"].astype(str), cache.keys(first.index.to_numpy()).tolist(), strict=True):
        found[layout] = found.get(layout, 1.0) + code.floats(kind)
    return found


def validation_r2(model: Autoencoder, cache: TokenCache, code: Code) -> float:
    """Return R2 of normalised weights on the validation split with quantised latents, see `autoencoder_metrics`."""
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
            tokens = model.decoder(code.rounded(model.encode(batch)[0], batch.layouts), batch)
            error += float(((tokens - batch.tokens)[batch.mask]).square().double().sum())
            spread += float(((batch.tokens - centre)[batch.mask]).square().sum())
    return 1 - error / max(spread, 1e-12)


def _stream(cache: TokenCache, split: str) -> Iterator[tuple[TokenBatch, list[int]]]:
    items = cache.indices(split)
    for start in range(0, len(items), BLOCK):
        batch = cache.batch(items[start : start + BLOCK])
        yield batch, batch.layouts.tolist()
