"""Autoencoder of tokenized networks: encoder and decoder can be saved, loaded and used separately."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.models.registry import ARCHITECTURES, sides_of
from wscore.autoencoder.models.vae import Posterior
from wscore.config import Section
from wscore.errors import ModelError
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import Items, TokenCache
from wscore.training.model_folder import load_model, register, save_model


class AutoencoderConfig(Section):
    """One side of an autoencoder.

    Args:
        network: its architecture, one of `ARCHITECTURES`.
    """

    network: Any

    def __post_init__(self) -> None:
        """Make the configuration of the architecture from plain data."""
        if isinstance(self.network, Mapping):
            name = self.network.get("arch")
            if name not in ARCHITECTURES:
                raise ValueError(f"Expected `arch` to be one of {', '.join(ARCHITECTURES)}, got {name!r}")
            network = msgspec.convert(dict(self.network), ARCHITECTURES[name].config, strict=True)
            msgspec.structs.force_setattr(self, "network", network)
        sides_of(self.network)


class Reconstruction(NamedTuple):
    """Output of an autoencoder for a batch.

    Attributes:
        latent: one vector per sequence.
        tokens: normalised reconstructed tokens, zero at padding.
        posterior: of the latents; None for a deterministic encoder.
    """

    latent: Float[Tensor, "batch latent"]
    tokens: Float[Tensor, "batch token dim"]
    posterior: Posterior | None = None


@register
class Encoder(nn.Module):
    """Encodes token sequences as latents."""

    folder_format: ClassVar[int] = 3

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = sides_of(config.network).encoder(config.network)

    @property
    def latent_dim(self) -> int:
        """Latent dimension."""
        return self.config.network.latent_dim

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch latent"]:
        """Return one latent per sequence; padding has no influence."""
        return self.network(batch)  # (B, Z)

    def posterior(self, batch: TokenBatch) -> Posterior | None:
        """Return the Gaussian over the latent of every sequence, whose mean `forward` returns; None without one."""
        posterior: Callable[[TokenBatch], Posterior] | None = getattr(self.network, "posterior", None)
        return None if posterior is None else posterior(batch)

    def draw(self, posterior: Posterior) -> Float[Tensor, "batch latent"]:
        """Return the latents fed to the decoder: samples if encoding is `sampled` and in training mode, else means."""
        sampled = self.training and getattr(self.config.network, "encoding", "") == "sampled"
        return posterior.sample() if sampled else posterior.mean


@register
class Decoder(nn.Module):
    """Decodes latents to token sequences."""

    folder_format: ClassVar[int] = 2

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = sides_of(config.network).decoder(config.network)

    def forward(self, latent: Float[Tensor, "batch latent"], batch: TokenBatch) -> Float[Tensor, "batch token dim"]:
        """Return tokens from latents; only mask and features of the batch are used. Padding is zero."""
        return self.network(latent, batch)  # (B, T, D)


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

    def encode(self, batch: TokenBatch) -> tuple[Float[Tensor, "batch latent"], Posterior | None]:
        """Return latents (samples while training a sampled VAE) and, for a VAE, their posterior."""
        posterior = self.encoder.posterior(batch)
        return (self.encoder(batch) if posterior is None else self.encoder.draw(posterior)), posterior

    def forward(self, batch: TokenBatch) -> Reconstruction:
        """Return latents and the tokens reconstructed from them."""
        latent, posterior = self.encode(batch)  # (B, Z)
        tokens = self.decoder(latent, batch)  # (B, T, D)
        assert tokens.shape == batch.tokens.shape, "a loss would broadcast"
        return Reconstruction(latent, tokens, posterior)


@torch.no_grad()
def reconstruct_to_model_weights(
    decoder: Decoder, latent: Float[Tensor, "batch latent"], cache: TokenCache, items: Items
) -> list[dict[str, Tensor]]:
    """Return one state dict per network from latents, on the original weight scale, ready for `load_state_dict`.

    Args:
        decoder: of the autoencoder.
        latent: one vector per item.
        cache: provides layout and normalisation of the items.
        items: indices of whole networks, i.e. all windows of a network that is cut into windows.

    Raises:
        DataError: if a window of a network is missing.
    """
    tokens = decoder(latent, cache.batch(items))  # (B, T, D)
    vectors, table = cache.to_weights(items, tokens), cache.table
    names = dict(zip(table["row"].tolist(), table["layout"].tolist(), strict=True))
    layouts = [cache.layouts[names[int(row)]] for row in cache.networks(items)]
    return [
        {name: tensor.clone() for name, tensor in layout.unflatten(torch.from_numpy(vector)).items()}
        for layout, vector in zip(layouts, vectors, strict=True)
    ]


def save_autoencoder(folder: Path, model: Autoencoder, *, extra: Mapping[str, Any]) -> None:
    """Write both sides as model folders `encoder` and `decoder`, which can be loaded independently."""
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
