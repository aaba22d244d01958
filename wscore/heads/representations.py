"""Computes the representations of all networks of a zoo once: latents of a frozen encoder, and the numbers it reads.

representations/
  representations.parquet   model_id, run_id, checkpoint, split, inside, latent (list<float32>), one row per network
  features.safetensors      further feature blocks (N, F), in the order of the zoo (`wscore.heads.features`)
  features.json             column names of these blocks
  manifest.json             identities of encoder, tokens and zoo; latent_dim
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wscore.encoder.features import zoo_features
from wscore.encoder.weight_encoder import Encoding, WeightEncoder
from wscore.heads.features import FeaturesConfig, split_blocks, write_blocks
from wscore.io import atomic_folder, write_json
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

TABLE, MANIFEST = "representations.parquet", "manifest.json"


def open_encoder(config: FeaturesConfig, folder: Path) -> WeightEncoder:
    """Return the encoder of the configuration: that in a folder unless another one is named.

    Raises:
        ModelError: if there is none, or it was altered or is of another class or format.
    """
    if config.encoder is None:
        return WeightEncoder.from_folder(folder)
    return WeightEncoder.from_pretrained(config.encoder, revision=config.revision)


def cache_representations(cache: TokenCache, zoo: Zoo, encoder: WeightEncoder, out: Path) -> int:
    """Encode every network of a cache; return their number.

    Args:
        cache: of tokens; says which networks there are, and their split.
        zoo: holds their weights.
        encoder: of any training.
        out: folder, replaced.
    """
    features = zoo_features(zoo, encoder.probes)
    first = pd.DataFrame(cache.table[cache.table["window"] == 0])
    rows = first["row"].to_numpy(int)
    table = pd.DataFrame({name: first[name].astype(str) for name in ("model_id", "run_id", "split")})
    table.insert(2, "checkpoint", zoo.table["checkpoint"].to_numpy()[rows])
    with atomic_folder(out) as folder:
        _write(folder / TABLE, table, encoder.encode_features(features), rows)
        write_blocks(folder, split_blocks(features))
        manifest = {"encoder": encoder.identity, "tokens": cache.identity, "zoo": zoo.identity}
        write_json(folder / MANIFEST, {**manifest, "latent_dim": encoder.latent_dim})
    return len(rows)


def _write(path: Path, table: pd.DataFrame, encoding: Encoding, rows: np.ndarray) -> None:
    """Write a table with the p-value and the latent of each network, given in the order of the zoo."""
    latents = encoding.latents.numpy()[rows]
    table = table.assign(inside=encoding.inside.numpy()[rows].astype(np.float64))
    plain = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    flat = pa.array(np.ascontiguousarray(latents, np.float32).reshape(-1))
    pq.write_table(plain.append_column("latent", pa.FixedSizeListArray.from_arrays(flat, latents.shape[1])), path)
