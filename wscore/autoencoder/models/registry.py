"""The architectures of the autoencoder: one line for each value of `ae.arch`."""

from typing import NamedTuple

from torch import nn

from wscore.autoencoder.models.mlp import MlpConfig, MlpDecoder, MlpEncoder
from wscore.autoencoder.models.transformer import TransformerConfig, TransformerDecoder, TransformerEncoder
from wscore.autoencoder.models.vae import VaeConfig, VaeDecoder, VaeEncoder
from wscore.config import Section


class Sides(NamedTuple):
    """An architecture.

    Attributes:
        config: what both sides are built from. Its fields are filled by name: from section `ae` and its `vae`, with
            `token_dim` and `max_tokens` of the tokens, and `weights` of the largest network.
        encoder: from a batch of token sequences to latents (B, latent_dim).
        decoder: from latents and a batch, of which it uses mask and features, to tokens.
    """

    config: type[Section]
    encoder: type[nn.Module]
    decoder: type[nn.Module]


ARCHITECTURES: dict[str, Sides] = {
    "mlp": Sides(MlpConfig, MlpEncoder, MlpDecoder),
    "transformer": Sides(TransformerConfig, TransformerEncoder, TransformerDecoder),
    "vae": Sides(VaeConfig, VaeEncoder, VaeDecoder),
}


def sides_of(config: object) -> Sides:
    """Return the architecture of a configuration.

    Raises:
        ValueError: if it belongs to none.
    """
    for sides in ARCHITECTURES.values():
        if sides.config is type(config):
            return sides
    raise ValueError(f"{type(config).__name__} belongs to no architecture of {', '.join(ARCHITECTURES)}")
