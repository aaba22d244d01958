"""Measures the accuracy of networks on images."""

import os
import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wscore.cli.networks import LoadedNetwork
from wscore.errors import DataError, ModelError
from wscore.networks.architectures import build, parse
from wscore.networks.checkpoints import BROKEN, shown
from wscore.networks.factories import import_factory, misfit
from wscore.networks.images import ImagesConfig, load_images
from wscore.networks.known_layouts import KnownLayouts
from wscore.networks.layout import layout_of

FIX = "name it with --architecture: JSON, or package.module:function that returns it"
SIZES = (8, 28, 32, 64, 224)  # of images on which a network is tried whose input is not known


class RunnableNetwork:
    """A network with its architecture.

    Args:
        network: of known architecture; its tensors may have other names.

    Attributes:
        module: with the weights of the network, in evaluation mode.

    Raises:
        DataError: if the architecture is unknown, or can't be built.
        ModelError: if it has other tensors.
    """

    def __init__(self, network: LoadedNetwork) -> None:
        self.module = build_architecture(network.architecture, where=network.name).eval()
        layout = layout_of(self.module.state_dict())
        match = KnownLayouts({layout.identity: layout}).match(network.layout)
        if match is None:
            reason = misfit(self.module.state_dict(), network.layout)
            raise ModelError("does not fit its architecture", where=network.name, got=reason or "other tensors")
        self.names = match.names
        self.input = parse(network.architecture).input if is_json(network.architecture) else None
        self.load(network.state)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Give the module the weights of another network with the same names."""
        self.module.load_state_dict({known: state[name] for known, name in self.names.items()}, strict=False)

    def example(self) -> Tensor:
        """Return random images that the module takes.

        Raises:
            DataError: if it takes none that were tried.
        """
        first = next((tensor for tensor in self.module.state_dict().values() if tensor.ndim > 1), torch.ones(1, 1))
        channels, reason = first.shape[1], ""
        sizes = [(channels, size, size) for size in SIZES] if first.ndim == 4 else [(channels,)]
        for shape in [self.input] if self.input else [*sizes, (1, 8, 8), (1, 28, 28), (3, 32, 32)]:
            images = torch.rand(4, *shape)
            try:
                with torch.no_grad():
                    self.module(images)
            except BROKEN as error:
                reason = shown(error)
            else:
                return images
        raise DataError("the architecture can't be run on images", where="--architecture", got=reason)


class Judge:
    """Evaluates networks of one architecture on the test images of a data set.

    Args:
        dataset: as `data.dataset`.
        network: whose architecture is known.

    Raises:
        DataError: if the images don't fit the architecture; or as `RunnableNetwork`.
        ModelError: as `RunnableNetwork`.
    """

    def __init__(self, dataset: str, network: LoadedNetwork) -> None:
        self.network = RunnableNetwork(network)
        shape = self.network.input
        images = load_images(
            ImagesConfig(
                dataset=dataset, root=None, revision=None, size=shape[1] if shape else None, max_train=None, max_test=None,
                normalize=None,
            )
        )  # fmt: skip
        self.images, self.labels, self.training = images.x_test, images.y_test, images.x_train
        if shape and tuple(self.images.shape[1:]) != shape:
            raise DataError(
                "images don't fit the network", where=dataset, expected=shape, got=tuple(self.images.shape[1:])
            )

    def accuracy(self, state: Mapping[str, Tensor]) -> float:
        """Return the test accuracy of a network."""
        return float((self.logits(state).argmax(dim=-1) == self.labels).float().mean())

    @torch.no_grad()
    def logits(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the logits (images, classes) of a network on the test images.

        Raises:
            DataError: if they don't fit it.
        """
        self.network.load(state)
        try:
            return self.network.module(self.images)
        except BROKEN as error:
            raise DataError("images don't fit the network", where="--images", got=shown(error)) from error


def is_json(architecture: str) -> bool:
    """Return whether an architecture is described by JSON."""
    return architecture.lstrip().startswith("{")


def build_architecture(architecture: str, *, where: str) -> nn.Module:
    """Return the module of an architecture, given as JSON or `package.module:function`.

    Raises:
        DataError: if it is unknown, or the function fails or returns something else.
        ConfigError: if there is no such function.
    """
    if not architecture:
        raise DataError("the architecture of this network is unknown, so it cannot be run", where=where, fix=FIX)
    if is_json(architecture) or ":" not in architecture:
        return build(architecture)
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    function = import_factory(architecture, architecture, where="--architecture")
    try:
        module = function()
    except BROKEN as error:
        raise DataError(f"{architecture} fails", where="--architecture", got=shown(error)) from error
    if not isinstance(module, nn.Module):
        raise DataError(
            f"{architecture} returns no network",
            where="--architecture",
            expected="nn.Module",
            got=type(module).__name__,
        )
    return module
