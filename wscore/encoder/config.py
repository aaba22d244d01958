"""Configuration of the encoder for any network (section `encoder:`)."""

from typing import Annotated

from msgspec import Meta

from wscore.config import Section

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
LatentDim = Annotated[int, Meta(ge=1)]


class EncoderConfig(Section):
    """Training of a weight encoder, without labels (section `encoder:`)."""

    distilled: Share
    probes: Positive
    probe_steps: Positive
    hidden_dim: Positive
    layers: Positive
    dropout: Share
    noise: Annotated[float, Meta(ge=0)]
    blank: Share
    epochs: Positive
    batch_size: Annotated[int, Meta(ge=2)]
    lr: Annotated[float, Meta(gt=0)]
    weight_decay: Annotated[float, Meta(ge=0)]
    patience: Positive
    seed: Annotated[int, Meta(ge=0)]
