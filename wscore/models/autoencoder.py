"""Autoencoder of tokenized networks: an encoder and a decoder that are saved, loaded and used each on its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.errors import ModelError
from wscore.models.folder import load_model, register, save_model
from wscore.models.linear import LinearConfig, LinearDecoder, LinearEncoder
from wscore.models.mlp import MlpConfig, MlpDecoder, MlpEncoder
from wscore.models.transformer import TransformerConfig, TransformerDecoder, TransformerEncoder
from wscore.tokens.batch import TokenBatch


class Architecture(NamedTuple):
    """The two sides of an architecture, both built from its configuration."""

    encoder: type[nn.Module]
    decoder: type[nn.Module]


#: One entry per value of `ae.arch`: the configuration class says which.
ARCHITECTURES: Mapping[type[Section], Architecture] = {
    MlpConfig: Architecture(MlpEncoder, MlpDecoder),
    TransformerConfig: Architecture(TransformerEncoder, TransformerDecoder),
}


class AutoencoderConfig(Section):
    """One side of an autoencoder.

    Args:
        network: nonlinear part.
        linear: linear part beside it, or none.
    """

    network: MlpConfig | TransformerConfig
    linear: LinearConfig | None


class Reconstruction(NamedTuple):
    """What an autoencoder makes of a batch.

    Attributes:
        latent: one vector per sequence.
        tokens: normalised tokens, zero where there is padding.
    """

    latent: Float[Tensor, "batch latent"]
    tokens: Float[Tensor, "batch token dim"]


@register
class Encoder(nn.Module):
    """z = linear(x) + network(x). With a linear path the network starts at zero, so that z starts as its projection."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = ARCHITECTURES[type(config.network)].encoder(config.network)
        self.linear = None if config.linear is None else LinearEncoder(config.linear)
        if self.linear is not None:
            _start_at_zero(self.network)

    @property
    def latent_dim(self) -> int:
        """Numbers per latent."""
        return self.config.network.latent_dim

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch latent"]:
        """Return one latent per sequence; padding has no influence."""
        latent = self.network(batch)  # (B, Z)
        return latent if self.linear is None else latent + self.linear(batch)  # (B, Z)


@register
class Decoder(nn.Module):
    """x = linear(z) + network(z). With a linear path the network starts at zero."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = ARCHITECTURES[type(config.network)].decoder(config.network)
        self.linear = None if config.linear is None else LinearDecoder(config.linear)
        if self.linear is not None:
            _start_at_zero(self.network)

    def forward(self, latent: Float[Tensor, "batch latent"], batch: TokenBatch) -> Float[Tensor, "batch token dim"]:
        """Return tokens from latents; of the batch only mask and features are looked at. Padding comes out as zero."""
        tokens = self.network(latent, batch)  # (B, T, D)
        return tokens if self.linear is None else tokens + self.linear(latent, batch)  # (B, T, D)


class Autoencoder(nn.Module):
    """decoder(encoder(x)).

    Args:
        config: of both sides.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, batch: TokenBatch) -> Reconstruction:
        """Return latents and reconstructed tokens."""
        latent = self.encoder(batch)  # (B, Z)
        return Reconstruction(latent, self.decoder(latent, batch))


def save_autoencoder(folder: Path, model: Autoencoder, *, extra: Mapping[str, Any]) -> None:
    """Write both sides as model folders `encoder` and `decoder`, each of which can be loaded without the other."""
    save_model(folder / "encoder", model.encoder, extra=extra)
    save_model(folder / "decoder", model.decoder, extra=extra)


def load_autoencoder(folder: Path) -> Autoencoder:
    """Return both sides as one model, in evaluation mode.

    Raises:
        ModelError: if a side is missing, altered or of another class, or the two do not belong together.
    """
    encoder, decoder = load_model(folder / "encoder", Encoder), load_model(folder / "decoder", Decoder)
    if encoder.config != decoder.config:
        raise ModelError(
            "encoder and decoder do not belong together", where=folder, fix="run `dvc repro train_autoencoder`"
        )
    model = Autoencoder(encoder.config)
    model.encoder, model.decoder = encoder, decoder
    return model.eval()


def _start_at_zero(network: Any) -> None:
    """Set the last layer of a network to zero; it learns all the same, since what enters it isn't."""
    nn.init.zeros_(network.outputs.weight)
    nn.init.zeros_(network.outputs.bias)
