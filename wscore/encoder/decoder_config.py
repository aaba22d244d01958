"""Configuration of the decoder (section `decoder:`)."""

from typing import Annotated

from msgspec import Meta

from wscore.config import Section

Positive = Annotated[int, Meta(ge=1)]


class DecoderConfig(Section):
    """Training of the decoder of the weight encoder: see params.yaml."""

    memory: Positive
    hidden_dim: Positive
    rank: Annotated[int, Meta(ge=8)]
    layers: Positive
    heads: Positive
    exemplars: Positive
    choice_steps: Positive
    steps: Positive
    images: Positive
    step_images: Positive
    batch_size: Positive
    noise: Annotated[float, Meta(ge=0)]
    lr: Annotated[float, Meta(gt=0)]
    seed: Annotated[int, Meta(ge=0)]
