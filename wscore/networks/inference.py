"""Runs networks given as flat weight vectors on images, differentiable in the weights, and scores their logits."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wscore.networks.architectures import Architecture, parse
from wscore.networks.layout import Layout
from wscore.networks.stacked import mixed_skeleton, run, skeleton

#: Logits (n, I, C) of networks (n, D) on per-network images (n, I, ...), or shared ones (1, I, ...).
Answer = Callable[[Tensor, Tensor], Tensor]
IMAGES = 256  # run at once
CHUNK = 4096  # networks x images run at once


class Scores(NamedTuple):
    """Accuracy and mean cross-entropy (nats) of each network on some images."""

    accuracy: Float[Tensor, " networks"]
    loss: Float[Tensor, " networks"]


@torch.no_grad()
def logits(
    answer: Answer,
    vectors: Float[Tensor, "networks weights"],
    images: Float[Tensor, "images channel height width"],
    *,
    chunk: int = CHUNK // IMAGES,
) -> Float[Tensor, "networks images classes"]:
    """Return the logits of every network on every image, `chunk` networks at once, without gradients, on the vectors' device."""
    images = images.to(vectors.device)
    rows = []
    for places in torch.arange(len(vectors)).split(chunk):
        block, run_block = vectors[places].float(), answer_of_rows(answer, places.tolist())
        rows.append(torch.cat([run_block(block, batch[None]) for batch in images.split(IMAGES)], dim=1))
    return torch.cat(rows)


def scores(logits: Float[Tensor, "networks images classes"], labels: Int[Tensor, " images"]) -> Scores:
    """Return accuracy and loss of every network."""
    labels = labels.to(logits.device)
    accuracy = (logits.argmax(-1) == labels).float().mean(-1)
    target = labels.expand(logits.shape[:2])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return Scores(accuracy, loss.unflatten(0, logits.shape[:2]).mean(-1))


class StackedAnswer:
    """Runs many networks of a zoo architecture at once."""

    def __init__(self, architecture: Architecture | str, layout: Layout) -> None:
        self.architecture = parse(architecture) if isinstance(architecture, str) else architecture
        self.layout = layout

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the logits (n, I, C)."""
        images = images[0] if len(images) == 1 else images
        return run(skeleton(self.architecture), self.layout.unflatten(weights), images)


class MixedAnswer:
    """Runs networks of zoo architectures with equal weights, which differ in activation and pooling, at once.

    Args:
        architectures: of each of the networks, or their JSON texts.
        layout: of their state dicts.
    """

    def __init__(self, architectures: Sequence[Architecture | str], layout: Layout) -> None:
        self.architectures = tuple(parse(one) if isinstance(one, str) else one for one in architectures)
        self.layout, kinds = layout, tuple(dict.fromkeys(self.architectures))
        places = torch.tensor([kinds.index(one) for one in self.architectures])
        self.order = places.argsort(stable=True)
        self.back = self.order.argsort()
        self.skeleton = mixed_skeleton(kinds, tuple(places.bincount().tolist()))

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the logits (n, I, C)."""
        images = images[0] if len(images) == 1 else images[self.order]
        return run(self.skeleton, self.layout.unflatten(weights[self.order]), images)[self.back]

    def of(self, rows: Sequence[int]) -> Answer:
        """Return what runs some of the networks; if they are of one architecture, any number of them."""
        chosen = [self.architectures[row] for row in rows]
        return StackedAnswer(chosen[0], self.layout) if len(set(chosen)) == 1 else MixedAnswer(chosen, self.layout)


def answer_of_rows(answer: Answer, rows: Sequence[int]) -> Answer:
    """Return what runs some of the networks that `answer` runs."""
    return answer.of(rows) if isinstance(answer, MixedAnswer) else answer


class ModuleAnswer:
    """Runs any module with other weights through `torch.func`.

    Tensors outside the layout (masks, index tables) are taken from the module.

    Args:
        module: an image classifier; its own weights are ignored; it is put into evaluation mode.
        layout: of its state dict.
        alone: run one network at a time, for modules not supported by `torch.func.vmap`.
    """

    def __init__(self, module: nn.Module, layout: Layout, *, alone: bool = False) -> None:
        self.module, self.layout, self.alone = module.eval(), layout, alone

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the logits (n, I, C)."""
        per_network = len(images) == len(weights)
        apply = lambda state, inputs: functional_call(self.module, state, (inputs,), tie_weights=False)  # noqa: E731
        state = self.layout.unflatten(weights)
        if not self.alone:
            return vmap(apply, in_dims=(0, 0 if per_network else None))(state, images if per_network else images[0])
        single = [{name: value[place] for name, value in state.items()} for place in range(len(weights))]
        return torch.stack([apply(state, images[place if per_network else 0]) for place, state in enumerate(single)])


def differentiable(network: nn.Module) -> nn.Module:
    """Return a copy whose batch norms are differentiable in their running statistics, unlike torch's."""
    copied = deepcopy(network).eval()
    for module in [*copied.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and child.running_mean is not None:
                setattr(module, name, _FixedNorm(child))
    return copied


class _FixedNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) w + b along axis 1, with the parameter names of the batch norm it replaces."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self.eps, self.affine = norm.eps, norm.affine
        for name, value in norm.named_parameters():
            self.register_parameter(name, nn.Parameter(value.detach().clone()))
        for name, value in norm.named_buffers():
            self.register_buffer(name, value.detach().clone())

    def forward(self, x: Float[Tensor, "batch channel ..."]) -> Float[Tensor, "batch channel ..."]:
        """Return normalised channels."""
        along = (1, -1, *[1] * (x.ndim - 2))
        per_channel = lambda name: getattr(self, name).view(along)  # noqa: E731
        y = (x - per_channel("running_mean")) * (per_channel("running_var") + self.eps).rsqrt()
        return y * per_channel("weight") + per_channel("bias") if self.affine else y
