"""Many networks of one architecture run at once: stacked weight vectors in, logits and scores out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.networks.architectures import Architecture, parse
from wscore.networks.layout import Layout
from wscore.networks.stacked import run, skeleton

IMAGES = 256  # that are run at once
CHUNK = 4096  # networks x images that are run at once


def logits(
    architecture: Architecture | str,
    layout: Layout,
    vectors: Float[Tensor, "networks weights"],
    images: Float[Tensor, "images channel height width"],
) -> Float[Tensor, "networks images classes"]:
    """Return the logits of every network on every image: evaluation mode, no gradient, on the device of the vectors."""
    known = parse(architecture) if isinstance(architecture, str) else architecture
    network = skeleton(known)
    images = images.to(vectors.device)
    with torch.no_grad():
        rows = [
            torch.cat([run(network, layout.unflatten(part), some) for some in images.split(IMAGES)], dim=1)
            for part in vectors.float().split(CHUNK // IMAGES)
        ]
    return torch.cat(rows) if rows else vectors.new_zeros(0, len(images), known.classes)


def scores(
    logits: Float[Tensor, "networks images classes"], labels: Int[Tensor, " images"]
) -> tuple[Float[Tensor, " networks"], Float[Tensor, " networks"]]:
    """Return accuracy and mean cross-entropy (nats) of every network."""
    labels = labels.to(logits.device)
    accuracy = (logits.argmax(-1) == labels).float().mean(-1)
    target = labels.expand(logits.shape[:2])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return accuracy, loss.unflatten(0, logits.shape[:2]).mean(-1)
