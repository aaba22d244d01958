"""Published encoders and decoders: networks in, latents out, and back, without the pipeline around them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wscore.errors import ModelError
from wscore.models.autoencoder import Decoder, Encoder
from wscore.models.folder import load_model
from wscore.tokens.alignment import Alignment
from wscore.tokens.batch import TokenBatch
from wscore.tokens.items import cut_windows
from wscore.tokens.normalizer import Normalizer
from wscore.tokens.tokenizer import Tokenizer
from wscore.zoo.layout import Layout, layout_of


class TokenCodec:
    """Makes the token sequences that a published model takes, and networks of those that it gives.

    Args:
        folder: with tokenizer.json and normalizer.json.
        longest: tokens of the longest sequence; longer networks are cut into windows.
    """

    def __init__(self, folder: Path, longest: int) -> None:
        self.tokenizer = Tokenizer.load(Path(folder) / "tokenizer.json")
        self.normalizer = Normalizer.load(Path(folder) / "normalizer.json")
        self.longest = longest

    def windows(self, layout: Layout) -> list[slice]:
        """Return which tokens of a network each of its windows holds."""
        spans = cut_windows(self.tokenizer.count(layout), self.longest)
        return [slice(start, start + length) for start, length in spans]

    def batch(self, layout: Layout, vector: Float[np.ndarray, " weights"]) -> TokenBatch:
        """Return the windows of one network (D,) as a batch, normalised and padded to the longest of them."""
        template = self.tokenizer.template(layout)
        tokens = self.tokenizer.encode(layout, self.normalizer.normalize(layout, vector[None]))[0]
        parts = (tokens, template.mask, template.features)
        return TokenBatch(
            *(_stack(torch.from_numpy(np.ascontiguousarray(part)), self.windows(layout)) for part in parts)
        )

    def network(self, layout: Layout, tokens: Float[Tensor, "window token dim"]) -> Float[np.ndarray, " weights"]:
        """Return the weights (D,) of one network from the tokens of its windows: the inverse of `batch`."""
        spans = self.windows(layout)
        whole = torch.cat([part[: span.stop - span.start] for part, span in zip(tokens, spans, strict=True)])
        return self.normalizer.restore(layout, self.tokenizer.decode(layout, whole[None].numpy()))[0]


class PublishedEncoder:
    """Turns networks into latents.

    Args:
        folder: of a published encoder.

    Raises:
        ModelError: if the folder holds no encoder or was altered.
    """

    def __init__(self, folder: Path | str) -> None:
        self.model = load_model(Path(folder), Encoder)
        self.codec = TokenCodec(Path(folder), self.model.config.network.max_tokens)
        self.alignment = Alignment.load(Path(folder))

    def encode(self, state: Mapping[str, Tensor]) -> Float[Tensor, " latent"]:
        """Return the latent (Z,) of a network's state dict: the mean over its windows, as the heads take it."""
        return self.encode_windows(state).mean(dim=0)

    @torch.no_grad()
    def encode_windows(self, state: Mapping[str, Tensor]) -> Float[Tensor, "window latent"]:
        """Return one latent per window of a network (one window unless it is long), as the decoder takes them.

        Hidden units are first brought into the order of the reference of the layout, if it has one.

        Raises:
            ModelError: if the network has weights that are not finite.
        """
        layout = layout_of(state)
        vector = layout.flatten(state)
        check_finite(vector)
        return self.model(self.codec.batch(layout, self.alignment.apply(layout, vector[None])[0]))


class PublishedDecoder:
    """Turns latents into networks.

    Args:
        folder: of a published decoder.

    Raises:
        ModelError: if the folder holds no decoder or was altered.
    """

    def __init__(self, folder: Path | str) -> None:
        self.model = load_model(Path(folder), Decoder)
        self.codec = TokenCodec(Path(folder), self.model.config.network.max_tokens)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "window latent"], layout: Layout) -> dict[str, Tensor]:
        """Return the state dict that latents stand for, one latent per window of a network of this layout.

        Raises:
            ModelError: if the layout has another count of windows.
        """
        windows = len(self.codec.windows(layout))
        if len(latents) != windows:
            raise ModelError("latents do not fit the layout", expected=f"{windows}, one per window", got=len(latents))
        frame = self.codec.batch(layout, np.zeros(layout.size, np.float32))
        vector = self.codec.network(layout, self.model(latents, frame))
        return layout.unflatten(torch.from_numpy(vector))


def check_finite(vector: Float[np.ndarray, " weights"]) -> None:
    """Raise ModelError if a network has weights that are not finite, telling how many."""
    wrong = int((~np.isfinite(vector)).sum())
    if wrong:
        raise ModelError("network has weights that are not finite", got=wrong)


def _stack(rows: Any, spans: list[slice]) -> Tensor:
    return pad_sequence([rows[span] for span in spans], batch_first=True)
