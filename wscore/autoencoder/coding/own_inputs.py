"""How a state dict alone is run: on inputs that the codec keeps of its zoo, with the activation and pooling that suit it best.

A state dict tells neither. Of the architectures of the zoo that have its tensors, it is run as the one with which it classifies
the inputs with the least cross-entropy: a network is rarely better with what it was not trained with. A network that is no better
than equal chances for all classes was trained on something else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wscore.errors import DataError
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import Answer, MixedAnswer, StackedAnswer, logits, scores
from wscore.networks.layout import Layout, layout_of

COUNT, LARGEST = 256, 1 << 17  # inputs of one kind that are kept, and numbers of all of them
IMAGES, LABELS = "inputs", "labels"  # before the names of their tensors


class Inputs(NamedTuple):
    """Training images and their classes."""

    images: Float[Tensor, "image channel height width"]
    labels: Int[Tensor, " image"]


class Run(NamedTuple):
    """How networks of one layout are run.

    Attributes:
        answer: returns logits.
        images: on which they are run.
        alike: whether each network classifies the images better than by equal chances.
    """

    answer: Answer
    images: Float[Tensor, "image channel height width"]
    alike: Bool[Tensor, " n"]


class Known(NamedTuple):
    """Architectures of a zoo, without widths, and inputs by what they are for, see `purpose`."""

    architectures: tuple[Architecture, ...]
    inputs: dict[str, Inputs]


def kept(runs: Iterable[tuple[Answer, Inputs]], generator: torch.Generator) -> Known:
    """Return the architectures of networks whose widths their layout tells, and a draw of their training images."""
    architectures: set[Architecture] = set()
    pools: dict[str, list[Inputs]] = {}
    for answer, inputs in runs:
        if isinstance(answer, StackedAnswer) and _widths(answer.layout) == answer.architecture.widths:
            architectures.add(_of_widths(answer.architecture, (1,)))
            pool = pools.setdefault(purpose(answer.architecture), [])
            if not any(inputs.images is other.images for other in pool):
                pool.append(inputs)
    drawn = {name: [_draw(inputs, len(pool), generator) for inputs in pool] for name, pool in pools.items()}
    joined = {name: Inputs(*map(torch.cat, zip(*parts, strict=True))) for name, parts in drawn.items()}
    return Known(tuple(sorted(architectures, key=Architecture.to_json)), joined)


def run_alone(
    layout: Layout,
    vectors: Float[Tensor, "n weights"],
    architectures: Sequence[Architecture],
    inputs: Mapping[str, Inputs],
    architecture: Architecture | None = None,
) -> Run | None:
    """Return how networks without images are run, with an architecture or the likely one; None if the zoo has none like them.

    Where images of several shapes would do, none of them is theirs for certain.
    """
    likely = [_of_widths(each, widths) for each in architectures if (widths := _widths(layout))]
    likely = likely if architecture is None else [architecture]
    fitting = {each: _fits(each, layout) for each in set(map(_plain, likely))}
    chosen = [each for each in likely if fitting[_plain(each)]]
    if len(names := {purpose(each) for each in chosen}) != 1 or not names <= inputs.keys():
        return None
    images, labels = inputs[names.pop()]
    losses = [scores(logits(StackedAnswer(each, layout), vectors, images), labels).loss for each in chosen]
    least, best = torch.nan_to_num(torch.stack(losses), nan=torch.inf).min(0)
    answer = MixedAnswer([chosen[place] for place in best.tolist()], layout)
    return Run(answer, images, least < math.log(chosen[0].classes))


def saved(inputs: Mapping[str, Inputs]) -> dict[str, Tensor]:
    """Return inputs as tensors of a file; `loaded` is the inverse."""
    images = {f"{IMAGES}/{name}": each.images.half() for name, each in inputs.items()}
    return images | {f"{LABELS}/{name}": each.labels.int() for name, each in inputs.items()}


def loaded(architectures: Sequence[Architecture], tensors: Mapping[str, Tensor], where: str) -> dict[str, Inputs]:
    """Return the inputs among the tensors of a file.

    Raises:
        DataError: if there are none for an architecture, or they are no images of its shape and classes.
    """
    found = {}
    for each in {purpose(each): each for each in architectures}.values():
        name = purpose(each)
        images, labels = (tensors.get(f"{kind}/{name}", torch.zeros(0)) for kind in (IMAGES, LABELS))
        if not (_are_images(images, each) and _are_labels(labels, len(images), each)):
            raise DataError(
                "holds no inputs", where=f"{where}: {IMAGES}/{name}", expected=f"images {each.input} and their classes",
                got=f"{tuple(images.shape)} and {tuple(labels.shape)}",
            )  # fmt: skip
        found[name] = Inputs(images.float(), labels.long())
    return found


def purpose(architecture: Architecture) -> str:
    """Return shape and count of classes of what an architecture is for, such as 1x8x8-10."""
    return f"{'x'.join(map(str, architecture.input))}-{architecture.classes}"


def _are_images(images: Tensor, architecture: Architecture) -> bool:
    floats = images.is_floating_point() and bool(images.isfinite().all())
    return floats and images.ndim == 4 and len(images) > 0 and images.shape[1:] == architecture.input


def _are_labels(labels: Tensor, count: int, architecture: Architecture) -> bool:
    whole = labels.dtype in (torch.int32, torch.int64) and labels.shape == (count,)
    return whole and bool(((labels >= 0) & (labels < architecture.classes)).all())


def _draw(inputs: Inputs, pools: int, generator: torch.Generator) -> Inputs:
    count = max(1, min(COUNT, LARGEST // max(inputs.images[0].numel(), 1)) // pools)
    places = torch.randperm(len(inputs.images), generator=generator)[:count]
    return Inputs(inputs.images[places].half().float(), inputs.labels[places].long())


def _widths(layout: Layout) -> tuple[int, ...]:
    """Return the rows of the first matrix of each layer or block but the last."""
    rows: dict[str, int] = {}
    for spec in layout.tensors:
        if len(spec.shape) > 1:
            rows.setdefault(spec.name.partition(".")[0], spec.shape[0])
    return tuple(rows.values())[:-1]


def _plain(architecture: Architecture) -> Architecture:
    """Return the same for all architectures of equal tensors."""
    pooling = "none" if architecture.pooling == "none" else "max"
    return msgspec.structs.replace(architecture, activation="relu", pooling=pooling)


def _fits(architecture: Architecture, layout: Layout) -> bool:
    try:
        with torch.device("meta"):
            return layout_of(build(architecture).state_dict()).tensors == layout.tensors
    except DataError:  # images too small for so many layers
        return False


def _of_widths(architecture: Architecture, widths: tuple[int, ...]) -> Architecture:
    return msgspec.structs.replace(architecture, widths=widths)
