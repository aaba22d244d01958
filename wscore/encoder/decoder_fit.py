"""Trains the decoder: networks that it makes of latents are to output what the encoded networks output on training images.

1. Exemplars of every layout are chosen among the training networks.
2. From a latent, the exemplar with the closest outputs is learned.
3. Exemplars and their corrections by the latent learn the outputs of each network.

Weights are not compared: a latent does not know the order of hidden units, and many weights compute the same function.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.encoder.decoder import SOFTNESS, DecoderShape, Request, WeightDecoder
from wscore.encoder.decoder_config import DecoderConfig
from wscore.encoder.exemplars import LARGEST, Exemplars, Population, choose_exemplars, log_probabilities
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.errors import WscoreWarning
from wscore.networks.datasets import Tasks, kinds_of
from wscore.networks.inference import Answer, logits
from wscore.networks.layout import Layout
from wscore.training.batches import derive_seed
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.state import FitConfig
from wscore.zoo.store import Zoo

EPOCHS = 5  # of each of the two trainings
MOST, AT_ONCE = 8192, 64  # networks that are trained on, and decoded at once
LARGEST_NETWORK = 1 << 17  # weights of a network that is decoded in training
CHOICE_IMAGES = 64  # on which exemplars are compared with networks
CHOICE_NETWORKS = 256  # in a step of the training that chooses exemplars
HARDEST = 5.0  # nats; larger divergences of decoded networks count as this
SETTINGS = {"schedule": "cosine", "warmup": 0.1, "clip_norm": 1.0, "weight_decay": 0.01, "precision": "no"}


class NetworkSet(NamedTuple):
    """Networks that differ in their weights alone.

    Attributes:
        answer: how they are run.
        layout: of their weights.
        weights: of each network.
        latents: of each network.
        images: training images on which they are run.
        targets: log-probabilities of each network on these images.
        task: name of the images.
    """

    answer: Answer
    layout: Layout
    weights: Float[Tensor, "network weight"]
    latents: Float[Tensor, "network latent"]
    images: Float[Tensor, "image channel height width"]
    targets: Float[Tensor, "network image class"]
    task: str


class _Steps:
    """Random batches (number of a set, number of a network), networks of one set at a time; sets are drawn by their size."""

    def __init__(self, sizes: Sequence[int], steps: int, batch_size: int, seed: int) -> None:
        self.sizes = np.array(sizes)
        self.steps, self.batch_size, self.seed = max(1, steps // EPOCHS), batch_size, seed

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int) -> Iterator[tuple[Int[Tensor, " network"], Int[Tensor, " network"]]]:
        random = np.random.default_rng(derive_seed(self.seed, "sets", number))
        for place in random.choice(len(self.sizes), self.steps, p=self.sizes / self.sizes.sum()):
            rows = random.permutation(self.sizes[place])[: self.batch_size]
            yield torch.full((len(rows),), int(place)), torch.from_numpy(rows)


def network_sets(
    zoo: Zoo,
    rows: Int[np.ndarray, " row"],
    encoder: WeightEncoder,
    tasks: Tasks,
    *,
    read: Callable[[np.ndarray], np.ndarray],
    images: int,
    most: int,
) -> list[NetworkSet]:
    """Return the networks of at most `LARGEST_NETWORK` weights that can be run on the training images of their data set.

    Args:
        zoo: of the networks.
        rows: of the networks.
        encoder: of their latents.
        tasks: images of every data set.
        read: weights of rows of one layout, with hidden units in any order.
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
            weights = read(rows[places])
            latents = encoder.encode_many(layout, weights).latents
            weights = torch.from_numpy(weights.copy())
            targets = log_probabilities(logits(way.answer, weights, shown))
            sets.append(NetworkSet(way.answer, layout, weights, latents, shown, targets, task.name))
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
    layouts = list({networks.layout.identity: networks.layout for networks in sets}.values())
    chosen = [
        _exemplars([networks for networks in sets if networks.layout == layout], config.exemplars) for layout in layouts
    ]
    model = _initial(layouts, chosen, sets[0].latents.shape[1], config)
    settings = FitConfig(epochs=EPOCHS, lr=config.lr, accumulate=1, patience=EPOCHS, seed=config.seed, **SETTINGS)
    steps = _Steps([len(exemplars.networks) for exemplars in chosen], config.choice_steps, CHOICE_NETWORKS, config.seed)
    fit(model, train=steps, validation=None, loss=_ChoiceLoss(chosen, config.noise), config=settings)
    steps = _Steps([len(networks.latents) for networks in sets], config.steps, config.batch_size, config.seed)
    loss = _Loss(sets, [model.request(networks.layout) for networks in sets], config)
    return model, fit(model, train=steps, validation=None, loss=loss, config=settings, **extras)


def _initial(
    layouts: Sequence[Layout], chosen: Sequence[Exemplars], latent_dim: int, config: DecoderConfig
) -> WeightDecoder:
    names = {name: getattr(config, name) for name in ("memory", "hidden_dim", "rank", "layers", "heads", "exemplars")}
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(config.seed, "decoder"))
        model = WeightDecoder(DecoderShape(latent_dim=latent_dim, layouts=tuple(layouts), **names))
    model.start(chosen)
    return model


def _exemplars(sets: Sequence[NetworkSet], count: int) -> Exemplars:
    """Return the exemplars of sets of one layout."""
    populations = [
        Population(
            networks.answer,
            networks.weights,
            networks.latents,
            networks.images[:CHOICE_IMAGES],
            networks.targets[:, :CHOICE_IMAGES],
        )
        for networks in sets
    ]
    return choose_exemplars(populations, count)


@torch.no_grad()
def agreement(model: WeightDecoder, sets: Sequence[NetworkSet]) -> float:
    """Return the share of images for which decoded networks predict the class that the encoded ones do; 0 without sets."""
    hits = []
    for networks in sets:
        request = model.request(networks.layout)
        for latents, targets in zip(networks.latents.split(AT_ONCE), networks.targets.split(AT_ONCE), strict=True):
            hit = _outputs(model, networks, request, latents).argmax(-1).cpu() == targets.argmax(-1)
            hits.append(hit.float().mean(1))
    return float(torch.cat(hits).mean()) if hits else 0.0


def _no_history() -> History:
    history = History("train_loss")
    history.rows.append({"epoch": 0, "step": 0, "lr": 0.0, "train_loss": float("nan")})
    return history


class _ChoiceLoss:
    """Cross-entropy of the choice of an exemplar: the softmin of the divergences of their outputs.

    Args:
        layouts: exemplars that batches refer to.
        noise: standard deviation of the noise on latents.
    """

    def __init__(self, layouts: Sequence[Exemplars], noise: float) -> None:
        self.layouts, self.noise = layouts, noise

    def __call__(self, model: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, WeightDecoder)
        known, rows = int(batch[0][0]), batch[1].cpu()
        z = self.layouts[known].networks[rows]
        scores = model.scores((z + self.noise * torch.randn_like(z)).to(model.levels), known)
        wanted = (-self.layouts[known].divergences[rows] / SOFTNESS).softmax(-1).to(scores)
        return {"loss": nn.functional.cross_entropy(scores, wanted)}


class _Loss:
    """KL divergence of outputs on random images, in nats.

    Args:
        sets: networks that batches refer to.
        requests: for the layouts of the sets.
        config: of images in a step and noise on latents.
    """

    def __init__(self, sets: Sequence[NetworkSet], requests: Sequence[Request], config: DecoderConfig) -> None:
        self.sets, self.requests, self.config = sets, requests, config

    def __call__(self, model: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, WeightDecoder)
        place, rows = int(batch[0][0]), batch[1].cpu()
        networks = self.sets[place]
        chosen = torch.randint(len(networks.images), (self.config.step_images,))
        z = networks.latents[rows]
        z = z + self.config.noise * torch.randn_like(z)
        shown = networks._replace(images=networks.images[chosen])
        decoded = _outputs(model, shown, self.requests[place], z).log_softmax(-1)
        wanted = networks.targets[rows][:, chosen].to(decoded)
        divergences = (wanted.exp() * (wanted - decoded)).sum(-1).mean(1)
        return {"loss": divergences.clamp_max(HARDEST).mean()}


def _outputs(
    model: WeightDecoder, networks: NetworkSet, request: Request, latents: Tensor
) -> Float[Tensor, "network image class"]:
    """Return the logits of decoded networks on all images of a set."""
    device = next(model.parameters()).device
    weights = model(latents.to(device), request.to(device))
    outputs = networks.answer(weights, networks.images[None].to(device))
    return outputs.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
