"""Configuration of the encoder for any network (section `encoder:`)."""

from typing import Annotated

from msgspec import Meta

from wscore.config import Section

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
LatentDim = Annotated[int, Meta(ge=1)]


class EncoderConfig(Section):
    """Training of a weight encoder; no labels are used.

    Args:
        distilled: share of the latent that is trained to predict outputs; the rest are principal components of the features.
        probes: synthetic images on which networks are run.
        probe_steps: optimisation steps that synthesise them from the training networks.
        hidden_dim: hidden width.
        layers: hidden layers.
        dropout: rate of hidden units.
        noise: standard deviation of the noise on the features, in their standard deviations.
        blank: share of the features that are hidden in a step, and of networks without outputs of their chain.
        epochs: maximum number of passes over the training networks.
        batch_size: networks per step.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        patience: epochs without improvement before training stops.
        seed: for probes, initial weights, damage, noise and batch order.
    """

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
