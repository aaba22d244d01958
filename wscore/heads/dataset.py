"""Training and evaluation data of property heads: cached features of networks with the zoo's metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wscore.encoder.known_architecture import known_outputs
from wscore.encoder.weight_statistics import FeatureTable
from wscore.errors import DataError
from wscore.heads.features import VALUES, read_blocks
from wscore.io import read_json, scratch_array
from wscore.late import pd
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache
from wscore.training.batches import permutation
from wscore.zoo.store import Zoo

PROBES = "probes"  # block of the outputs on probe images
NOTHING: Mapping[str, Any] = MappingProxyType({})
HELD = 1 << 24  # entries of a table held in memory; larger tables go to an unnamed temporary file
ROWS = 1024  # of such a table held in memory at once
ENCODE_AGAIN = "run `dvc repro cache_representations`"


class HeadData(NamedTuple):
    """Features of networks with their metadata.

    Attributes:
        latents: (N, Z) float32.
        table: metadata, one row per network in the same order, with `row` (of the zoo), `split` and `inside` (p-value).
        encoder: hash of the encoder that made the latents.
        blocks: further feature blocks by name (`wscore.heads.features`), in the same order.
        tokens: token cache of the same networks, if heads read tokens.
    """

    latents: Float[np.ndarray, "rows latent"]
    table: pd.DataFrame
    encoder: str
    blocks: Mapping[str, FeatureTable] = NOTHING
    tokens: TokenCache | None = None

    def part(self, split: str) -> HeadData:
        """Return the networks of one split."""
        return self.take((self.table["split"] == split).to_numpy())

    def take(self, rows: Bool[np.ndarray, " rows"] | Int[np.ndarray, " taken"]) -> HeadData:
        """Return a subset of the networks."""
        blocks = {name: FeatureTable(taken(block.values, rows), block.names) for name, block in self.blocks.items()}
        table = self.table.loc[rows] if rows.dtype == bool else self.table.iloc[rows]
        return self._replace(latents=taken(self.latents, rows), table=table, blocks=blocks)

    def informed(self) -> HeadData:
        """Return the networks with their outputs on the probes under their architectures, where these are known."""
        column = self.table["architecture"] if "architecture" in self.table else pd.Series("", index=self.table.index)
        architectures = column.fillna("").astype(str).tolist()
        if PROBES not in self.blocks or not any(architectures):
            return self
        probes = self.blocks[PROBES]
        known = FeatureTable(known_outputs(probes, architectures), probes.names)
        return self._replace(blocks={**self.blocks, PROBES: known})

    def names(self, block: str) -> tuple[str, ...]:
        """Return the column names of a block.

        Raises:
            DataError: if it was not computed.
        """
        if block == "latent":
            return tuple(f"latent{k}" for k in range(self.latents.shape[1]))
        if block not in self.blocks:
            raise DataError(
                f"the features {block!r} were not computed", where="heads.features",
                expected=f"some of {', '.join(('latent', *self.blocks))}",
                fix=ENCODE_AGAIN,
            )  # fmt: skip
        return self.blocks[block].names

    def inputs(self, blocks: Sequence[str]) -> Float[np.ndarray, "rows input"]:
        """Return several blocks concatenated, (N, F) float32; NaN marks a missing value.

        Raises:
            DataError: if a block was not computed.
        """
        parts = [
            self.latents if block == "latent" else self.blocks[block].values for block in blocks if self.names(block)
        ]
        ends = np.cumsum([0, *(values.shape[1] for values in parts)])
        made = held((len(self.table), int(ends[-1])), np.float32)
        for start in range(0, len(made), ROWS):
            for values, first, end in zip(parts, ends[:-1], ends[1:], strict=True):
                made[start : start + ROWS, first:end] = values[start : start + ROWS]
        return made

    def items(self) -> Int[np.ndarray, " rows"]:
        """Return the token cache item of each network.

        Raises:
            DataError: if there are no tokens, or a network has several items because it was cut into windows.
        """
        if self.tokens is None:
            raise DataError("no tokens were given, but heads.features or heads.mode requires them", where="heads")
        index = self.tokens.table
        cut = index.loc[index["window"] > 0, "model_id"]
        if len(cut):
            raise DataError(
                "networks are cut into windows, which heads cannot read as tokens", where="tokens.max_tokens",
                got=f"{cut.iloc[0]} and {cut.nunique() - 1} more", fix="raise it, or use cached features",
            )  # fmt: skip
        places = pd.Series(np.arange(len(index)), index=index["model_id"])
        return places.loc[self.table["model_id"]].to_numpy(int)


def read_head_data(representations: Path, zoo: Zoo, tokens: TokenCache | None = None) -> HeadData:
    """Return the cached features of networks with the zoo's metadata.

    Args:
        representations: folder that `cache_representations` wrote.
        zoo: of the same networks.
        tokens: of the same networks, for heads that read them.

    Raises:
        DataError: if a file is missing or malformed, or the representations belong to another zoo or other tokens.
    """
    folder = Path(representations)
    table, latents, manifest = _read_representations(folder)
    zoo_rows = zoo.table.assign(row=np.arange(len(zoo))).set_index("model_id", drop=False)
    unknown = len(set(table["model_id"]) - set(zoo_rows.index))
    if manifest["zoo"] != zoo.identity or unknown or not zoo_rows.index.is_unique:
        raise DataError(
            "the representations belong to another zoo",
            where=representations,
            expected=f"zoo {zoo.identity}, each network once by its model_id",
            got=f"zoo {manifest['zoo']}, {unknown} unknown networks of {len(table)}",
            fix=ENCODE_AGAIN,
        )
    if tokens is not None and manifest.get("tokens") != tokens.identity:
        raise DataError(
            "the representations were computed from other tokens", where=representations, expected=tokens.identity,
            got=manifest.get("tokens"), fix=ENCODE_AGAIN,
        )  # fmt: skip
    joined = zoo_rows.loc[table["model_id"]].reset_index(drop=True)
    rows = joined["row"].to_numpy(int)
    stored = read_blocks(folder) if (folder / VALUES).is_file() else {}
    blocks = {name: FeatureTable(taken(block.values, rows), block.names) for name, block in stored.items()}
    joined = joined.assign(split=table["split"].to_numpy(), inside=table["inside"].to_numpy())
    return HeadData(latents, joined, manifest["encoder"], blocks, tokens)


class HeadBatches:
    """Batches (inputs (B, F), values (B, T), known (B, T), tokens) of heads that also read tokens.

    Args:
        tensors: inputs, values and known of all networks.
        cache: holds their tokens.
        items: their items in the cache.
        batch_size: networks per batch.
        seed: determines the order, together with the epoch number.
        shuffle: whether to reshuffle every epoch.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        cache: TokenCache,
        items: Int[np.ndarray, " rows"],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        self.tensors, self.cache, self.rows = tensors, cache, items
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor | TokenBatch, ...]]:
        """Yield the batches of one epoch."""
        count = len(self.rows)
        order = permutation(count, self.seed, number) if self.shuffle else torch.arange(count)
        for indices in order.split(self.batch_size):
            yield (*(tensor[indices] for tensor in self.tensors), self.cache.batch(self.rows[indices.numpy()]))


def held(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return zeros: in memory, or in an unnamed temporary file if there are more than `HELD` entries."""
    return np.zeros(shape, dtype) if math.prod(shape) <= HELD else scratch_array(shape, dtype)


def taken(
    values: Float[np.ndarray, "rows column"], rows: Bool[np.ndarray, " rows"] | Int[np.ndarray, " taken"]
) -> Float[np.ndarray, "taken column"]:
    """Return selected rows, copied in chunks if there are many."""
    numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
    made = held((len(numbers), values.shape[1]), values.dtype)
    for start in range(0, len(numbers), ROWS):
        made[start : start + ROWS] = values[numbers[start : start + ROWS]]
    return made


def _read_representations(folder: Path) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Return model_id and split of each network, their latents, and the manifest."""
    path = folder / "representations.parquet"
    manifest = read_json(folder / "manifest.json")
    if not path.is_file() or not {"zoo", "encoder"} <= set(manifest):
        raise DataError("no representations here", where=folder, expected=path.name, fix=ENCODE_AGAIN)
    try:
        table = pd.read_parquet(path, columns=["model_id", "split", "inside"])
        return table, _read_latents(path, len(table)), manifest
    except (ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        raise DataError("is not a table of representations", where=path, got=text, fix=ENCODE_AGAIN) from error


def _read_latents(path: Path, count: int) -> np.ndarray:
    """Return the column `latent` as (N, Z) float32, read in chunks of rows."""
    import pyarrow.parquet as pq

    latents: np.ndarray | None = None
    done = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS, columns=["latent"]):
            chunk = np.stack(batch.column("latent").to_numpy(zero_copy_only=False)).astype(np.float32)
            latents = held((count, chunk.shape[1]), np.float32) if latents is None else latents
            latents[done : done + len(chunk)] = chunk
            done += len(chunk)
    if latents is None:
        raise ValueError("no row")
    return latents
