"""Trains the decoder: networks that it makes of latents are to output what the encoded networks output on training images.

1. Without latents it learns, for every layout, one network with the (sharpened) mean output of all training networks.
2. From there it learns the outputs of each network from its latent.

Weights are not compared: a latent does not know the order of hidden units, and many weights compute the same function.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.encoder.decoder import DecoderShape, WeightDecoder
from wscore.encoder.decoder_config import DecoderConfig
from wscore.encoder.decoder_queries import LayoutQueries, layout_queries
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.errors import WscoreWarning
from wscore.networks.datasets import Tasks, kinds_of
from wscore.networks.inference import Answer, logits
from wscore.training.batches import derive_seed
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.state import FitConfig
from wscore.zoo.store import Zoo

EPOCHS = 5  # of each of the two parts
SHARPER = 3.0  # power of the mean probabilities
LARGEST = 50.0  # logits of decoded networks are clipped there
MOST, AT_ONCE = 8192, 64  # networks that are trained on, and decoded at once
LARGEST_NETWORK = 1 << 17  # weights of a network that is decoded in training
COMMON_IMAGES = 4  # times as many images in a step on one network as on a batch
SETTINGS = {"schedule": "cosine", "warmup": 0.1, "clip_norm": 1.0, "weight_decay": 0.01, "precision": "no"}


class NetworkSet(NamedTuple):
    """Networks that differ in their weights alone.

    Attributes:
        answer: how they are run.
        queries: of their layout.
        latents: of each network.
        images: training images on which they are run.
        targets: log-probabilities of each network on these images.
        task: name of the images.
    """

    answer: Answer
    queries: LayoutQueries
    latents: Float[Tensor, "network latent"]
    images: Float[Tensor, "image channel height width"]
    targets: Float[Tensor, "network image class"]
    task: str


class _Steps:
    """Random batches (number of a set, number of a network), networks of one set at a time; sets are drawn by their size."""

    def __init__(self, sets: Sequence[NetworkSet], steps: int, batch_size: int, seed: int) -> None:
        self.sizes = np.array([len(networks.latents) for networks in sets])
        self.steps, self.batch_size, self.seed = max(1, steps // EPOCHS), batch_size, seed

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int) -> Iterator[tuple[Int[Tensor, " network"], Int[Tensor, " network"]]]:
        random = np.random.default_rng(derive_seed(self.seed, "sets", number))
        for place in random.choice(len(self.sizes), self.steps, p=self.sizes / self.sizes.sum()):
            rows = random.permutation(self.sizes[place])[: self.batch_size]
            yield torch.full((len(rows),), int(place)), torch.from_numpy(rows)


def network_sets(
    zoo: Zoo, rows: Int[np.ndarray, " row"], encoder: WeightEncoder, tasks: Tasks, *, images: int, most: int
) -> list[NetworkSet]:
    """Return the networks of at most `LARGEST_NETWORK` weights that can be run on the training images of their data set.

    Args:
        zoo: of the networks.
        rows: of the networks.
        encoder: of their latents.
        tasks: images of every data set.
        images: of each data set at most, the first of them.
        most: networks at most, drawn at random.
    """
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    table = zoo.table.iloc[rows]
    members: dict[Any, list[int]] = {}
    for place, key in enumerate(zip(kinds_of(table, tasks), table["layout"].astype(str), strict=True)):
        members.setdefault(key, []).append(place)
    sets = []
    for (kind, identity), places in sorted(members.items()):
        layout = zoo.layouts[identity]
        way, task = tasks.way(kind, layout), tasks.of(kind.task)
        if way.answer is not None and task is not None and layout.size <= LARGEST_NETWORK:
            shown = task.x_train[:images]
            weights = zoo.weights(rows[places])
            latents = encoder.encode_many(layout, weights).latents
            targets = _log_probabilities(logits(way.answer, torch.from_numpy(weights), shown))
            sets.append(NetworkSet(way.answer, layout_queries(layout), latents, shown, targets, task.name))
    return sets


def fit_decoder(
    sets: Sequence[NetworkSet], config: DecoderConfig, **extras: Any
) -> tuple[WeightDecoder | None, History]:
    """Return a decoder trained on sets of training networks, and the history of its second part.

    Without a network that can be run there is no decoder: a warning, None and a history of a loss that is not a number.

    Args:
        sets: of the networks.
        config: of the training.
        extras: `callbacks` and `resume` of the second part.
    """
    if not sets:
        message = (
            "no decoder: no network is of known architecture, takes the images of section data and is small enough"
        )
        warnings.warn(message, WscoreWarning, stacklevel=2)
        return None, _no_history()
    names = {name: getattr(config, name) for name in ("memory", "hidden_dim", "rank", "layers", "heads")}
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(config.seed, "decoder"))
        model = WeightDecoder(DecoderShape(latent_dim=sets[0].latents.shape[1], **names))
    settings = FitConfig(epochs=EPOCHS, lr=config.lr, accumulate=1, patience=EPOCHS, seed=config.seed, **SETTINGS)
    common = _common(sets)
    shown = COMMON_IMAGES * config.step_images
    steps = _Steps(common, config.common_steps, 1, config.seed)
    fit(model, train=steps, validation=None, loss=_Loss(common, shown, 0.0), config=settings)
    steps = _Steps(sets, config.steps, config.batch_size, config.seed)
    loss = _Loss(sets, config.step_images, config.noise)
    return model, fit(model, train=steps, validation=None, loss=loss, config=settings, **extras)


@torch.no_grad()
def agreement(model: WeightDecoder, sets: Sequence[NetworkSet]) -> float:
    """Return the share of images for which decoded networks predict the class that the encoded ones do; 0 without sets."""
    hits = [
        _outputs(model, networks, latents).argmax(-1).cpu() == targets.argmax(-1)
        for networks in sets
        for latents, targets in zip(networks.latents.split(AT_ONCE), networks.targets.split(AT_ONCE), strict=True)
    ]
    return float(torch.cat([hit.float().mean(1) for hit in hits]).mean()) if hits else 0.0


def _no_history() -> History:
    history = History("train_loss")
    history.rows.append({"epoch": 0, "step": 0, "lr": 0.0, "train_loss": float("nan")})
    return history


class _Loss:
    """KL divergence of outputs on random images, in nats.

    Args:
        sets: networks that batches refer to.
        images: in a step.
        noise: standard deviation of the noise on latents.
    """

    def __init__(self, sets: Sequence[NetworkSet], images: int, noise: float) -> None:
        self.sets, self.images, self.noise = sets, images, noise

    def __call__(self, model: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, WeightDecoder)
        networks, rows = self.sets[int(batch[0][0])], batch[1].cpu()
        chosen = torch.randint(len(networks.images), (self.images,))
        z = networks.latents[rows]
        z = z + self.noise * torch.randn_like(z)
        found = _outputs(model, networks._replace(images=networks.images[chosen]), z).log_softmax(-1)
        wanted = networks.targets[rows][:, chosen].to(found)
        return {"loss": (wanted.exp() * (wanted - found)).sum(-1).mean()}


def _outputs(model: WeightDecoder, networks: NetworkSet, latents: Tensor) -> Float[Tensor, "network image class"]:
    """Return the logits of decoded networks on all images of a set."""
    device = next(model.parameters()).device
    queries = networks.queries.to(device)
    outputs = networks.answer(model(latents.to(device), queries), networks.images[None].to(device))
    return outputs.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)


def _common(sets: Sequence[NetworkSet]) -> list[NetworkSet]:
    """Return one network of latent 0 for each set, whose outputs are the mean of all networks with the same images."""
    made = []
    for networks in sets:
        alike = [other.targets.exp() for other in sets if other.task == networks.task]
        mean = torch.cat(alike).mean(0, keepdim=True).clamp_min(1e-9)
        target = (SHARPER * mean.log()).log_softmax(-1)
        made.append(networks._replace(latents=torch.zeros(1, networks.latents.shape[1]), targets=target))
    return made


def _log_probabilities(outputs: Float[Tensor, "network image class"]) -> Float[Tensor, "network image class"]:
    return outputs.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST).log_softmax(-1)
