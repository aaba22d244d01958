"""Networks made of decoded tokens, run on images, with gradients all the way back to the tokens."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wscore.errors import TrainingError
from wscore.networks.datasets import UNKNOWN, NetworkRunner, Tasks, as_tasks, kinds_of
from wscore.networks.images import Images
from wscore.networks.inference import Answer
from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache
from wscore.tokens.codec import TokenCodec
from wscore.zoo.store import Zoo

SMALLEST_VARIANCE = 1e-5  # where a running variance decodes to less, as in the evaluation


class NetworkGroup(NamedTuple):
    """Networks of a cache that differ in their weights alone.

    Attributes:
        way: how they are run, or why they can't be.
        layout: of their weights.
        codec: makes weights of their tokens.
        rows: their rows in the zoo (n,).
        items: their windows (n, W).
        task: name of their images.
    """

    way: NetworkRunner
    layout: Layout
    codec: TokenCodec
    rows: np.ndarray
    items: np.ndarray
    task: str = ""

    @property
    def answer(self) -> Answer:
        """How they answer images."""
        if self.way.answer is None:
            raise TrainingError(
                "networks that can't be built can't be run", got=self.way.reason, fix="set ae.behaviour.share to 0"
            )
        return self.way.answer

    def weights(self, tokens: Float[Tensor, "windows token dim"]) -> Float[Tensor, "networks weights"]:
        """Return raw weights of networks from the normalised tokens of their windows, network by network."""
        return runnable_weights(self.codec, self.layout, tokens)


def subjects(cache: TokenCache, zoo: Zoo, items: np.ndarray, images: Images | Tasks | None) -> list[NetworkGroup]:
    """Return the networks of some items, those that differ in their weights alone together.

    Args:
        cache: of their tokens.
        zoo: whose rows the cache was made of.
        items: of the cache, every network with all of its windows.
        images: that networks are to answer, each those of its data set; those that don't take them can't be run.
    """
    tasks = None if images is None else as_tasks(images)
    table = cache.table.iloc[items]
    kinds = kinds_of(zoo.table.iloc[table["row"].to_numpy()], tasks)
    layouts = table["layout"].astype(str).tolist()
    codes = sorted(set(zip(kinds, layouts, strict=True)), key=lambda code: (code[0].architecture, code[1], code[0]))
    numbers = {code: number for number, code in enumerate(codes)}
    own = np.array([numbers[code] for code in zip(kinds, layouts, strict=True)], dtype=int)
    found = []
    for number, (kind, _) in enumerate(codes):
        mine = items[own == number]
        rows = cache.table["row"].to_numpy()[mine]
        order = np.lexsort((cache.table["window"].to_numpy()[mine], rows))
        windows = mine[order].reshape(-1, cache.windows(int(mine[0])))
        layout = cache.layout(int(mine[0]))
        way = UNKNOWN if tasks is None else tasks.way(kind, layout)
        found.append(
            NetworkGroup(way, layout, cache.codec, rows[order].reshape(windows.shape)[:, 0], windows, kind.task)
        )
    return found


def runnable_weights(
    codec: TokenCodec, layout: Layout, tokens: Float[Tensor, "windows token dim"]
) -> Float[Tensor, "networks weights"]:
    """Return raw weights of networks from the normalised tokens of their windows, running variances kept above zero."""
    vectors = codec.decode(layout, tokens)  # (n, D)
    variance = torch.from_numpy(variances(layout)).to(vectors.device)
    return torch.where(variance, vectors.clamp_min(SMALLEST_VARIANCE), vectors)


def variances(layout: Layout) -> Bool[np.ndarray, " weights"]:
    """Return which weights (D,) of a layout are running variances."""
    return np.repeat([spec.kind == "running_var" for spec in layout.tensors], [spec.size for spec in layout.tensors])
