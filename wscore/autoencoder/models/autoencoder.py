"""Autoencoder of tokenized networks: encoder and decoder can be saved, loaded and used separately."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.coding.entropy import Code, EntropyCode
from wscore.autoencoder.coding.uniform import LatentCode
from wscore.autoencoder.models.linear_path import LinearConfig, LinearDecoder, LinearEncoder
from wscore.autoencoder.models.mlp import MlpConfig, MlpDecoder, MlpEncoder
from wscore.autoencoder.models.transformer import TransformerConfig, TransformerDecoder, TransformerEncoder
from wscore.autoencoder.models.vae import Posterior, VaeConfig, VaeDecoder, VaeEncoder
from wscore.config import Section, convert, to_plain
from wscore.errors import ModelError
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import Items, TokenCache
from wscore.training.model_folder import load_model, read_model_config, register, save_model

LEADING = 512  # number of leading principal directions used by heads


class Sides(NamedTuple):
    """The two sides of an architecture, both built from its configuration."""

    encoder: type[nn.Module]
    decoder: type[nn.Module]


#: One entry per value of `ae.arch`, selected by the configuration class.
ARCHITECTURES: Mapping[type[Section], Sides] = {
    MlpConfig: Sides(MlpEncoder, MlpDecoder),
    TransformerConfig: Sides(TransformerEncoder, TransformerDecoder),
    VaeConfig: Sides(VaeEncoder, VaeDecoder),
}


class AutoencoderConfig(Section):
    """One side of an autoencoder.

    Args:
        network: nonlinear part.
        linear: parallel linear path, or none.
    """

    network: MlpConfig | TransformerConfig | VaeConfig
    linear: LinearConfig | None


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
    """z = linear(x) + network(x). With a linear path the network initially outputs zero, so that z starts as its projection.

    Since format 2 of its folders the linear path inverts the decoder's bound on weights with a floor. Folders of
    format 1 without a linear path can still be loaded.
    """

    folder_format: ClassVar[int] = 2

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = ARCHITECTURES[type(config.network)].encoder(config.network)
        self.linear = None if config.linear is None else LinearEncoder(config.linear)
        if self.linear is not None:
            _start_at_zero(self.network)

    @staticmethod
    def upgraded(config: Any, format: int) -> Any:  # noqa: A002, ARG004
        """Return the configuration in a folder of an older format, or None if its linear path gives different latents."""
        return config if isinstance(config, dict) and config.get("linear") is None else None

    @property
    def latent_dim(self) -> int:
        """Latent dimension."""
        return self.config.network.latent_dim

    @property
    def leading(self) -> int:
        """Number of latent dimensions used by heads: at most `LEADING` with a linear path, whose dimensions are ordered."""
        return self.latent_dim if self.linear is None else min(self.latent_dim, LEADING)

    def forward(self, batch: TokenBatch) -> Float[Tensor, "batch latent"]:
        """Return one latent per sequence; padding has no influence."""
        latent = self.network(batch)  # (B, Z)
        return latent if self.linear is None else latent + self.linear(batch)  # (B, Z)

    def posterior(self, batch: TokenBatch) -> Posterior | None:
        """Return the Gaussian over the latent of every sequence, whose mean `forward` returns; None without one."""
        if not isinstance(self.network, VaeEncoder):
            return None
        found = self.network.posterior(batch)
        return found if self.linear is None else found._replace(mean=found.mean + self.linear(batch))

    def draw(self, posterior: Posterior) -> Float[Tensor, "batch latent"]:
        """Return the latents fed to the decoder: samples if encoding is `sampled` and in training mode, else means."""
        sampled = self.training and getattr(self.config.network, "encoding", "") == "sampled"
        return posterior.sample() if sampled else posterior.mean


@register
class Decoder(nn.Module):
    """x = bound(linear(z) + network(z)), see `LinearDecoder`. With a linear path the network initially outputs zero."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = ARCHITECTURES[type(config.network)].decoder(config.network)
        self.linear = None if config.linear is None else LinearDecoder(config.linear)
        if self.linear is not None:
            _start_at_zero(self.network)

    def forward(self, latent: Float[Tensor, "batch latent"], batch: TokenBatch) -> Float[Tensor, "batch token dim"]:
        """Return tokens from latents; only mask and features of the batch are used. Padding is zero."""
        tokens = self.network(latent, batch)  # (B, T, D)
        return tokens if self.linear is None else self.linear(latent, batch, tokens)  # (B, T, D)


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

    def forward(self, batch: TokenBatch, code: Code | None = None) -> Reconstruction:
        """Return latents and the tokens reconstructed from them.

        With a code the tokens are decoded from quantised latents; the rounding uses a straight-through gradient.
        """
        latent, posterior = self.encode(batch)  # (B, Z)
        stored = latent if code is None else latent + (code.rounded(latent.detach(), batch.layouts) - latent.detach())
        tokens = self.decoder(stored, batch)  # (B, T, D)
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


def save_autoencoder(folder: Path, model: Autoencoder, *, extra: Mapping[str, Any], code: Code | None = None) -> None:
    """Write both sides as model folders `encoder` and `decoder`, which can be loaded independently.

    The code of the latents is stored in the configuration of both, as `latent_code`.
    """
    extra = {**extra, **({} if code is None else {"latent_code": to_plain(code)})}
    save_model(folder / "encoder", model.encoder, extra=extra)
    save_model(folder / "decoder", model.decoder, extra=extra)


def load_latent_code(folder: Path) -> Code | None:
    """Return the latent code of an encoder or decoder in a folder; None if it has none."""
    return read_latent_code(read_model_config(folder), where=folder)


def read_latent_code(facts: Mapping[str, Any], *, where: object) -> Code | None:
    """Return the latent code in the configuration of a model folder; old ones have equal bits per dimension."""
    found, kinds = facts.get("latent_code"), {"uniform": LatentCode, "waterfilling": EntropyCode}
    if found is None:
        return None
    allocation = found.get("allocation", "uniform")
    if allocation not in kinds:
        raise ModelError("unknown allocation of bits", where=where, expected=" or ".join(kinds), got=allocation)
    return convert({**found, "allocation": allocation}, kinds[allocation], where=f"{where}: latent_code")


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
    """Set the last layer of a network to zero; it still gets gradients, since its inputs are non-zero."""
    nn.init.zeros_(network.outputs.weight)
    nn.init.zeros_(network.outputs.bias)
