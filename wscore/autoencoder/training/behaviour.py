"""Behaviour loss: runs decoded networks on probe images, in batches of networks that differ only in their weights."""

from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from msgspec import Meta
from torch import Tensor

from wscore.autoencoder.decode_weights import NetworkGroup, subjects
from wscore.autoencoder.training.behaviour_loss import agreement, behaviour_kl
from wscore.config import Section
from wscore.errors import TrainingError
from wscore.networks.datasets import Tasks, as_tasks
from wscore.networks.images import Images
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache
from wscore.training.batches import derive_seed, permutation
from wscore.zoo.store import Zoo

Share = Annotated[float, Meta(ge=0, le=1)]
REMEDY = "set ae.behaviour.share to 0 and ae.select to loss"
PROBED = 1024  # networks x images run at once


class BehaviourConfig(Section):
    """Loss on the outputs of decoded networks (`ae.behaviour`)."""

    share: Share
    temperature: Annotated[float, Meta(gt=0)]
    images: Annotated[int, Meta(ge=1)]
    noise: Annotated[float, Meta(ge=0)]
    noisy: Share
    mixed: Share
    warmup: Annotated[float, Meta(ge=0, lt=1)]
    validation_images: Annotated[int, Meta(ge=1)]

    def __post_init__(self) -> None:
        if self.noisy + self.mixed > 1:
            raise ValueError("Expected `noisy` + `mixed` to be at most 1")


class NetworkBatch(NamedTuple):
    """Networks that differ only in their weights, with all of their windows.

    Attributes:
        tokens: normalised, zero in padding.
        mask: True where an entry of `tokens` is a weight.
        features: features of each token.
        layouts: keys of layout and window, see `TokenBatch`.
        items: indices of the windows in their cache.
        subject: index of their `NetworkGroup`, the same for all; -1 if unspecified.
        behaving: 1 if the behaviour loss counts at this point of the training, 0 before.
    """

    tokens: Float[Tensor, "networks window token dim"]
    mask: Bool[Tensor, "networks window token dim"]
    features: Float[Tensor, "networks window token feature"]
    layouts: Int64[Tensor, "networks window"]
    items: Int64[Tensor, "networks window"]
    subject: Int64[Tensor, " networks"]
    behaving: Float[Tensor, " networks"]

    @property
    def networks(self) -> int:
        """Number of networks."""
        return self.tokens.shape[0]

    @property
    def windows(self) -> TokenBatch:
        """All windows, network by network."""
        return TokenBatch(*(part.flatten(0, 1) for part in (self.tokens, self.mask, self.features, self.layouts)))


def alone(windows: TokenBatch, items: np.ndarray) -> NetworkBatch:
    """Return windows as networks of one window each, of any layouts."""
    count, numbers = len(items), torch.from_numpy(np.ascontiguousarray(items, np.int64))
    opened = (part[:, None] for part in (*windows, numbers))
    return NetworkBatch._make([*opened, torch.full((count,), -1), torch.ones(count)])


class SameShapeBatches:
    """Batches of networks that differ only in their weights, reshuffled every epoch if `shuffle` is set.

    Args:
        cache: of tokens.
        groups: the networks.
        first: index of the first group among those of a `Behaviour`.
        batch_size: approximate number of networks per batch.
        seed: determines the order, together with the epoch number.
        shuffle: whether to reshuffle every epoch.
        quiet: epochs before the behaviour loss counts.
    """

    def __init__(
        self, cache: TokenCache, groups: Sequence[NetworkGroup], *, first: int, batch_size: int, seed: int, shuffle: bool,
        quiet: float = 0.0,
    ) -> None:  # fmt: skip
        self.cache, self.groups, self.seed, self.shuffle, self.quiet = cache, groups, seed, shuffle, quiet
        self.first = first
        self.parts = [max(1, round(len(group.rows) / batch_size)) for group in groups]

    def __len__(self) -> int:
        return sum(self.parts)

    def epoch(self, number: int) -> Iterator[NetworkBatch]:
        """Yield the batches of one epoch; those of a group have nearly equal size."""
        batches: list[tuple[int, np.ndarray]] = []
        for code, (group, parts) in enumerate(zip(self.groups, self.parts, strict=True)):
            order = np.arange(len(group.rows))
            if self.shuffle:
                order = permutation(len(order), derive_seed(self.seed, code), number).numpy()
            batches += [(code, group.items[part]) for part in np.array_split(order, parts)]
        turns = permutation(len(batches), self.seed, number).tolist() if self.shuffle else range(len(batches))
        for place, turn in enumerate(turns):
            code, chosen = batches[turn]
            yield self._batch(code, chosen, behaving=number - 1 + place / len(batches) >= self.quiet)

    def _batch(self, code: int, items: np.ndarray, *, behaving: bool) -> NetworkBatch:
        flat, count = self.cache.batch(items.reshape(-1)), len(items)
        windows = (part.unflatten(0, items.shape) for part in flat)
        numbers = torch.from_numpy(np.ascontiguousarray(items, np.int64))
        subject, weights = torch.full((count,), self.first + code), torch.full((count,), float(behaving))
        return NetworkBatch._make([*windows, numbers, subject, weights])


class Behaviour:
    """The behaviour loss of decoded networks.

    Args:
        groups: networks that are trained on and those of the validation split.
        images: of every data set; networks are run on training images of their own data set.
        config: of the loss.
        seed: for the validation images.
    """

    def __init__(
        self, groups: Sequence[NetworkGroup], images: Images | Tasks, config: BehaviourConfig, seed: int
    ) -> None:
        self.groups, self.config = groups, config
        self.images = {one.name: one.x_train for one in as_tasks(images).images}
        self.fixed = {}
        for name, pixels in self.images.items():
            order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(derive_seed(seed, "probes")))
            self.fixed[name] = pixels[order[: config.validation_images]]

    def __call__(
        self, batch: NetworkBatch, rebuilt: Float[Tensor, "windows token dim"], *, training: bool
    ) -> dict[str, Tensor]:
        """Return the loss and `disagreement`, 1 - agreement, as means over the networks.

        In training images are sampled with torch's global generator, in validation they are fixed.
        """
        group = self.groups[int(batch.subject[0])]
        task = group.task
        images = (draw_probes(self.images[task], self.config) if training else self.fixed[task]).to(rebuilt.device)
        losses, differing = [], []
        size = max(1, PROBED // len(images))
        targets = group.weights(batch.windows.tokens).split(size)
        for target, decoded in zip(targets, group.weights(rebuilt).split(size), strict=True):
            with torch.no_grad():
                expected = group.answer(target, images[None])
            answers = group.answer(decoded, images[None])
            losses.append(behaviour_kl(expected, answers, self.config.temperature))
            differing.append(1 - agreement(expected, answers.detach()))
        return {"behaviour": torch.cat(losses).mean(), "disagreement": torch.cat(differing).mean()}


def draw_probes(
    images: Float[Tensor, "all channel height width"], config: BehaviourConfig
) -> Float[Tensor, "images channel height width"]:
    """Sample images with replacement, some of them mixed or noisy, using torch's global generator."""
    count = config.images
    chosen = images[torch.randint(len(images), (count,))]
    mixed, noisy = (round(count * share) for share in (config.mixed, config.noisy))
    if mixed:
        chosen[:mixed] = (chosen[:mixed] + images[torch.randint(len(images), (mixed,))]) / 2
    if noisy:
        rows = slice(mixed, mixed + noisy)
        chosen[rows] = chosen[rows] + config.noise * torch.randn_like(chosen[rows])
    return chosen


def runnable(cache: TokenCache, zoo: Zoo, split: str, images: Images | Tasks) -> list[NetworkGroup]:
    """Return the networks of a split, all of which can be run.

    Raises:
        TrainingError: if some cannot be run, with their count and what to do.
    """
    groups = subjects(cache, zoo, cache.indices(split), images)
    stuck = [group for group in groups if group.way.answer is None]
    if stuck:
        lost, total = (sum(len(group.rows) for group in subset) for subset in (stuck, groups))
        name = zoo.table["model_id"].iloc[int(stuck[0].rows[0])]
        raise TrainingError(
            f"{lost} of {total} networks of the {split} split cannot be built and run on the images of section data",
            where="ae.behaviour", expected="networks of known architecture that accept these images",
            got=f"{name}: {stuck[0].way.reason}", fix=REMEDY,
        )  # fmt: skip
    return groups
