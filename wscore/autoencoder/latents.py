"""Latents of the autoencoder of all networks of a token cache."""

from collections.abc import Iterator

import numpy as np
import torch

from wscore.autoencoder.models.autoencoder import Encoder
from wscore.tokens.cache import TokenCache

BLOCK = 512  # networks at once


def iterate_latents(encoder: Encoder, cache: TokenCache) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (first item of each network (n,), latents (n, Z)) of all networks in blocks.

    The latent of a network that is cut into windows is the mean of the latents of its windows.
    """
    windows = cache.table["window"].to_numpy()
    heads = np.append(np.flatnonzero(windows == 0), len(windows))  # first item of each network, and the end
    for start in range(0, len(heads) - 1, BLOCK):
        firsts, last = heads[start : start + BLOCK], int(heads[min(start + BLOCK, len(heads) - 1)])
        firsts = firsts[firsts < last]
        items = np.arange(int(firsts[0]), last)
        with torch.no_grad():
            latents = torch.cat([encoder(cache.batch(at)) for at in np.array_split(items, -(-len(items) // BLOCK))])
        sums = np.add.reduceat(latents.double().numpy(), firsts - firsts[0], axis=0)
        counts = np.diff(np.append(firsts, last))[:, None]
        yield firsts, (sums / counts).astype(np.float32)
