"""Networks from a latent of the weight encoder and back, as a method of the autoencoder's evaluation."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wscore.encoder.weight_encoder import WeightEncoder
from wscore.networks.layout import Layout


@runtime_checkable
class Networks(Protocol):
    """Networks of one layout."""

    @property
    def layout(self) -> Layout:
        """Layout of all of them."""
        ...

    @property
    def weights(self) -> np.ndarray:
        """Their weights (n, D)."""
        ...


class LatentReconstruction:
    """Networks that the decoder makes of latents, which do not know the order of hidden units.

    Args:
        encoder: of any network, with its decoder.
    """

    def __init__(self, encoder: WeightEncoder) -> None:
        self.encoder = encoder

    def restore(self, group: Networks) -> Float[np.ndarray, "networks weights"]:
        """Return the networks after encoding and decoding."""
        latents = self.encoder.encode_many(group.layout, group.weights).latents
        return self.encoder.decoder.decode(latents, group.layout).numpy()

    def floats(self, layout: Layout) -> float:  # noqa: ARG002
        """Return the floats stored for a network: its latent and the number of its layout."""
        return self.encoder.latent_dim + 1.0


class TypicalNetwork:
    """The first exemplar of the decoder for all networks of a layout: what it does without the latent.

    Args:
        encoder: with its decoder.
    """

    def __init__(self, encoder: WeightEncoder) -> None:
        self.encoder = encoder

    def restore(self, group: Networks) -> Float[np.ndarray, "networks weights"]:
        """Return the same network for all."""
        return np.tile(self.encoder.decoder.typical(group.layout).numpy(), (len(group.weights), 1))

    def floats(self, layout: Layout) -> float:  # noqa: ARG002
        """Return the floats stored for a network: the number of its layout."""
        return 1.0


def read_reconstruction(encoder: Path, decoder: Path) -> dict[str, LatentReconstruction | TypicalNetwork]:
    """Return the methods of two model folders by name; none if no network could be run, so that there is no decoder."""
    if not any(decoder.iterdir()):
        return {}
    model = WeightEncoder.from_folder(encoder, decoder=decoder)
    return {"latent_decoder": LatentReconstruction(model), "typical_network": TypicalNetwork(model)}
