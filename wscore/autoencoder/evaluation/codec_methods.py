"""All ways in which networks that differ in their weights alone are compressed, at several ratios.

    single_pass    the codec; networks are not run
    own_inputs     the codec, its whole numbers searched for with inputs that it keeps: what it makes of a state dict alone
    search         the codec, its whole numbers searched for with training images
    plain          each tensor rounded with a step of its own, the same range coder
    curvature      steps and rounding from the network's own curvature on training images
    own_search     the same search as `search`, in finer steps than those of `curvature`, from there
    int8, int4     every weight rounded, a scale for each tensor
    mean_network   the mean of the aligned training networks of the layout

The last five look at no zoo, save the mean network. Bytes are those of files, or of payloads with the header of a file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.problem import SearchConfig
from wscore.autoencoder.evaluation.codec_controls import (
    Coded,
    Networks,
    Rounding,
    curvature,
    decoded,
    plain,
    search_own,
)
from wscore.errors import ModelError

SINGLE_PASS, OWN_INPUTS, SEARCH = "single_pass", "own_inputs", "search"
PLAIN, CURVATURE, OWN_SEARCH = "plain", "curvature", "own_search"
MEAN_NETWORK = "mean_network"
SEARCHES = (SEARCH, OWN_SEARCH)
HEADER = 8  # bytes of a file of a layout that the codec knows; controls are granted as many
Methods = Iterator[tuple[float, str, Coded]]


class Searches(NamedTuple):
    """How numbers are searched.

    Attributes:
        config: of both searches, but for its learning rate.
        rates: learning rate of each of `SEARCHES`.
    """

    config: SearchConfig
    rates: Mapping[str, float]

    def of(self, name: str) -> SearchConfig:
        """Return the configuration of a search."""
        return msgspec.structs.replace(self.config, lr=self.rates[name])


def passes(codec: WeightCodec, networks: Networks, ratios: Sequence[float]) -> Methods:
    """Yield `single_pass` and `plain` at each ratio at which a file has room for more than its header."""
    for ratio in ratios:
        with suppress(ModelError):
            yield ratio, SINGLE_PASS, coded(codec, networks, [ratio])
            yield ratio, PLAIN, _with_header(plain(networks, _rooms(networks, [ratio])))


def alone(codec: WeightCodec, networks: Networks, ratios: Sequence[float], searches: Searches) -> Methods:
    """Yield `own_inputs` at each ratio, if the codec can run the networks; those that don't classify its inputs are rounded."""
    if run := codec.run_alone(networks.layout, networks.vectors):
        as_known = networks._replace(answer=run.answer, images=run.images)
        searched, rounded = coded(codec, as_known, ratios, searches.of(SEARCH)), coded(codec, networks, ratios)
        alike = run.alike.repeat(len(ratios))
        vectors = torch.where(alike[:, None], searched.vectors, rounded.vectors)
        yield from _by_ratio(OWN_INPUTS, Coded(vectors, torch.where(alike, searched.sizes, rounded.sizes)), ratios)


def zoo_search(codec: WeightCodec, networks: Networks, ratios: Sequence[float], searches: Searches) -> Methods:
    """Yield `search` at each ratio."""
    yield from _by_ratio(SEARCH, coded(codec, networks, ratios, searches.of(SEARCH)), ratios)


def without_zoo(networks: Networks, ratios: Sequence[float], searches: Searches) -> Methods:
    """Yield `curvature` and `own_search` at each ratio."""
    starts = curvature(networks, _rooms(networks._replace(vectors=networks.vectors[:1]), ratios).tolist())
    start = Rounding(*(torch.cat(parts) for parts in zip(*starts, strict=True)))
    every, rooms = _repeated(networks, len(ratios)), _rooms(networks, ratios)
    yield from _by_ratio(CURVATURE, _with_header(decoded(every, start)), ratios)
    found = search_own(every, start, rooms, searches.of(OWN_SEARCH))
    yield from _by_ratio(OWN_SEARCH, _with_header(decoded(every, found)), ratios)


def fixed_sizes(networks: Networks, mean: Float[np.ndarray, " weights"]) -> dict[str, Coded]:
    """Return what has a size of its own: 8 and 4 bits, and the mean network."""
    vectors = networks.vectors
    average = torch.from_numpy(mean.astype(np.float32)).expand_as(vectors)
    return {
        "int8": _integers(networks, 8),
        "int4": _integers(networks, 4),
        MEAN_NETWORK: Coded(average, torch.full((len(vectors),), HEADER)),
    }


def coded(codec: WeightCodec, networks: Networks, ratios: Sequence[float], search: SearchConfig | None = None) -> Coded:
    """Return networks that went through files of the codec, all at the first ratio, then all at the next.

    Raises:
        ModelError: if a file has no room for more than its header.
    """
    every, count = networks.of([row for row in range(len(networks.vectors)) for _ in ratios]), len(ratios)
    run = {} if search is None else {"answer": every.answer, "images": every.images, "search": search}
    each = list(ratios) * len(networks.vectors)  # networks in turn, so that those of all ratios are looked at once
    files = codec.compress_vectors(networks.layout, every.vectors, ratio=each, **run)
    files = [data for place in range(count) for data in files[place::count]]
    back = [torch.from_numpy(networks.layout.flatten(codec.decompress(data))) for data in files]
    return Coded(torch.stack(back), torch.tensor([len(data) for data in files]))


def _by_ratio(name: str, every: Coded, ratios: Sequence[float]) -> Methods:
    count = len(every.vectors) // len(ratios)
    for place, ratio in enumerate(ratios):
        chunk = slice(place * count, (place + 1) * count)
        yield ratio, name, Coded(every.vectors[chunk], every.sizes[chunk])


def _repeated(networks: Networks, count: int) -> Networks:
    return networks.of(list(range(len(networks.vectors))) * count)


def _rooms(networks: Networks, ratios: Sequence[float]) -> Int[Tensor, " n"]:
    """Return the bytes of files less their header, of all networks at the first ratio, then at the next."""
    rooms = [int(4 * networks.layout.size / ratio) - HEADER for ratio in ratios]
    return torch.tensor(rooms).repeat_interleave(len(networks.vectors))


def _with_header(payloads: Coded) -> Coded:
    return payloads._replace(sizes=payloads.sizes + HEADER)


def _integers(networks: Networks, bits: int) -> Coded:
    """Return weights as multiples of a step for each tensor, from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1."""
    most, vectors = 2 ** (bits - 1) - 1, networks.vectors.clone()
    for place in networks.layout.slices().values():
        step = (vectors[:, place].abs().amax(1, keepdim=True) / most).clamp_min(1e-30)
        vectors[:, place] = (vectors[:, place] / step).round() * step
    size = -(-networks.layout.size * bits // 8) + 4 * len(networks.layout.tensors) + HEADER
    return Coded(vectors, torch.full((len(vectors),), size))
