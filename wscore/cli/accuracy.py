"""Measures the accuracy of networks on images."""

from collections.abc import Mapping

import torch
from torch import Tensor

from wscore.errors import DataError
from wscore.networks.architectures import build, parse
from wscore.networks.images import ImagesConfig, load_images


class Judge:
    """Evaluates networks of one architecture on the test images of a data set.

    Args:
        dataset: as `data.dataset`.
        architecture: JSON text.

    Raises:
        DataError: if the architecture is unknown, or the images don't fit it.
    """

    def __init__(self, dataset: str, architecture: str) -> None:
        known = parse(architecture)
        size = known.input[1]
        images = load_images(
            ImagesConfig(
                dataset=dataset, root=None, revision=None, size=size, max_train=None, max_test=None, normalize=None
            )
        )
        self.network = build(known).eval()
        self.images, self.labels, self.training = images.x_test, images.y_test, images.x_train
        if tuple(self.images.shape[1:]) != known.input:
            raise DataError("images don't fit the network", where=dataset, expected=known.input,
                            got=tuple(self.images.shape[1:]))  # fmt: skip

    def accuracy(self, state: Mapping[str, Tensor]) -> float:
        """Return the test accuracy of a network."""
        return float((self.logits(state).argmax(dim=-1) == self.labels).float().mean())

    @torch.no_grad()
    def logits(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the logits (images, classes) of a network on the test images."""
        self.network.load_state_dict(dict(state))
        return self.network(self.images)
