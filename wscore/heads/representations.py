"""Computes the representations of all networks of a cache once: latents of a frozen encoder and further features.

representations/
  representations.parquet   model_id, run_id, checkpoint, split, latent (list<float32>), one row per network of the zoo
  features.safetensors      further feature blocks (N, F), in the order of the zoo (`wscore.heads.features`)
  features.json             column names of these blocks
  probes.safetensors        synthetic images of the block `probes`
  manifest.json             identities of encoder, tokens and zoo; latent_dim; configuration of the features
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.models.autoencoder import Encoder
from wscore.config import to_plain
from wscore.errors import ModelError
from wscore.heads.features import FeaturesConfig, compute_blocks, write_blocks
from wscore.io import atomic_folder, write_json
from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache
from wscore.training.model_folder import load_model, read_model_config
from wscore.zoo.store import Zoo

TABLE, MANIFEST = "representations.parquet", "manifest.json"
BLOCK = 512  # networks at once


@runtime_checkable
class LatentSource(Protocol):
    """An encoder with its own tokenizer and normaliser, such as `wscore.publish.pretrained.PublishedEncoder`."""

    model: Any
    codec: Any
    identity: str

    def encode_many(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]
    ) -> Float[Tensor, "networks window latent"]:
        """Return the latents of the windows of many networks of one layout."""
        ...


def cache_representations(
    cache: TokenCache,
    zoo: Zoo,
    folder: Path,
    out: Path,
    config: FeaturesConfig | None = None,
    foreign: LatentSource | None = None,
) -> int:
    """Encode every network of a cache with the encoder in a folder; return their number.

    With a configuration the other feature blocks are computed too; an external encoder replaces the one in the folder.

    The latent of a network that is cut into windows is the mean of the latents of its windows.

    Raises:
        ModelError: if the encoder was trained on tokens of another cache.
    """
    if foreign is None:
        encoder, identity = load_model(folder, Encoder), _checked(folder, cache)
        encoded, latent_dim = iterate_latents(encoder, cache), encoder.latent_dim
    else:
        identity, latent_dim = foreign.identity, foreign.model.latent_dim
        encoded = encode_anew(foreign, cache, zoo)
    count = 0
    checkpoints = zoo.table["checkpoint"].to_numpy()
    with atomic_folder(out) as temporary:
        with pq.ParquetWriter(temporary / TABLE, _schema(latent_dim)) as writer:
            for rows, items, latents in encoded:
                writer.write_table(_table(cache, rows, items, latents, checkpoints))
                count += len(rows)
        if config is not None:
            write_blocks(temporary, *compute_blocks(zoo, _splits(cache, len(zoo)), config))
        manifest = {"encoder": identity, "tokens": cache.identity, "zoo": zoo.identity}
        write_json(temporary / MANIFEST, {**manifest, "latent_dim": latent_dim, "features": to_plain(config)})
    return count


def encode_anew(
    encoder: LatentSource, cache: TokenCache, zoo: Zoo
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield what `encode` does, with an external encoder that has its own tokenizer, normaliser and alignment.

    Args:
        encoder: external encoder.
        cache: determines which networks are encoded.
        zoo: holds their weights.

    Raises:
        ModelError: if the encoder does not support networks of this zoo.
    """
    first = np.flatnonzero(cache.table["window"].to_numpy() == 0)
    rows = cache.table["row"].to_numpy()[first]
    keys = zoo.table["layout"].astype(str).to_numpy()[rows]
    check_fit(encoder, [zoo.layouts[str(key)] for key in np.unique(keys)])
    for key in np.unique(keys):
        layout = zoo.layouts[str(key)]
        places = np.flatnonzero(keys == key)
        for chunk in np.array_split(places, -(-len(places) // BLOCK)):
            latents = encoder.encode_many(layout, zoo.weights(rows[chunk]))  # (n, windows, Z)
            yield rows[chunk], first[chunk], latents.mean(dim=1).numpy().astype(np.float32)


def check_fit(encoder: LatentSource, layouts: Sequence[Layout]) -> None:
    """Reject an encoder that supports none of these layouts, or whose tokenizer belongs to another encoder.

    Raises:
        ModelError: lists what the encoder supports.
    """
    where, known = "features.encoder", encoder.codec.normalizer
    if known.mode == "layer" and not any(layout.identity in known.layouts for layout in layouts):
        raise ModelError(
            "was not trained on networks of this zoo", where=where, expected=f"one of its {len(known.layouts)} layouts",
            got=f"{len(layouts)} others", fix="use an encoder trained on such networks, or null",
        )  # fmt: skip
    made, wanted = encoder.codec.tokenizer.token_dim, encoder.model.config.network.token_dim
    if made != wanted:
        raise ModelError("tokenizer and encoder differ", where=where, expected=f"tokens of {wanted}", got=made)


def _splits(cache: TokenCache, networks: int) -> np.ndarray:
    """Return the split of each network of the zoo."""
    splits = np.full(networks, "", dtype=object)
    splits[cache.table["row"].to_numpy(int)] = cache.table["split"].to_numpy(str)
    return splits


def _checked(folder: Path, cache: TokenCache) -> str:
    """Return the identity of the encoder in a folder; it must have been trained on these tokens."""
    content = read_model_config(folder)
    if content.get("tokens") != cache.identity:
        raise ModelError(
            "was trained on other tokens", where=folder, expected=cache.identity, got=content.get("tokens"),
            fix="run `dvc repro train_autoencoder`",
        )  # fmt: skip
    return content["sha256"]


def iterate_latents(encoder: Encoder, cache: TokenCache) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rows of the zoo (n,), first item of each (n,), latents (n, Z)) of all networks in blocks."""
    rows, windows = cache.table["row"].to_numpy(), cache.table["window"].to_numpy()
    heads = np.append(np.flatnonzero(windows == 0), len(rows))  # first item of each network, and the end
    for start in range(0, len(heads) - 1, BLOCK):
        firsts, last = heads[start : start + BLOCK], int(heads[min(start + BLOCK, len(heads) - 1)])
        firsts = firsts[firsts < last]
        items = np.arange(int(firsts[0]), last)
        with torch.no_grad():
            latents = torch.cat([encoder(cache.batch(at)) for at in np.array_split(items, -(-len(items) // BLOCK))])
        sums = np.add.reduceat(latents.double().numpy(), firsts - firsts[0], axis=0)
        counts = np.diff(np.append(firsts, last))[:, None]
        yield rows[firsts], firsts, (sums / counts).astype(np.float32)


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
