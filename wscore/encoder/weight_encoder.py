"""An encoder for any network: a fixed number of latents, and whether the network is like those of the training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.encoder.config import EncoderConfig
from wscore.encoder.dreamed_probes import ProbeSets, read_probes, write_probes
from wscore.encoder.features import feature_matrix, read_network
from wscore.encoder.fit import fit_encoder
from wscore.encoder.model import EncoderNetwork
from wscore.io import atomic_folder
from wscore.networks.layout import Layout
from wscore.training.model_folder import load_model, save_model
from wscore.zoo.store import Zoo

BLOCK = 256  # networks encoded at once


class Encoding(NamedTuple):
    """What an encoder says about networks.

    Attributes:
        latents: one vector per network; its length does not depend on the network.
        inside: p-value of the hypothesis that the network comes from the population of the training networks; uniform for
            new networks of that population, near 0 for others.
    """

    latents: Float[Tensor, "*network latent"]
    inside: Float[Tensor, "*network"]


class WeightEncoder:
    """Encodes networks of any layout, width and depth; reordering hidden units does not change the latent.

    Nothing but the state dict is read. Layers are taken to follow each other in its order, which decides what is first and
    last, and what the network outputs if it is a chain of layers (`wscore.encoder.chain`); names of keys are not interpreted
    beyond `wscore.networks.layout.layout_of`.

    Attributes:
        network: features to latents.
        probes: images on which chains of layers are run.
    """

    def __init__(self, network: EncoderNetwork, probes: ProbeSets) -> None:
        self.network, self.probes = network.eval(), probes

    @classmethod
    def fit(cls, zoo: Zoo, split: Sequence[str] | np.ndarray, config: EncoderConfig) -> "WeightEncoder":
        """Return an encoder fitted to the training networks of a zoo: see `wscore.encoder.fit.fit_encoder`."""
        fitted = fit_encoder(zoo, split, config)
        return cls(fitted.network, fitted.probes)

    @classmethod
    def from_folder(cls, folder: Path) -> "WeightEncoder":
        """Return the encoder in a folder.

        Raises:
            ModelError: if it is missing, altered or of another class or format.
        """
        return cls(load_model(folder, EncoderNetwork), read_probes(folder))

    @property
    def latent_dim(self) -> int:
        """Length of a latent."""
        return self.network.config.components + self.network.config.distilled

    def save(self, folder: Path) -> None:
        """Write the encoder into a folder: config.json, model.safetensors, probes.safetensors."""
        with atomic_folder(folder) as temporary:
            save_model(temporary, self.network)
            write_probes(temporary, self.probes)

    def encode(self, network: nn.Module | Mapping[str, Tensor]) -> Float[Tensor, " latent"]:
        """Return the latent (Z,) of a network, given as a module or a state dict.

        Raises:
            DataError: naming the tensor, if weights are missing, empty, not floating-point or not finite.
        """
        return self.encode_many(*read_network(network)).latents[0]

    def inside(self, network: nn.Module | Mapping[str, Tensor]) -> float:
        """Return the p-value of a network: see `Encoding.inside`; errors as those of `encode`."""
        return float(self.encode_many(*read_network(network)).inside[0])

    @torch.no_grad()
    def encode_many(self, layout: Layout, vectors: Float[np.ndarray, "network weights"]) -> Encoding:
        """Return the latents (n, Z) and p-values of networks that share a layout; weights must be finite."""
        blocks = np.array_split(vectors, max(1, -(-len(vectors) // BLOCK)))
        names = self.network.config.features
        inputs = torch.cat(
            [
                self.network.inputs(torch.from_numpy(feature_matrix(layout, block, self.probes, names)))
                for block in blocks
            ]
        )
        return Encoding(self.network.latents(inputs), self.network.inside(inputs))
