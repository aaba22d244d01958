"""Networks made of decoded tokens, run on images, with gradients all the way back to the tokens."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wscore.errors import TrainingError
from wscore.tokens.cache import TokenCache
from wscore.tokens.normalizer import Normalizer
from wscore.tokens.tokenizer import Tokenizer
from wscore.zoo.architectures import Architecture, parse
from wscore.zoo.images import Images
from wscore.zoo.layout import Layout
from wscore.zoo.stacked import run, skeleton
from wscore.zoo.store import Zoo

SMALLEST_VARIANCE = 1e-5  # where a running variance decodes to less, as in the evaluation

#: Logits (n, I, C) of networks (n, D) on images (n, I, ...) of their own, or (1, I, ...) that they share.
Answer = Callable[[Tensor, Tensor], Tensor]


class Codec(NamedTuple):
    """How the tokens of networks of one layout become weights.

    Attributes:
        layout: of the networks.
        tokenizer: that made the tokens.
        normalizer: that scaled the weights.
        lengths: tokens in each window of a network.
    """

    layout: Layout
    tokenizer: Tokenizer
    normalizer: Normalizer
    lengths: tuple[int, ...]

    def weights(self, tokens: Float[Tensor, "windows token dim"]) -> Float[Tensor, "networks weights"]:
        """Return raw weights of networks from the normalised tokens of their windows, network by network."""
        parts = tokens.unflatten(0, (-1, len(self.lengths)))  # (n, W, T, dim)
        whole = torch.cat([parts[:, place, :length] for place, length in enumerate(self.lengths)], dim=1)
        vectors = self.normalizer.restore(self.layout, self.tokenizer.decode(self.layout, whole))  # (n, D)
        variance = torch.from_numpy(variances(self.layout)).to(vectors.device)
        return torch.where(variance, vectors.clamp_min(SMALLEST_VARIANCE), vectors)


class Subjects(NamedTuple):
    """Networks of a cache that differ in their weights alone.

    Attributes:
        architecture: which they are built by; None if it is not known or takes other images.
        codec: makes weights of their tokens.
        rows: their rows in the zoo (n,).
        items: their windows (n, W).
    """

    architecture: Architecture | None
    codec: Codec
    rows: np.ndarray
    items: np.ndarray

    @property
    def answer(self) -> Answer:
        """How they answer images."""
        if self.architecture is None:
            raise TrainingError("networks of unknown architecture can't be run", fix="set ae.behaviour.share to 0")
        return StackedAnswer(self.architecture, self.codec.layout)


class StackedAnswer:
    """Runs many networks of an architecture of the zoo at once.

    Args:
        architecture: of the networks.
        layout: of their state dicts.
    """

    def __init__(self, architecture: Architecture, layout: Layout) -> None:
        self.architecture, self.layout = architecture, layout

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the logits (n, I, C)."""
        images = images[0] if len(images) == 1 else images
        return run(skeleton(self.architecture), self.layout.unflatten(weights), images)


class ModuleAnswer:
    """Runs copies of any module with other weights, by `torch.func`.

    Args:
        module: an image classifier, whose own weights don't count; it is put into evaluation mode.
        layout: of its state dict.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        self.module, self.layout = module.eval(), layout

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the logits (n, I, C)."""
        own = len(images) == len(weights)
        one = lambda state, some: functional_call(self.module, state, (some,))  # noqa: E731
        state = self.layout.unflatten(weights)
        return vmap(one, in_dims=(0, 0 if own else None))(state, images if own else images[0])


def subjects(cache: TokenCache, zoo: Zoo, items: np.ndarray, images: Images | None) -> list[Subjects]:
    """Return the networks of some items, those that differ in their weights alone together.

    Args:
        cache: of their tokens.
        zoo: whose rows the cache was made of.
        items: of the cache, every network with all of its windows.
        images: that networks are to answer; those that don't take them count as of unknown architecture.
    """
    table = cache.table.iloc[items]
    texts = zoo.table["architecture"].fillna("").astype(str).to_numpy()[table["row"].to_numpy()]
    layouts = table["layout"].astype(str).to_numpy()
    found = []
    for key in sorted(set(zip(texts.tolist(), layouts.tolist(), strict=True))):
        mine = items[(texts == key[0]) & (layouts == key[1])]
        rows = cache.table["row"].to_numpy()[mine]
        order = np.lexsort((cache.table["window"].to_numpy()[mine], rows))
        windows = mine[order].reshape(-1, cache.windows(int(mine[0])))
        lengths = tuple(int(length) for length in cache.table["length"].to_numpy()[windows[0]])
        codec = Codec(cache.layout(int(mine[0])), cache.tokenizer, cache.normalizer, lengths)
        found.append(Subjects(_known(key[0], images), codec, rows[order].reshape(windows.shape)[:, 0], windows))
    return found


def variances(layout: Layout) -> Bool[np.ndarray, " weights"]:
    """Return which weights (D,) of a layout are running variances."""
    return np.repeat([spec.kind == "running_var" for spec in layout.tensors], [spec.size for spec in layout.tensors])


def _known(text: str, images: Images | None) -> Architecture | None:
    """Return the architecture, if it is known and takes these images."""
    if not text or images is None:
        return None
    architecture = parse(text)
    fits = architecture.input == tuple(images.x_train.shape[1:]) and architecture.classes == images.classes
    return architecture if fits else None
