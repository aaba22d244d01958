"""Codec between weight vectors and token batches: tokenization, normalization and windows of long networks."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.networks.layout import Layout
from wscore.tokens.batch import TokenBatch, layout_key
from wscore.tokens.index import cut_windows
from wscore.tokens.normalizer import Normalizer
from wscore.tokens.tokenizer import Tokenizer

Array = TypeVar("Array", np.ndarray, Tensor)


class TokenCodec:
    """Maps weight vectors (n, D) of any layout to token sequences (n W, T, dim) of their W windows, and back.

    Args:
        tokenizer: splits networks into tokens.
        normalizer: scales their weights.
        longest: maximum sequence length; longer networks are split into windows of nearly equal length.
    """

    def __init__(self, tokenizer: Tokenizer, normalizer: Normalizer, longest: int) -> None:
        self.tokenizer, self.normalizer, self.longest = tokenizer, normalizer, longest

    @classmethod
    def load(cls, folder: Path, longest: int) -> "TokenCodec":
        """Return the codec of a folder with tokenizer.json and normalizer.json."""
        tokenizer = Tokenizer.load(Path(folder) / "tokenizer.json")
        return cls(tokenizer, Normalizer.load(Path(folder) / "normalizer.json"), longest)

    def windows(self, layout: Layout) -> list[slice]:
        """Return the token range of each window of a network of this layout."""
        spans = cut_windows(self.tokenizer.count(layout), self.longest)
        return [slice(start, start + length) for start, length in spans]

    def encode(self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]) -> TokenBatch:
        """Return the normalized windows of networks, grouped by network and padded to the longest window."""
        template = self.tokenizer.template(layout)
        tokens = self.tokenizer.encode(layout, self.normalizer.normalize(layout, vectors))
        parts, windows = (tokens, *(array[None] for array in template[:2])), self.windows(layout)
        padded = [torch.from_numpy(_cut(array, windows)) for array in parts]  # (n W, T, dim), (W, T, dim), (W, T, 5)
        keys = torch.tensor([layout_key(template.mask[window], template.features[window]) for window in windows])
        copies = [array.repeat(len(vectors), *[1] * (array.ndim - 1)) for array in (*padded[1:], keys)]
        return TokenBatch(padded[0], *copies)

    def decode(self, layout: Layout, tokens: Float[Array, "window token dim"]) -> Float[Array, "networks weights"]:
        """Return raw weights from normalized tokens, padded to any length: the inverse of `encode`. Tensors keep gradients."""
        return self.normalizer.restore(layout, self.tokenizer.decode(layout, self._joined(layout, tokens)))

    def _joined(self, layout: Layout, tokens: Array) -> Array:
        """Return the tokens of whole networks (n, T, dim)."""
        lengths = [window.stop - window.start for window in self.windows(layout)]
        if len(lengths) == 1:
            return tokens[:, : lengths[0]]
        parts = [tokens[place :: len(lengths), :length] for place, length in enumerate(lengths)]
        join: Any = torch.cat if isinstance(tokens, Tensor) else np.concatenate
        return join(parts, 1)


def _cut(tokens: np.ndarray, windows: list[slice]) -> np.ndarray:
    """Return the windows (n W, T, ...) of tokens (n, all, ...), padded with zeros."""
    longest = max(window.stop - window.start for window in windows)
    result = np.zeros((len(tokens), len(windows), longest, *tokens.shape[2:]), tokens.dtype)
    for place, window in enumerate(windows):
        result[:, place, : window.stop - window.start] = tokens[:, window]
    return result.reshape(-1, *result.shape[2:])
