"""A published encoder and decoder as one model: networks to latents and back."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from wscore.autoencoder.models.autoencoder import Decoder
from wscore.errors import ModelError
from wscore.hub.checksums import write_checksums
from wscore.hub.fetch import fetch
from wscore.hub.upload import Upload, upload
from wscore.io import write_text
from wscore.networks.layout import layout_of
from wscore.publish.pretrained import CARD, EncodedNetwork, PublishedDecoder, PublishedEncoder, aligned
from wscore.training.model_folder import read_model_config
from wscore.zoo.state import state_of

A = TypeVar("A", bound="WeightAutoencoder")


class WeightAutoencoder(nn.Module, PyTorchModelHubMixin, library_name="wscore"):
    """Networks to latents and back; one side may be missing.

    Attributes:
        encoder: or None.
        decoder: or None.

    Raises:
        ModelError: if encoder and decoder don't belong together.
    """

    def __init__(self, encoder: PublishedEncoder | None, decoder: PublishedDecoder | None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        if encoder is None or decoder is None:
            return
        same = encoder.model.config == decoder.model.config and encoder.codec.tokenizer == decoder.codec.tokenizer
        if not same or encoder.codec.normalizer != decoder.codec.normalizer:
            raise ModelError("encoder and decoder don't belong together", fix="take both from one publication")

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls: type[A], source: Path | str, *, revision: str | None = None, side: str = "both", **client: Any
    ) -> A:
        """Return the autoencoder in a folder or on the Hub.

        Args:
            source: a folder, `owner/name` or `owner/name@revision`. If it holds one side only, that side is loaded.
            revision: commit, tag or branch on the Hub; null: the newest.
            side: `both`, `encoder` or `decoder`.
            client: `cache_dir`, `force_download`, `local_files_only` and `token` of `huggingface_hub`.

        Raises:
            PublishError: if the id is malformed.
            DataError: if the Hub refuses or can't be reached.
            ModelError: if there is no such model, or it was altered or is of another class or format.
        """
        wanted = ("encoder", "decoder") if side == "both" else (side,)
        kinds = {"encoder": PublishedEncoder, "decoder": PublishedDecoder}
        if not set(wanted) <= set(kinds):
            raise ModelError("no such side", expected="both, encoder or decoder", got=side)
        folders = {name: fetch(source, revision, part=name, **client) for name in wanted}
        if side == "both" and folders["encoder"] == folders["decoder"]:  # a repository of one side
            name = "decoder" if read_model_config(folders["decoder"])["class"] == Decoder.__name__ else "encoder"
            folders = {name: folders[name]}
        models: dict[str, Any] = {name: kinds[name](folder).eval() for name, folder in folders.items()}
        return cls(models.get("encoder"), models.get("decoder")).eval()

    def encode(self, network: object) -> EncodedNetwork:
        """Return the latents of a network (module, state dict or file), for `decode`: see `PublishedEncoder.encode`."""
        return self._side("encoder").encode(network)

    def decode(self, latents: Any, layout: object = None) -> dict[str, Tensor]:
        """Return the network decoded from latents: see `PublishedDecoder.decode`."""
        return self._side("decoder").decode(latents, layout)

    def align(self, network: object) -> dict[str, Tensor]:
        """Return a network with its hidden units in encoding order; its function is unchanged."""
        state = state_of(network)
        layout, side = layout_of(state), self.encoder if self.encoder is not None else self.decoder
        assert side is not None
        match = side.layouts.require(layout)
        vectors, _ = aligned(side.alignment, match.known, match.flatten(state)[None])
        return match.unflatten(torch.from_numpy(vectors[0]), layout)

    def forward(self, network: object) -> dict[str, Tensor]:
        """Return the reconstruction of a network from its latents."""
        return self.decode(self.encode(network))

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write each side into a separate folder."""
        for side in (self.encoder, self.decoder):
            if side is not None:
                side.save_pretrained(save_directory / side.part)
        write_text(save_directory / "README.md", CARD.format(name=type(self).__name__))
        write_checksums(save_directory)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, repo_id: str, *, private: bool = True
    ) -> str:
        """Upload the sides as folders of one repository: see `Published.push_to_hub`."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload([Upload(repo_id, Path(folder))], private=private)[0]

    def _side(self, name: str) -> Any:
        side = getattr(self, name)
        if side is None:
            raise ModelError(f"has no {name}", fix=f"load one that holds the {name} too")
        return side
