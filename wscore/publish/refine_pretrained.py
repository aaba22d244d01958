"""Refines the latents of a network with published models only."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.coding.refine import Problem, RefineConfig, draw_images, encode_refined
from wscore.autoencoder.decode_weights import runnable_weights
from wscore.autoencoder.models.autoencoder import read_latent_code
from wscore.errors import ModelError
from wscore.networks.inference import ModuleAnswer, differentiable
from wscore.networks.layout import Layout, layout_of
from wscore.publish.pretrained import PublishedDecoder, PublishedEncoder


def refined_latents(
    encoder: PublishedEncoder,
    decoder: PublishedDecoder,
    network: nn.Module,
    images: Float[Tensor, "all ..."],
    config: RefineConfig,
) -> Float[Tensor, "window ..."]:
    """Return latents of a network, one per window, optimised for its outputs on images, after storage rounding.

    Args:
        encoder: gives the initial latents.
        decoder: of the same publication; not changed.
        network: an image classifier (images to logits); put into evaluation mode, its weights are not changed.
        images: inputs of the network, such as its training images; labels are not needed.
        config: number of steps and images of the optimisation.

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
    code = read_latent_code(encoder.facts, where="config.json")
    return encode_refined(problem, start.reshape(1, -1), code, config, decode.frame.layouts).reshape(shape)


class _Decode:
    """Raw weights (n, D) of latents (n, K) of networks of one layout, K numbers for all windows of a network."""

    def __init__(self, decoder: PublishedDecoder, layout: Layout, shape: tuple[int, ...]) -> None:
        self.codec, self.model, self.layout, self.shape = decoder.codec, decoder.model, layout, shape
        self.frame = decoder.codec.encode(layout, np.zeros((1, layout.size), np.float32))

    def __call__(self, latents: Tensor) -> Tensor:
        rows = latents.reshape(len(latents) * self.shape[0], *self.shape[1:])
        return runnable_weights(self.codec, self.layout, self.model(rows, self.frame.repeat(len(latents))))
