"""What may be done to decoded networks before they are used: norms of tensors restored, running statistics recomputed.

A decoder that minimises an error shrinks what it can't tell, and with batch normalisation a network depends on running statistics
that fit its own weights, not those of the original. One float per tensor repairs the first, images of the task the second.
"""

import copy
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from wscore.config import Section
from wscore.networks.architectures import Architecture
from wscore.networks.layout import Layout
from wscore.networks.stacked import StackedBatchNorm2d, run, skeleton

AT_ONCE = 8  # networks whose statistics are recomputed together
STATISTICS = ("running_mean", "running_var")


class DecodeConfig(Section):
    """What is done to decoded networks (section `decode:`).

    Args:
        norms: keep the norm of every tensor, one more stored float each, and give it back to what was decoded.
        batch_norm_images: training images on which running means and variances are computed anew; 0 takes them as decoded.
        seed: of the drawn images.
    """

    norms: bool
    batch_norm_images: Annotated[int, Meta(ge=0)]
    seed: Annotated[int, Meta(ge=0)]


def tensor_norms(
    layout: Layout, vectors: Float[np.ndarray, "networks weights"]
) -> Float[np.ndarray, "networks tensors"]:
    """Return the Euclidean norm of every tensor, in the order of the layout, as float32."""
    parts = [np.linalg.norm(vectors[:, part].astype(np.float64), axis=1) for part in layout.slices().values()]
    return np.stack(parts, axis=1).astype(np.float32)


def restore_norms(
    layout: Layout, vectors: Float[np.ndarray, "networks weights"], norms: Float[np.ndarray, "networks tensors"]
) -> Float[np.ndarray, "networks weights"]:
    """Return networks whose tensors have these norms and the direction that they had.

    A tensor that is zero or has a value that is not finite stays as it is.
    """
    result = np.array(vectors, np.float32)
    own = tensor_norms(layout, vectors)
    for place, part in enumerate(layout.slices().values()):
        usable = np.isfinite(own[:, place]) & (own[:, place] > 0)
        result[:, part] *= np.where(usable, norms[:, place] / np.where(usable, own[:, place], 1), 1)[:, None]
    return result


def has_statistics(layout: Layout) -> bool:
    """Return whether networks of this layout keep running statistics."""
    return any(tensor.kind in STATISTICS for tensor in layout.tensors)


@torch.no_grad()
def recompute_statistics(
    architecture: Architecture,
    layout: Layout,
    vectors: Float[np.ndarray, "networks weights"],
    images: Float[Tensor, "images channel height width"],
) -> Float[np.ndarray, "networks weights"]:
    """Return networks whose running means and variances are those of all images at once, each layer's after those before it.

    As `torch.optim.swa_utils.update_bn` on one batch, for many networks: m = mean x, v = sum (x - m)^2 / (n - 1) over images
    and positions. All other weights stay as they are.

    Args:
        architecture: of all networks.
        layout: of their state dicts.
        vectors: the networks (n, D).
        images: of the task, from the training split.
    """
    if not has_statistics(layout):
        return vectors
    network = copy.deepcopy(skeleton(architecture)).train()
    for layer in network.modules():
        if isinstance(layer, StackedBatchNorm2d):
            layer.momentum = 1.0  # the statistics of the last batch, which is the only one
    columns = np.concatenate(
        [np.arange(part.start, part.stop) for tensor, part in zip(layout.tensors, layout.slices().values(), strict=True)
         if tensor.kind in STATISTICS]
    )  # fmt: skip
    result = np.array(vectors, np.float32)
    for start in range(0, len(result), AT_ONCE):
        some = torch.from_numpy(result[start : start + AT_ONCE])
        state = {name: tensor.clone() for name, tensor in layout.unflatten(some).items()}
        run(network, state, images)  # writes running statistics into `state`
        found = torch.cat([state[tensor.name].flatten(1) for tensor in layout.tensors], dim=1).numpy()
        result[start : start + AT_ONCE, columns] = found[:, columns]
    return result
