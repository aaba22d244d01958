"""Views of cached networks with their hidden units in random allowed orders: other weights, the same function."""

import warnings

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from wscore.errors import WscoreWarning
from wscore.networks.layout import Layout
from wscore.symmetry.spec import permute, random_orders
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import Items, TokenCache
from wscore.tokens.index import group_places


class UnitShuffle:
    """Puts the hidden units of every network of a batch into a random order of its own.

    It works on normalised tokens: every normalisation treats the weights of a tensor alike, so that it commutes with an order
    of units. Networks of which no symmetry is known, and those that are cut into windows, stay as they are.

    Args:
        cache: of the networks.
        share: probability with which a network is reordered at all; 1 reorders all of them.
    """

    def __init__(self, cache: TokenCache, *, share: float = 1.0) -> None:
        self.cache, self.share = cache, share
        if not cache.alignment.specs:
            reason = "no layout has a known symmetry, so that random orders change nothing"
            warnings.warn(f"{cache.folder}: {reason}", WscoreWarning, stacklevel=2)

    def __call__(
        self, batch: TokenBatch, items: Items, generator: torch.Generator, share: float | None = None
    ) -> TokenBatch:
        """Return the batch reordered; mask and features, which no order changes, are shared with the result.

        Args:
            batch: what `cache.batch(items)` returned, on any device.
            items: numbers of its items.
            generator: source of the orders, on the CPU.
            share: another probability than that of the class.
        """
        numbers = np.asarray(items, dtype=np.int64)
        moved = torch.rand(len(numbers), generator=generator).numpy() < (self.share if share is None else share)
        tokens = batch.tokens.clone()
        for places in group_places(self.cache.codes(numbers)):
            first, chosen = int(numbers[places[0]]), places[moved[places]]
            layout = self.cache.layout(first)
            known = layout.identity in self.cache.alignment.specs
            if not len(chosen) or not known or self.cache.windows(first) > 1:
                continue
            entries = self._entries(layout, len(chosen), generator).to(tokens.device)  # (n, T D)
            rows = torch.from_numpy(chosen).to(tokens.device)
            count = entries.shape[1] // tokens.shape[2]
            flat = tokens[rows, :count].flatten(1)  # (n, T D)
            tokens[rows, :count] = flat.gather(1, entries).unflatten(1, (count, -1))
        return batch._replace(tokens=tokens)

    def _entries(self, layout: Layout, count: int, generator: torch.Generator) -> Int64[Tensor, "networks entry"]:
        """Return for `count` networks, and each entry of their tokens, the entry whose weight goes there."""
        spec = self.cache.alignment.specs[layout.identity]
        weights = torch.arange(layout.size, dtype=torch.float64).expand(count, -1)  # (n, D), exact up to 2^53
        state = permute(spec, layout.unflatten(weights), random_orders(spec, count, generator))
        source = torch.cat([state[tensor.name].reshape(count, -1) for tensor in layout.tensors], dim=1).long()  # (n, D)
        scatter = torch.from_numpy(self.cache.tokenizer.template(layout).scatter.astype(np.int64))  # (D,)
        entries = torch.arange(self.cache.tokenizer.template(layout).mask.size).repeat(count, 1)  # (n, T D)
        entries[:, scatter] = scatter[source]
        return entries
