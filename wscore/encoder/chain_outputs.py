"""Outputs of networks of which only the state dict is known, under hypotheses about what it does not say.

A state dict says neither which activation and pooling a network has nor whether its blocks are residual. So its chains
(`wscore.encoder.chain`) are run on probe images under every combination (`HYPOTHESES`). For a plain feed-forward network
one of them is the network itself. The posterior mean over them, with the labels of the n probes as data and equal priors,

    sum_h p_h m_h,   p_h = softmax_h(-n surprise_h),   surprise: mean negative log probability of the labels

is a measure as well (`LIKELY`): of networks that learned the task mostly that of the true hypothesis.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.encoder.chain import Chain, ChainBlock, Link, Norm, read_chains
from wscore.encoder.dreamed_probes import LARGEST, MEASURES, Probes, ProbeSets, measure_outputs
from wscore.networks.layout import Layout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu,
}  # fmt: skip
POOLINGS = ("max", "avg")
BLOCKS = ("plain", "residual")
HYPOTHESES = tuple(itertools.product(BLOCKS, ACTIVATIONS, POOLINGS))
LIKELY = "likely"
COLUMNS = (*map(".".join, HYPOTHESES), LIKELY)
NAMES = tuple(f"{measured}.{column}" for measured in MEASURES for column in COLUMNS)
SURPRISE = MEASURES.index("surprise")
NUMBERS = 1 << 21  # entries of the largest activation held at once
MOST = 1 << 22  # weights; larger networks are not run
EPS = 1e-5  # of normalisations
Moments = dict[str, tuple[Tensor, Tensor]]  # mean and variance of the outputs of layers, by name of their weights


class Guess(NamedTuple):
    """A chain with its activation and pooling (keys of `ACTIVATIONS` and `POOLINGS`)."""

    chain: Chain
    activation: str
    pooling: str


def chain_numbers(
    layout: Layout, vectors: Float[np.ndarray, "networks weights"], probes: ProbeSets
) -> dict[str, Float[np.ndarray, " networks"]]:
    """Return `MEASURES` of the outputs of networks on the probes that fit them, by name; empty if they can't be run."""
    chains = read_chains(layout) if layout.size <= MOST else ()
    if not chains or (fitting := find_probes(chains[0], probes)) is None:
        return {}
    step = max(1, NUMBERS // _largest(chains[0], fitting))
    parts = [_measured(layout, part, chains, fitting) for part in torch.from_numpy(vectors).float().split(step)]
    return dict(zip(NAMES, np.concatenate(parts).T, strict=True))


def find_probes(chain: Chain, probes: ProbeSets) -> Probes | None:
    """Return the probes with as many classes as a network has, resized to images that it takes; None if there are none.

    Those that need not be resized are preferred.
    """
    fitting = [
        (size != labelled.images.shape[2], size, labelled)
        for labelled in probes.values()
        if int(labelled.labels.max()) + 1 == chain.head.outputs and (size := _image_size(chain, labelled.images))
    ]
    if not fitting:
        return None
    _, size, chosen = min(fitting, key=lambda candidate: candidate[0])
    return chosen._replace(images=_resized(chosen.images, size))


def may_take_known_images(layout: Layout, probes: ProbeSets) -> bool:
    """Return whether a network may take images of the size of the probes; true if it is no chain that can be run."""
    chains = read_chains(layout)
    fitting = find_probes(chains[0], probes) if chains else None
    return fitting is None or fitting.images.shape in [labelled.images.shape for labelled in probes.values()]


def chain_logits(
    guess: Guess,
    state: Mapping[str, Tensor],
    images: Float[Tensor, "image channel height width"],
    moments: Moments | None = None,
) -> Float[Tensor, "networks image classes"]:
    """Return the logits of stacked networks under one hypothesis, for images of a size that the chain takes.

    With `moments`, mean and variance (networks, units) of the outputs of each layer before its normalisation are noted there.
    """
    first = guess.chain.first
    x = images.movedim(0, -1)[None] if first.is_convolution else images.flatten(1).mT[None]
    return _run(guess, state, _apply(first, state, x, moments), moments)


def _measured(layout: Layout, vectors: Tensor, chains: tuple[Chain, ...], probes: Probes) -> np.ndarray:
    """Return the measures (n, measures x columns)."""
    state = layout.unflatten(vectors)
    x = probes.images.movedim(0, -1)[None] if chains[0].first.is_convolution else probes.images.flatten(1).mT[None]
    entered = _apply(chains[0].first, state, x)
    guesses = list(_guesses(chains))
    distinct = list(dict.fromkeys(guesses))
    outputs = torch.cat([_run(guess, state, entered) for guess in distinct])
    outputs = outputs.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST).numpy()
    measured = measure_outputs(outputs, probes.labels).reshape(len(distinct), len(vectors), -1)  # (G, n, measures)
    each = measured[[distinct.index(guess) for guess in guesses]]  # (H, n, measures)
    shares = torch.from_numpy(-len(probes.labels) * each[..., SURPRISE]).softmax(dim=0).numpy()
    likely = (shares[..., None] * each).sum(axis=0)
    return np.concatenate([each, likely[None]]).transpose(1, 2, 0).reshape(len(vectors), -1)


def _guesses(chains: tuple[Chain, ...]) -> Iterator[Guess]:
    """Yield a guess for each hypothesis; hypotheses that mean the same for a network have equal guesses."""
    for blocks, activation, pooling in HYPOTHESES:
        chain = chains[-1 if blocks == "residual" else 0]
        yield Guess(chain, activation, pooling if chain.grid else POOLINGS[0])


def _run(guess: Guess, state: Mapping[str, Tensor], entered: Tensor, moments: Moments | None = None) -> Tensor:
    """Return logits (n, B, C) of outputs of the first layer: (n, C, H, W, B) or (n, F, B), the batch innermost."""
    activate = ACTIVATIONS[guess.activation]
    first, *rest = guess.chain.blocks
    maps = [block for block in guess.chain.blocks if block.links[0].is_convolution]
    x = activate(entered)
    for block in (first, *rest):
        if block is not first:
            last = block is rest[-1]
            x = _block(block, state, _flattened(block, x, guess.pooling), activate, last=last, moments=moments)
        if block in maps[:-1] and x.shape[2] % 2 == 0 and x.shape[2] // 2 >= guess.chain.grid:
            x = _pooled(x, guess.pooling, 2)
    return x.mT


def _block(
    block: ChainBlock,
    state: Mapping[str, Tensor],
    x: Tensor,
    activate: Callable[[Tensor], Tensor],
    *,
    last: bool,
    moments: Moments | None,
) -> Tensor:
    if not block.is_residual:
        for link in block.links:
            x = _apply(link, state, x, moments)
            x = x if last else activate(x)
        return x
    first, second = block.links
    y = _apply(second, state, activate(_apply(first, state, x, moments)), moments)
    y = y + (x if block.shortcut is None else _apply(block.shortcut, state, x, moments))
    return activate(y) if second.norm else y


def _apply(link: Link, state: Mapping[str, Tensor], x: Tensor, moments: Moments | None = None) -> Tensor:
    """Return the normalised outputs of a layer, before the activation; with `moments`, note those before the norm."""
    weight = state[link.weight.name]
    if link.is_depthwise:
        y = (weight.flatten(2)[:, :, None] @ _columns(x, link).unflatten(1, (link.outputs, -1))).flatten(1, 2)
        y = y.unflatten(-1, x.shape[-3:])
    elif link.is_convolution:
        y = (weight.flatten(2) @ _columns(x, link)).unflatten(-1, x.shape[-3:])
    else:
        y = weight @ x
    y = y + _along(state[link.bias], y) if link.bias else y
    if moments is not None and link.norm:
        axes = tuple(range(2, y.ndim))
        moments[link.weight.name] = (y.mean(axes), y.var(axes))
    return _normalised(link.norm, state, y) if link.norm else y


def _normalised(norm: Norm, state: Mapping[str, Tensor], y: Tensor) -> Tensor:
    """Return units normalised by their running statistics, or by those of each image where there are none."""
    if norm.var:
        mean, var = (_along(state[name], y) for name in (norm.mean, norm.var))
    else:
        axes = tuple(range(1, y.ndim - 1))
        mean, var = y.mean(axes, keepdim=True), y.var(axes, unbiased=False, keepdim=True)
    scale = (var.clamp_min(0) + EPS).rsqrt()
    scale = scale * _along(state[norm.weight], y) if norm.weight else scale
    shift = -mean * scale
    return y * scale + (shift + _along(state[norm.bias], y) if norm.bias else shift)


def _along(values: Tensor, y: Tensor) -> Tensor:
    """Return one value per unit (n, C), to be combined with y (n, C, ..., B)."""
    return values.reshape(*values.shape, *[1] * (y.ndim - 2))


def _columns(x: Tensor, link: Link) -> Tensor:
    """Return the neighbourhood of every pixel, (n, C, H, W, B) -> (n, C k k, H W B), zeros outside."""
    high, wide = link.weight.shape[2:]
    if high == wide == 1:
        return x.flatten(-3)
    before = ((wide - 1) // 2, wide // 2, (high - 1) // 2, high // 2)
    padded = nn.functional.pad(x, (0, 0, *before))
    count, channels, height, width, batch = x.shape
    each, channel, row, column, item = padded.stride()
    shape = (count, channels, high, wide, height, width, batch)
    neighbours = padded.as_strided(shape, (each, channel, row, column, row, column, item))
    return neighbours.reshape(count, channels * high * wide, -1)


def _flattened(block: ChainBlock, x: Tensor, pooling: str) -> Tensor:
    """Return maps (n, C, H, W, B) as the features (n, F, B) of a linear layer, pooled to the grid it reads."""
    if x.ndim == 3 or block.links[0].is_convolution:
        return x
    grid = math.isqrt(block.links[0].weight.shape[1] // x.shape[1])
    return _pooled(x, pooling, x.shape[2] // grid).flatten(1, 3)


def _pooled(x: Tensor, pooling: str, size: int) -> Tensor:
    """Return maps pooled by windows of size x size."""
    if size == 1:
        return x
    for axis in (-2, -3):
        shifts = x.unflatten(axis, (-1, size)).unbind(axis)
        x = reduce(torch.maximum, shifts) if pooling == "max" else reduce(torch.add, shifts) / size
    return x


def _image_size(chain: Chain, images: Tensor) -> int:
    """Return the height and width of images that a chain takes, near those of the probes; 0 if there are none."""
    channels, own = images.shape[1], images.shape[2]
    inputs = chain.first.weight.shape[1]
    if not chain.first.is_convolution:
        side = math.isqrt(inputs // channels)
        return side if channels * side * side == inputs else 0
    if inputs != channels:
        return 0
    size = own
    for _ in range(sum(block.links[0].is_convolution for block in chain.blocks) - 1):
        size = size // 2 if size % 2 == 0 and size // 2 >= chain.grid else size
    fits = size % chain.grid == 0
    return own if fits else chain.grid * 2 ** max(0, round(math.log2(own / chain.grid)))


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images
    return nn.functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def _largest(chain: Chain, probes: Probes) -> int:
    """Return the entries of the largest activation of one network, neighbourhoods of convolutions included."""
    places = probes.images[:, 0].numel() if chain.first.is_convolution else len(probes.images)
    links = [link for block in chain.blocks for link in block.links]
    return max(
        places * math.prod(link.weight.shape[1:]) for link in links if link.is_convolution == chain.first.is_convolution
    )
