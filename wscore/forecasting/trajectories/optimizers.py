"""Builds optimisers by name, for recordings and benchmarks."""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
import torch
from torch import nn

from wscore.config import Section

MOMENTUM = 0.9
OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]


class OptimizerSpec(Section):
    """One optimiser.

    Args:
        name: `momentum` is SGD with momentum 0.9.
        lr: learning rate, the peak of a schedule.
    """

    name: OptimizerName
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)]


def make_optimizer(
    spec: OptimizerSpec, parameters: Iterable[nn.Parameter], *, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return an optimiser for some parameters; `weight_decay` is an L2 penalty, decoupled for `adamw`."""
    chosen = list(parameters)
    if spec.name == "adam":
        return torch.optim.Adam(chosen, lr=spec.lr, weight_decay=weight_decay)
    if spec.name == "adamw":
        return torch.optim.AdamW(chosen, lr=spec.lr, weight_decay=weight_decay)
    momentum = MOMENTUM if spec.name == "momentum" else 0.0
    return torch.optim.SGD(chosen, lr=spec.lr, weight_decay=weight_decay, momentum=momentum)
