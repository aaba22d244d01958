"""Feature blocks available to property heads, all computed from the weights alone.

    block                          features
    latent                         latent of the weight encoder (`wscore.encoder`)
    statistics, spectra, probes    numbers that the encoder reads, before it compresses them (`wscore.encoder.features`)
    tokens                         the tokens themselves, read by attention (`wscore.heads.token_attention`)

All but the tokens are computed once (`cache_representations`); a head lists the ones it uses: `latent+statistics`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from wscore.config import Section
from wscore.encoder.features import BLOCKS as COMPUTED
from wscore.encoder.features import block_of
from wscore.encoder.weight_statistics import FeatureTable
from wscore.errors import ConfigError, DataError
from wscore.io import read_json, read_tensors, write_arrays, write_json

Block = Literal["latent", "statistics", "spectra", "probes", "tokens"]
BLOCKS: tuple[str, ...] = get_args(Block)
VALUES, NAMES = "features.safetensors", "features.json"
Blocks = Mapping[str, FeatureTable]


class FeaturesConfig(Section):
    """The encoder whose latents are computed once per network (section `features:`)."""

    encoder: str | None
    revision: str | None


def parse_features(text: str) -> tuple[str, ...]:
    """Return the blocks named in a text such as `latent+statistics`, in the order of `BLOCKS`.

    Raises:
        ConfigError: if a block is unknown or repeated, or none is given.
    """
    names = [name.strip() for name in text.split("+")]
    if not set(names) <= set(BLOCKS) or len(set(names)) != len(names):
        raise ConfigError(
            "is not a valid choice of features", where="heads.features", expected=f"some of {', '.join(BLOCKS)}, joined by +",
            got=text,
        )  # fmt: skip
    return tuple(name for name in BLOCKS if name in names)


def split_blocks(table: FeatureTable) -> dict[str, FeatureTable]:
    """Return views of the features of networks by block; the columns of a block follow each other."""
    blocks = [block_of(name) for name in table.names]
    ends = np.searchsorted([COMPUTED.index(block) for block in blocks], range(len(COMPUTED) + 1))
    parts = {block: slice(ends[place], ends[place + 1]) for place, block in enumerate(COMPUTED)}
    return {block: FeatureTable(table.values[:, part], table.names[part]) for block, part in parts.items()}


def write_blocks(folder: Path, blocks: Blocks) -> None:
    """Write blocks next to the latents, float32; the column names as JSON."""
    write_arrays(folder / VALUES, {name: block.values for name, block in blocks.items()}, np.ascontiguousarray)
    write_json(folder / NAMES, {name: list(block.names) for name, block in blocks.items()})


def read_blocks(folder: Path) -> dict[str, FeatureTable]:
    """Return the blocks in a folder, in the order of its rows.

    Raises:
        DataError: if a file is missing or the two do not match.
    """
    if not (folder / VALUES).is_file():
        raise DataError("no features here", where=folder, expected=VALUES, fix="run `dvc repro cache_representations`")
    values, names = read_tensors(folder / VALUES), read_json(folder / NAMES)
    if {name: tensor.shape[1] for name, tensor in values.items()} != {
        name: len(named) for name, named in names.items()
    }:
        raise DataError(
            "features and their names do not match", where=folder, fix="run `dvc repro cache_representations`"
        )
    return {name: FeatureTable(values[name].numpy(), tuple(names[name])) for name in names}
