"""Finds the hidden units of a network that can be reordered, from names and shapes of its tensors alone.

A chain of layers (`wscore.encoder.chain`) has one group of units per layer; layers that may be joined by a skip connection
share one, which is right with and without the connection. Of other networks, such as transformers, the hidden layers of
their perceptrons are used: a matrix that widens, followed by one that narrows back.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from wscore.encoder.chain import Chain, Link, read_chains
from wscore.networks.layout import Layout, TensorSpec
from wscore.symmetry.spec import Axis, PermutationSpec

FIXED = Axis(group=None, repeat=1, block=1)
MATRICES = ("linear", "conv")
LEAST_UNITS = 4  # of a group; fewer are no evidence
Axes = dict[str, tuple[Axis, ...]]


def unit_groups(layout: Layout) -> PermutationSpec:
    """Return the groups of hidden units of a network and the weight matrices that produce and read them.

    Groups are in the order of the layers; biases and normalisation are left out. There are none if none is certain.

    >>> from torch import nn
    >>> from wscore.networks.layout import layout_of
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> unit_groups(layout_of(network.state_dict())).units
    {'0.weight': 8}
    """
    chains = read_chains(layout)
    axes = _chain_axes(chains[-1]) if chains else _expansion_axes(layout)
    shapes = {spec.name: spec.shape for spec in layout.tensors}
    units: dict[str, int] = {}
    for name, (produced, *_) in axes.items():
        if produced.group is not None:
            units.setdefault(produced.group, shapes[name][0])
    spec = PermutationSpec(units=units, axes=axes)
    spec.check(shapes)
    return spec


def restricted(spec: PermutationSpec, names: Sequence[str]) -> PermutationSpec:
    """Return a spec with some of its tensors, and the groups that one of them produces and that are large enough."""
    axes = {name: how for name, how in spec.axes.items() if name in names}
    produced = {how[0].group for how in axes.values()}
    units = {group: count for group, count in spec.units.items() if group in produced and count >= LEAST_UNITS}
    return PermutationSpec(
        units=units,
        axes={name: tuple(axis if axis.group in units else FIXED for axis in how) for name, how in axes.items()},
    )


def _chain_axes(chain: Chain) -> Axes:
    axes: Axes = {}
    group, units = None, 0
    for block in chain.blocks:
        start, entered = group, units
        for link in block.links:
            joined = start if block.is_residual and block.shortcut is None and link is block.links[-1] else None
            produced = None if link is chain.head else joined or (group if link.is_depthwise else link.weight.name)
            axes[link.weight.name] = _axes(link, produced, None if link.is_depthwise else group, units)
            group, units = produced, link.outputs
        if block.shortcut is not None:
            axes[block.shortcut.weight.name] = _axes(block.shortcut, group, start, entered)
    return axes


def _axes(link: Link, produced: str | None, read: str | None, units: int) -> tuple[Axis, ...]:
    shape = link.weight.shape
    inputs = FIXED if read is None else Axis(group=read, repeat=1, block=shape[1] // units)
    outputs = FIXED if produced is None else Axis(group=produced, repeat=1, block=1)
    return (outputs, inputs, *[FIXED] * (len(shape) - 2))


def _expansion_axes(layout: Layout) -> Axes:
    matrices = [spec for spec in layout.tensors if spec.kind in MATRICES]
    axes: Axes = {spec.name: (FIXED,) * len(spec.shape) for spec in matrices}
    for wide, narrow in _expansions(matrices):
        group = Axis(group=axes[narrow.name][1].group or wide.name, repeat=1, block=1)
        axes[wide.name] = (group, *[FIXED] * (len(wide.shape) - 1))
        axes[narrow.name] = (FIXED, group, *[FIXED] * (len(narrow.shape) - 2))
    return axes


def _expansions(matrices: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, TensorSpec]]:
    """Yield matrices of which the first widens and the second narrows to its inputs.

    They are neighbours, or in one module without numbers, as `down_proj`, `gate_proj` and `up_proj`, ordered by name.
    """
    after = {wide.name: narrow for wide, narrow in pairwise(matrices) if _narrows(wide, narrow)}
    for wide in matrices:
        beside = [narrow for narrow in matrices if _narrows(wide, narrow) and _are_beside(wide.name, narrow.name)]
        if wide.name in after or len(beside) == 1:
            yield wide, after.get(wide.name) or beside[0]


def _narrows(wide: TensorSpec, narrow: TensorSpec) -> bool:
    outer = math.prod(wide.shape[1:2])
    return (
        len(wide.shape) == len(narrow.shape)
        and wide.shape[0] > outer
        and narrow.shape[:2] == (outer, wide.shape[0])
    )  # fmt: skip


def _are_beside(first: str, second: str) -> bool:
    """Return whether two layers without numbers in their names are in one module."""
    (parent, _, name), (other, _, _) = (tensor.rpartition(".")[0].rpartition(".") for tensor in (first, second))
    return parent == other and bool(parent) and not any(letter.isdecimal() for letter in name)
