"""Configuration of the decoder (section `decoder:`)."""

from typing import Annotated

from msgspec import Meta

from wscore.config import Section

Positive = Annotated[int, Meta(ge=1)]


class DecoderConfig(Section):
    """Training of the decoder of the weight encoder.

    Args:
        memory: vectors made of the latent, which the queries attend to.
        hidden_dim: size of vectors, a multiple of heads.
        rank: numbers in which weights of a unit and of an input meet.
        layers: blocks of cross-attention, self-attention and perceptron.
        heads: attention heads.
        prototypes: training networks of each layout that decoded networks start from.
        choice_steps: steps in which the choice of a prototype is learned.
        steps: steps in which decoded networks learn the outputs of each network.
        images: training images on which outputs are compared.
        step_images: of them in a step.
        batch_size: networks per step.
        noise: standard deviation of the noise on latents in training.
        lr: peak learning rate of AdamW.
        seed: for initial weights, images, noise and order.
    """

    memory: Positive
    hidden_dim: Positive
    rank: Annotated[int, Meta(ge=8)]
    layers: Positive
    heads: Positive
    prototypes: Positive
    choice_steps: Positive
    steps: Positive
    images: Positive
    step_images: Positive
    batch_size: Positive
    noise: Annotated[float, Meta(ge=0)]
    lr: Annotated[float, Meta(gt=0)]
    seed: Annotated[int, Meta(ge=0)]
