"""Reads a state dict as a chain of layers, from the order, shapes and kinds of its tensors alone.

Keys are not interpreted: layers are taken to follow each other in the order of the state dict. A pair of layers whose
output could be added to its input may be a residual block, or not: then there are two chains. Networks that are no chain
(attention, recurrence, several branches) have none.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from wscore.networks.layout import Layout, TensorSpec

NORMS = ("norm_weight", "norm_bias", "running_mean", "running_var")


class Norm(NamedTuple):
    """Names of the tensors of a normalisation, empty where there is none."""

    weight: str
    bias: str
    mean: str
    var: str


class Link(NamedTuple):
    """A linear or convolutional layer with the normalisation that follows it.

    Attributes:
        weight: the weight tensor.
        bias: name of the bias; empty without one.
        norm: the normalisation; None without one.
        is_depthwise: whether it is a convolution of each channel by itself.
    """

    weight: TensorSpec
    bias: str
    norm: Norm | None
    is_depthwise: bool

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution."""
        return len(self.weight.shape) == 4

    @property
    def outputs(self) -> int:
        """Number of units."""
        return self.weight.shape[0]

    def takes(self, units: int) -> bool:
        """Return whether it may follow a layer of so many units."""
        if self.is_depthwise:
            return self.outputs == units
        inputs = self.weight.shape[1]
        return inputs == units or (not self.is_convolution and inputs % units == 0)


class ChainBlock(NamedTuple):
    """One or two layers; pooling may follow.

    Attributes:
        links: the layers, with activations between them.
        is_residual: whether the input is added to the output.
        shortcut: 1 x 1 convolution of the input that is added; None: the input itself.
    """

    links: tuple[Link, ...]
    is_residual: bool = False
    shortcut: Link | None = None


class Chain(NamedTuple):
    """A feed-forward network.

    Attributes:
        blocks: in order; the last is the head.
        grid: height and width of the maps that the first linear layer reads; 0 without convolutions.
    """

    blocks: tuple[ChainBlock, ...]
    grid: int

    @property
    def first(self) -> Link:
        """The layer that reads the images."""
        return self.blocks[0].links[0]

    @property
    def head(self) -> Link:
        """The layer whose outputs are the logits."""
        return self.blocks[-1].links[-1]


def read_chains(layout: Layout) -> tuple[Chain, ...]:
    """Return the chains that a layout may be: without and with residual blocks; none if it is no chain."""
    links = _links(layout)
    if len(links) < 2 or links[-1].is_convolution:
        return ()
    found = [chain for residual in (False, True) if (chain := _chain(links, residual)) is not None]
    return tuple(chain for place, chain in enumerate(found) if chain not in found[:place])


def _links(layout: Layout) -> list[Link]:
    """Return the layers in order; none if some tensor belongs to no layer."""
    links: list[Link] = []
    layers: dict[int, list[TensorSpec]] = {}
    for spec in layout.tensors:
        layers.setdefault(spec.layer, []).append(spec)
    for specs in layers.values():
        kinds = {spec.kind: spec for spec in specs}
        weight = kinds.get("linear") or kinds.get("conv")
        if weight is not None and len(weight.shape) in (2, 4) and set(kinds) <= {weight.kind, "bias"}:
            depthwise = len(weight.shape) == 4 and bool(links) and weight.shape[:2] == (links[-1].outputs, 1)
            links.append(Link(weight, kinds["bias"].name if "bias" in kinds else "", None, depthwise))
        elif links and not links[-1].norm and set(kinds) <= set(NORMS) and specs[0].shape == (links[-1].outputs,):
            names = (kinds[kind].name if kind in kinds else "" for kind in NORMS)
            links[-1] = links[-1]._replace(norm=Norm(*names))
        else:
            return []
    return links


def _chain(links: Sequence[Link], residual: bool) -> Chain | None:
    """Return the blocks of layers in order; None if the units of two neighbours do not match."""
    blocks = [ChainBlock((links[0],))]
    units, place, body = links[0].outputs, 1, len(links) - 1
    while place < len(links):
        block = _residual(links[place:body], units) if residual else None
        block = block or _plain(links[place:])
        if not block.links[0].takes(units) or (
            block.links[0].is_convolution and not blocks[-1].links[0].is_convolution
        ):
            return None
        units, place = block.links[-1].outputs, place + len(block.links) + (block.shortcut is not None)
        blocks.append(block)
    grid = _grid(blocks)
    return None if grid is None else Chain(tuple(blocks), grid)


def _plain(links: Sequence[Link]) -> ChainBlock:
    """Return the next layer, with the 1 x 1 convolution that follows a depthwise one."""
    pointwise = len(links) > 1 and links[0].is_depthwise and links[1].is_convolution
    pointwise = pointwise and links[1].weight.shape[2:] == (1, 1) and links[1].takes(links[0].outputs)
    return ChainBlock(tuple(links[: 2 if pointwise else 1]))


def _residual(links: Sequence[Link], units: int) -> ChainBlock | None:
    """Return the next two layers as a residual block, if they may be one."""
    if len(links) < 2 or len(links[0].weight.shape) != len(links[1].weight.shape) or links[0].is_depthwise:
        return None
    first, second = links[0], links[1]
    if first.weight.shape[1] != units or second.weight.shape[1] != first.outputs:
        return None
    if second.outputs == units:
        return ChainBlock((first, second), is_residual=True)
    shortcut = links[2] if len(links) > 2 else None
    fits = shortcut is not None and shortcut.weight.shape == (second.outputs, units, 1, 1)
    return ChainBlock((first, second), True, shortcut) if fits and second.weight.shape[2:] != (1, 1) else None


def _grid(blocks: Sequence[ChainBlock]) -> int | None:
    """Return height and width at the first linear layer, 0 without convolutions, None if that is not a square."""
    links = [link for block in blocks for link in block.links]
    for lower, upper in pairwise(links):
        if lower.is_convolution and not upper.is_convolution:
            places = upper.weight.shape[1] // lower.outputs
            return math.isqrt(places) if math.isqrt(places) ** 2 == places else None
        if not lower.is_convolution and upper.weight.shape[1] != lower.outputs:
            return None
    return 0
