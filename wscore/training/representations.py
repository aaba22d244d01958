"""Representations: the latents of all networks of a cache from a frozen encoder, computed once.

representations/
  representations.parquet   model_id, run_id, checkpoint, split, latent (list<float32>), one row per network of the zoo
  manifest.json             identities of encoder, tokens and zoo; latent_dim
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from wscore.errors import ModelError
from wscore.io import atomic_folder, write_json
from wscore.models.autoencoder import Encoder
from wscore.models.folder import load_model, read_model_config
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

TABLE, MANIFEST = "representations.parquet", "manifest.json"
BLOCK = 512  # networks at once


def cache_representations(cache: TokenCache, zoo: Zoo, folder: Path, out: Path) -> int:
    """Encode every network of a cache with the encoder in a folder; returns how many there are.

    The latent of a network that is cut into windows is the mean of the latents of its windows.

    Raises:
        ModelError: if the encoder was trained on tokens of another cache.
    """
    encoder = load_model(folder, Encoder)
    content = read_model_config(folder)
    if content.get("tokens") != cache.identity:
        raise ModelError(
            "was trained on other tokens", where=folder, expected=cache.identity, got=content.get("tokens"),
            fix="run `dvc repro train_autoencoder`",
        )  # fmt: skip
    count = 0
    checkpoints = zoo.table["checkpoint"].to_numpy()
    with atomic_folder(out) as temporary:
        with pq.ParquetWriter(temporary / TABLE, _schema(encoder.latent_dim)) as writer:
            for rows, items, latents in encode(encoder, cache):
                writer.write_table(_table(cache, rows, items, latents, checkpoints))
                count += len(rows)
        manifest = {"encoder": content["sha256"], "tokens": cache.identity, "zoo": zoo.identity}
        write_json(temporary / MANIFEST, {**manifest, "latent_dim": encoder.latent_dim})
    return count


def encode(encoder: Encoder, cache: TokenCache) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rows of the zoo (n,), first item of each (n,), latents (n, Z)) of all networks, some at once."""
    rows, windows = cache.table["row"].to_numpy(), cache.table["window"].to_numpy()
    heads = np.append(np.flatnonzero(windows == 0), len(rows))  # first item of each network, and the end
    for start in range(0, len(heads) - 1, BLOCK):
        part, last = heads[start : start + BLOCK], int(heads[min(start + BLOCK, len(heads) - 1)])
        part = part[part < last]
        items = np.arange(int(part[0]), last)
        with torch.no_grad():
            latents = torch.cat([encoder(cache.batch(some)) for some in np.array_split(items, -(-len(items) // BLOCK))])
        sums = np.add.reduceat(latents.double().numpy(), part - part[0], axis=0)
        counts = np.diff(np.append(part, last))[:, None]
        yield rows[part], part, (sums / counts).astype(np.float32)


def _schema(latent_dim: int) -> pa.Schema:
    texts = [(name, pa.string()) for name in ("model_id", "run_id")]
    return pa.schema(
        [*texts, ("checkpoint", pa.int64()), ("split", pa.string()), ("latent", pa.list_(pa.float32(), latent_dim))]
    )


def _table(
    cache: TokenCache, rows: np.ndarray, items: np.ndarray, latents: np.ndarray, checkpoints: np.ndarray
) -> pa.Table:
    table = cache.table.iloc[items]
    columns = [pa.array(table[name].astype(str).to_numpy(), pa.string()) for name in ("model_id", "run_id")]
    columns += [pa.array(checkpoints[rows], pa.int64()), pa.array(table["split"].astype(str).to_numpy(), pa.string())]
    flat = pa.array(latents.reshape(-1), pa.float32())
    return pa.Table.from_arrays(
        [*columns, pa.FixedSizeListArray.from_arrays(flat, latents.shape[1])], schema=_schema(latents.shape[1])
    )
