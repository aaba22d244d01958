"""Several tokenized networks side by side: what every model over weights is given."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class TokenBatch(NamedTuple):
    """Padded token sequences of B networks (or windows of networks).

    Attributes:
        tokens: weights, normalised where the cache says so; zero where `mask` is False.
        mask: True where an entry of `tokens` is a weight, False in padding (of a token or of the sequence).
        features: what each token is, see `wscore.tokens.tokenizer.FEATURES`; zero for tokens of padding.
    """

    tokens: Float[Tensor, "batch token dim"]
    mask: Bool[Tensor, "batch token dim"]
    features: Float[Tensor, "batch token feature"]

    @property
    def token_mask(self) -> Bool[Tensor, "batch token"]:
        """True where a token holds at least one weight: what attention may look at."""
        return self.mask.any(dim=-1)

    @property
    def networks(self) -> int:
        """Count B of sequences (`len` counts the three fields)."""
        return self.tokens.shape[0]

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Return the same batch on another device."""
        return TokenBatch(*(part.to(device) for part in self))
