"""Batches of tokenized networks, the input of all models over weights."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from wscore.tokens.tokenizer import FEATURES

EXACT = [column for column, name in enumerate(FEATURES) if name != "log_size"]  # bit-identical on every machine
STEP, MIX = -7046029254386353131, -4658895280553007687  # odd constants of splitmix64, as signed 64-bit numbers


class TokenBatch(NamedTuple):
    """Padded token sequences of B networks (or windows of networks).

    Attributes:
        tokens: weights, normalized by the cache's normalizer; zero where `mask` is False.
        mask: True where an entry of `tokens` is a weight, False in padding (of a token or of the sequence).
        features: of each token, see `wscore.tokens.tokenizer.FEATURES`; zero for padding tokens.
        layouts: `layout_key` of each sequence, equal for sequences of one layout (and window).
    """

    tokens: Float[Tensor, "batch token dim"]
    mask: Bool[Tensor, "batch token dim"]
    features: Float[Tensor, "batch token feature"]
    layouts: Int64[Tensor, " batch"]

    @property
    def token_mask(self) -> Bool[Tensor, "batch token"]:
        """True where a token holds at least one weight: attention mask."""
        return self.mask.any(dim=-1)

    @property
    def networks(self) -> int:
        """Number B of sequences (`len` counts the fields)."""
        return self.tokens.shape[0]

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Return the same batch on another device."""
        return TokenBatch(*(tensor.to(device) for tensor in self))

    def repeat(self, count: int) -> "TokenBatch":
        """Return the batch concatenated with itself, `count` copies in all."""
        return TokenBatch(*(tensor.repeat(count, *[1] * (tensor.ndim - 1)) for tensor in self))


def layout_key(mask: Bool[np.ndarray, "token dim"], features: Float32[np.ndarray, "token feature"]) -> int:
    """Return a key that is equal for sequences that differ in their weights only, independent of sequence padding.

    An integer hash of the mask and of all features except the logarithm, so that it is the same on every machine.
    """
    present = torch.from_numpy(np.ascontiguousarray(mask))
    exact = np.where(mask.any(-1, keepdims=True), features, np.float32(0))[:, EXACT]  # (T, 4)
    bits = torch.from_numpy(np.ascontiguousarray(exact)).view(torch.int32).long().flatten()  # (4 T,)
    places = present.long().flatten()  # (T D,)
    return int((bits * odd_numbers(len(bits))).sum() + MIX * (places * odd_numbers(len(places))).sum())


def odd_numbers(count: int) -> Int64[Tensor, " count"]:
    """Return well-mixed odd 64-bit numbers (splitmix64 of 1, 2, ...)."""
    mixed = torch.arange(1, count + 1, dtype=torch.int64) * STEP
    mixed = (mixed ^ (mixed >> 30)) * MIX
    return (mixed ^ (mixed >> 27)) | 1
