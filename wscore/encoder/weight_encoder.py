"""An encoder for any network: a fixed number of latents, and whether the network is like those of the training."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wscore.encoder.chain_outputs import may_take_known_images
from wscore.encoder.config import EncoderConfig
from wscore.encoder.decoder import WeightDecoder
from wscore.encoder.dreamed_probes import ProbeSets, read_probes, write_probes
from wscore.encoder.features import CHAIN, Numbers, layout_and_weights, named_numbers, select
from wscore.encoder.fit import fit_encoder
from wscore.encoder.model import EncoderNetwork
from wscore.encoder.weight_statistics import FeatureTable
from wscore.errors import ModelError
from wscore.hub.checksums import verify
from wscore.hub.fetch import fetch
from wscore.networks.known_layouts import KnownLayouts
from wscore.networks.layout import Layout
from wscore.training.history import History
from wscore.training.model_folder import load_model, read_model_config, save_model
from wscore.zoo.state import state_of
from wscore.zoo.store import Zoo

PART = "weight_encoder"  # folder in a publication
DECODER = "decoder"  # folder in that of the encoder
BLOCK = 256  # networks encoded at once
OUTSIDE = 0.02  # p-value up to which a network is unlike those of the training
STRANGE = 0.001  # most for a network with inputs or outputs that no training network has
UNLIKE = "unlike the networks that the encoder was trained on (p = {inside:.2g})"


class Encoding(NamedTuple):
    """What an encoder says about networks.

    Attributes:
        latents: one vector per network; its length does not depend on the network.
        inside: p-value of the hypothesis that the network comes from the population of the training networks; uniform for
            new networks of that population, near 0 for others.
        was_run: whether its outputs on probe images are part of the latent; else it is made of the weights alone.
    """

    latents: Float[Tensor, "*network latent"]
    inside: Float[Tensor, "*network"]
    was_run: Bool[Tensor, "*network"]

    @property
    def basis(self) -> str:
        """What can be said of a single network rests on."""
        if float(self.inside) <= OUTSIDE:
            return "outside the training population"
        return "outputs on probes" if bool(self.was_run) else "weights alone"


class NetworkFeatures(NamedTuple):
    """A network as encoder and heads read it.

    Attributes:
        layout: in the names and the order of the training network of the same shapes, if there is one.
        vectors: its weights.
        numbers: its features by name.
        encoding: its latent.
    """

    layout: Layout
    vectors: Float[np.ndarray, "1 weights"]
    numbers: Numbers
    encoding: Encoding


class WeightEncoder:
    """Encodes networks of any layout, width and depth; reordering hidden units does not change the latent.

    Nothing but the state dict is read. Layers are taken to follow each other in its order, which decides what is first and
    last, and what the network outputs if it is a chain of layers (`wscore.encoder.chain`); names of keys are not interpreted
    beyond `wscore.networks.layout.layout_of`.

    Attributes:
        network: features to latents.
        probes: images on which chains of layers are run.
        layouts: of the training and validation networks.
        identity: hash of the weights; empty before they are saved.
        decoder_folder: of its decoder, which is read when it is first needed; None: there is none.
    """

    def __init__(
        self,
        network: EncoderNetwork,
        probes: ProbeSets,
        layouts: KnownLayouts,
        *,
        identity: str = "",
        decoder_folder: Path | None = None,
    ) -> None:
        self.network, self.probes, self.layouts, self.identity = network.eval(), probes, layouts, identity
        self.decoder_folder = decoder_folder

    @classmethod
    def fit(
        cls, zoo: Zoo, split: Sequence[str] | np.ndarray, config: EncoderConfig, *, latent_dim: int, **extras: Any
    ) -> tuple["WeightEncoder", History]:
        """Return an encoder fitted to the training networks of a zoo, and its training history: see `fit_encoder`."""
        fitted = fit_encoder(zoo, split, config, latent_dim=latent_dim, **extras)
        keys = set(zoo.table["layout"].astype(str)[np.isin(np.asarray(split), ("train", "validation"))])
        layouts = KnownLayouts({key: zoo.layouts[key] for key in keys})
        return cls(fitted.network, fitted.probes, layouts), fitted.history

    @classmethod
    def from_folder(cls, folder: Path, *, decoder: Path | None = None) -> "WeightEncoder":
        """Return the encoder in a folder.

        Args:
            folder: of the encoder.
            decoder: folder of its decoder; None: `decoder` in the folder of the encoder, if there is one.

        Raises:
            ModelError: if it is missing, altered or of another class or format.
            DataError: if its probes or layouts are damaged.
        """
        network, identity = load_model(folder, EncoderNetwork), read_model_config(folder)["sha256"]
        known, place = KnownLayouts.read(folder), decoder or folder / DECODER
        return cls(
            network, read_probes(folder), known, identity=identity, decoder_folder=place if place.is_dir() else None
        )

    @classmethod
    def from_pretrained(cls, source: Path | str, *, revision: str | None = None, **client: Any) -> "WeightEncoder":
        """Return the encoder in a folder of published models or on the Hub.

        Args:
            source: a folder, `owner/name` or `owner/name@revision`.
            revision: commit, tag or branch on the Hub; null: the newest.
            client: `cache_dir`, `force_download`, `local_files_only` and `token` of `huggingface_hub`.

        Raises:
            PublishError: if the id is malformed.
            DataError: if the Hub refuses or can't be reached.
            ModelError: if there is no such model, or it was altered or is of another class or format.
        """
        folder = fetch(source, revision, part=PART, **client)
        verify(folder)
        return cls.from_folder(folder)

    @property
    def latent_dim(self) -> int:
        """Length of a latent."""
        return self.network.config.components + self.network.config.distilled

    def save(self, folder: Path) -> None:
        """Write the encoder into a folder: config.json, model.safetensors, probes.safetensors, layouts.json."""
        save_model(folder, self.network)
        write_probes(folder, self.probes)
        self.layouts.write(folder)

    def encode(self, network: object) -> Float[Tensor, " latent"]:
        """Return the latent (Z,) of a network, given as a module, a state dict or a file: see `wscore.zoo.state.state_of`.

        Raises:
            DataError: naming the tensor, if weights are missing, empty, not floating-point or not finite; or if it is no
                network.
        """
        return self.encode_network(network).latents

    def decode(self, latent: Float[Tensor, " latent"], layout: Layout) -> dict[str, Tensor]:
        """Return the state dict of a network that the decoder makes of a latent.

        Args:
            latent: (Z,), as `encode` returns it, or a point between several.
            layout: of the network, of any widths: `layout_of` another one, not only the encoded one.

        Raises:
            ModelError: if the encoder has no decoder, or that of another encoder.
            DataError: if the latent has another length.
        """
        return layout.unflatten(self.decoder.decode(latent[None], layout)[0])

    @cached_property
    def decoder(self) -> WeightDecoder:
        """The decoder; errors as those of `decode`."""
        if self.decoder_folder is None or not any(self.decoder_folder.iterdir()):
            raise ModelError(
                "the weight encoder has no decoder", expected=f"a folder `{DECODER}` in that of the encoder",
                fix="publish it again with `dvc repro publish`, or give its folder to WeightEncoder.from_folder",
            )  # fmt: skip
        made_for = read_model_config(self.decoder_folder).get("encoder")
        if made_for != self.identity:
            raise ModelError(
                "was trained with another encoder", where=self.decoder_folder, expected=self.identity, got=made_for,
                fix="run `dvc repro train_decoder`",
            )  # fmt: skip
        return load_model(self.decoder_folder, WeightDecoder)

    def inside(self, network: object) -> float:
        """Return the p-value of a network: see `Encoding.inside`; errors as those of `encode`."""
        return float(self.encode_network(network).inside)

    def encode_network(self, network: object) -> Encoding:
        """Return the encoding of one network, without the axis of networks; errors as those of `encode`."""
        return self.read(network).encoding

    def read(self, network: object, *, more: Iterable[str] = ()) -> NetworkFeatures:
        """Return all that encoder and heads read of a network; errors as those of `encode`.

        Args:
            network: as `encode` takes it.
            more: features that are needed besides those of the encoder.
        """
        layout, vectors = layout_and_weights(self.layouts.ordered(state_of(network)))
        names = self.network.config.features
        numbers = named_numbers(layout, vectors, self.probes, [*names, *more])
        encoding = self._checked(layout, self._encode(select(numbers, names, 1)))
        return NetworkFeatures(layout, vectors, numbers, Encoding(*(values[0] for values in encoding)))

    def encode_many(self, layout: Layout, vectors: Float[np.ndarray, "network weights"]) -> Encoding:
        """Return the encodings of networks that share a layout; weights must be finite."""
        blocks = np.array_split(vectors, max(1, -(-len(vectors) // BLOCK)))
        names = self.network.config.features
        numbers = ((named_numbers(layout, block, self.probes, names), len(block)) for block in blocks)
        return self._checked(layout, _joined([self._encode(select(found, names, count)) for found, count in numbers]))

    def encode_features(self, table: FeatureTable) -> Encoding:
        """Return the encodings of networks from their features (`wscore.encoder.features.zoo_features`)."""
        places = {name: place for place, name in enumerate(table.names)}
        columns = [places.get(name, -1) for name in self.network.config.features]
        blocks = []
        for start in range(0, len(table.values), BLOCK):
            values = table.values[start : start + BLOCK]
            missing = np.full((len(values), 1), np.nan, np.float32)
            blocks.append(self._encode(np.concatenate([values, missing], axis=1)[:, columns]))
        return _joined(blocks)

    def _checked(self, layout: Layout, encoding: Encoding) -> Encoding:
        """Return encodings with a low p-value for networks with inputs or outputs that no training network has."""
        if self.layouts.may_share_ends(layout) and may_take_known_images(layout, self.probes):
            return encoding
        return encoding._replace(inside=encoding.inside.clamp_max(STRANGE))

    @torch.no_grad()
    def _encode(self, features: Float[np.ndarray, "network feature"]) -> Encoding:
        u = self.network.inputs(torch.from_numpy(np.ascontiguousarray(features, np.float32)))
        chain = [name.startswith(CHAIN) for name in self.network.config.features]
        was_run = torch.from_numpy(np.isfinite(features[:, chain]).any(axis=1))
        return Encoding(self.network.latents(u), self.network.inside(u), was_run)


def _joined(blocks: Sequence[Encoding]) -> Encoding:
    return Encoding(*(torch.cat(values) for values in zip(*blocks, strict=True)))
