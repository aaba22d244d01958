"""Latents of one network, refined with published files alone."""

from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import convert
from wscore.errors import ModelError
from wscore.models.latent_code import FLOAT, LatentCode
from wscore.publish.load import PublishedDecoder, PublishedEncoder
from wscore.tokens.batch import TokenBatch
from wscore.training.rebuild import Codec, ModuleAnswer
from wscore.training.refine import Problem, RefineConfig, draw_images, refine, store
from wscore.zoo.layout import Layout, layout_of


def refined_latents(
    encoder: PublishedEncoder,
    decoder: PublishedDecoder,
    network: nn.Module,
    images: Float[Tensor, "all ..."],
    config: RefineConfig,
) -> Float[Tensor, "window ..."]:
    """Return latents of a network, one per window, fitted to what it answers on images, as they come back from store.

    Args:
        encoder: gives the latents where the search begins.
        decoder: of the same publication; it stays as it is.
        network: an image classifier (images to logits); put into evaluation mode, its weights are not changed.
        images: as the network takes them, such as those it was trained on; labels are not needed.
        config: how long to search, and on how many of the images.

    Raises:
        ModelError: if there are no images, or the network has weights that are not finite.
    """
    if not len(images):
        raise ModelError("latents can't be refined without images", expected="a batch of images", got="none")
    state = encoder.layouts.ordered(network.state_dict())
    layout = layout_of(state)
    vector = encoder.alignment.apply(layout, layout.flatten(state)[None])  # (1, D)
    start = encoder.encode_windows(state)  # (W, ...)
    shape = tuple(start.shape)
    decode, answer = _Decode(decoder, layout, shape), ModuleAnswer(differentiable(network), layout)
    problem = Problem(decode, answer, torch.from_numpy(vector).float(), draw_images(images, config))
    latents = refine(problem, start.reshape(1, -1), config)
    stored = encoder.facts.get("latent_code")
    if stored is not None:
        code = convert(stored, LatentCode, where="config.json: latent_code")
        if code.bits != FLOAT:
            latents = code.restore(store(problem, latents, code, config))
    return latents.reshape(shape)


def differentiable(network: nn.Module) -> nn.Module:
    """Return a copy whose batch norms pass gradients on to their running statistics, which torch's own do not."""
    copied = deepcopy(network).eval()
    for module in [*copied.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and child.running_mean is not None:
                setattr(module, name, _FixedNorm(child))
    return copied


class _FixedNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) w + b along axis 1, under the names of the batch norm that it stands for."""

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
        part = lambda name: getattr(self, name).view(along)  # noqa: E731
        y = (x - part("running_mean")) * (part("running_var") + self.eps).rsqrt()
        return y * part("weight") + part("bias") if self.affine else y


class _Decode:
    """Raw weights (n, D) of latents (n, K) of networks of one layout, K numbers for all windows of a network."""

    def __init__(self, decoder: PublishedDecoder, layout: Layout, shape: tuple[int, ...]) -> None:
        lengths = tuple(window.stop - window.start for window in decoder.codec.windows(layout))
        self.codec = Codec(layout, decoder.codec.tokenizer, decoder.codec.normalizer, lengths)
        self.model, self.shape = decoder.model, shape
        self.frame = decoder.codec.batch(layout, np.zeros(layout.size, np.float32))

    def __call__(self, latents: Tensor) -> Tensor:
        rows = latents.reshape(len(latents) * self.shape[0], *self.shape[1:])
        frame = TokenBatch(*(part.repeat(len(latents), *[1] * (part.ndim - 1)) for part in self.frame))
        return self.codec.weights(self.model(rows, frame))
