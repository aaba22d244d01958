"""Boosted trees as tensors: fitted trees are saved and evaluated like any other model."""

from typing import Annotated, NamedTuple

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.errors import ModelError
from wscore.training.model_folder import register

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(gt=0)]
BLOCK = 1024  # networks evaluated at once


class ForestConfig(Section):
    """Shape of a forest.

    Args:
        inputs: features per network.
        outputs: outputs (tree sums) of each property, by name.
        trees: boosting rounds of each property; every round adds one tree to each of its outputs.
        nodes: of all trees together, leaves included.
    """

    inputs: Positive
    outputs: Annotated[dict[str, Positive], msgspec.Meta(min_length=1)]
    trees: dict[str, Count]
    nodes: Count

    def __post_init__(self) -> None:
        """Reject trees of other properties."""
        if self.trees.keys() != self.outputs.keys():
            raise ValueError("trees and outputs have different names")


class Nodes(NamedTuple):
    """Concatenated nodes of all trees; a leaf is its own child on both sides.

    Attributes:
        feature: input that is split on.
        threshold: an input up to it goes left, a larger one right.
        left: index of the left child.
        right: index of the right child.
        missing_left: whether a missing input goes left.
        value: output of a leaf.
        root: first node of each tree: target by target, round by round, output by output.
        base: initial value of each output.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    missing_left: Tensor
    value: Tensor
    root: Tensor
    base: Tensor


@register
class Forest(nn.Module):
    """output = base + sum over trees of the value of the leaf that the inputs fall into (logits, or scaled numbers)."""

    def __init__(self, config: ForestConfig) -> None:
        super().__init__()
        self.config = config
        trees = sum(config.outputs[name] * config.trees[name] for name in config.outputs)
        numbers = dict.fromkeys(("feature", "left", "right"), torch.int32)
        numbers |= {"threshold": torch.float64, "value": torch.float64, "missing_left": torch.bool}
        for name, kind in numbers.items():
            self.register_buffer(name, torch.zeros(config.nodes, dtype=kind))
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int32))
        self.register_buffer("base", torch.zeros(sum(config.outputs.values()), dtype=torch.float64))

    def fill(self, nodes: Nodes) -> None:
        """Copy fitted trees into the buffers."""
        for name, tensor in nodes._asdict().items():
            self.get_buffer(name).copy_(tensor)

    def check(self, where: object) -> None:
        """Reject indices out of range and children that lie before their nodes, in which a search would never end.

        Raises:
            ModelError: naming the buffer.
        """
        place, nodes = torch.arange(self.config.nodes), self.config.nodes
        bounds = {
            "left": (place, nodes),
            "right": (place, nodes),
            "root": (0, nodes),
            "feature": (0, self.config.inputs),
        }
        for name, (low, high) in bounds.items():
            values = self.get_buffer(name)
            if not bool(((values >= low) & (values < high)).all()):
                raise ModelError(
                    "trees are damaged", where=f"{where}: {name}", fix="recreate or download the model again"
                )

    @torch.no_grad()
    def forward(self, inputs: Float[Tensor, "batch input"]) -> dict[str, Float[Tensor, "batch _"]]:
        """Return the outputs (batch, width) of each property in float64; NaN is a missing input."""
        parts = [self._sums(block.double()) for block in inputs.split(BLOCK)]
        whole = torch.cat(parts) if parts else inputs.new_zeros(0, len(self.get_buffer("base")), dtype=torch.float64)
        return dict(zip(self.config.outputs, whole.split(list(self.config.outputs.values()), dim=1), strict=True))

    def _sums(self, inputs: Tensor) -> Tensor:
        leaves = self._leaves(inputs)  # (B, trees)
        values, place, sums = self.get_buffer("value")[leaves], 0, []
        for name, width in self.config.outputs.items():
            count = width * self.config.trees[name]
            sums.append(values[:, place : place + count].unflatten(1, (-1, width)).sum(dim=1))
            place += count
        return torch.cat(sums, dim=1) + self.get_buffer("base")

    def _leaves(self, inputs: Tensor) -> Tensor:
        """Return the leaf reached in each tree (B, trees)."""
        feature, left, right = (self.get_buffer(name).long() for name in ("feature", "left", "right"))
        at = self.get_buffer("root").long().expand(len(inputs), -1)
        while True:
            seen = inputs.gather(1, feature[at])
            goes_left = torch.where(
                seen.isnan(), self.get_buffer("missing_left")[at], seen <= self.get_buffer("threshold")[at]
            )
            following = torch.where(goes_left, left[at], right[at])
            if torch.equal(following, at):
                return at
            at = following
