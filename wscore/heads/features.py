"""Feature blocks available to property heads, all computed from the weights alone.

    block        features
    latent       latent vector of an encoder
    statistics   seven statistics of each tensor (`wscore.encoder.weight_statistics`)
    spectra      singular values, norms per neuron, balance of layers, norm layers (`wscore.encoder.spectra`)
    probes       outputs on synthetic images, under every activation and pooling (`wscore.encoder.dreamed_probes`)
    tokens       the tokens themselves, read by attention (`wscore.heads.token_attention`)

The first four are computed once (`cache_representations`); a head lists the ones it uses: `latent+statistics`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec import Meta

from wscore.config import Section
from wscore.encoder.dreamed_probes import (
    Member,
    Probes,
    ProbeSets,
    dream,
    probe_key,
    probe_names,
    probe_numbers,
    probe_table,
    write_probes,
)
from wscore.encoder.spectra import network_numbers, spectra_table
from wscore.encoder.weight_statistics import STATISTICS, FeatureTable, statistics_table, tensor_roles, tensor_statistics
from wscore.errors import ConfigError, DataError
from wscore.io import read_json, read_tensors, write_arrays, write_json
from wscore.networks.architectures import Architecture
from wscore.networks.layout import Layout
from wscore.zoo.store import Zoo

Block = Literal["latent", "statistics", "spectra", "probes", "tokens"]
BLOCKS: tuple[str, ...] = get_args(Block)
COMPUTED = ("statistics", "spectra", "probes")
VALUES, NAMES = "features.safetensors", "features.json"
LARGEST = 1e30  # larger values are clipped, so that squares stay finite in float64
Blocks = Mapping[str, FeatureTable]


class FeaturesConfig(Section):
    """Features computed once per network (section `features:`).

    Args:
        encoder: computes the latents: null uses this pipeline's, else a folder or Hub repository with a published encoder.
        revision: pinned revision on the Hub; null uses the newest.
        probes: number of synthetic images to evaluate every network on; 0 omits them.
        probe_steps: optimisation steps of the images.
        seed: for the optimisation of the images.
    """

    encoder: str | None
    revision: str | None
    probes: Annotated[int, Meta(ge=0, le=4096)]
    probe_steps: Annotated[int, Meta(ge=1)]
    seed: Annotated[int, Meta(ge=0)]


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


def compute_blocks(
    zoo: Zoo, split: Sequence[str] | np.ndarray, config: FeaturesConfig
) -> tuple[dict[str, FeatureTable], dict[str, Probes]]:
    """Return the computed blocks of all networks of a zoo, row by row, and the probes that were optimised for them.

    Args:
        zoo: the networks.
        split: of each network; probes are optimised on the last checkpoints of the training runs.
        config: count of probes and how they are made.
    """
    values, names = statistics_table(zoo)
    # Without its last column: the number of a layout means nothing in another zoo.
    blocks = {"statistics": FeatureTable(values[:, :-1], names[:-1]), "spectra": spectra_table(zoo)}
    probes: dict[str, Probes] = {}
    if config.probes:
        blocks["probes"], probes = probe_block(zoo, np.flatnonzero(np.asarray(split) == "train"), config)
    return blocks, probes


def probe_block(
    zoo: Zoo, train: Int[np.ndarray, " train"], config: FeaturesConfig
) -> tuple[FeatureTable, dict[str, Probes]]:
    """Return probe features of all networks of a zoo, and the probes, optimised on the last checkpoints of some.

    Args:
        zoo: the networks.
        train: rows of the training networks.
        config: count of probes and how they are made.
    """
    last = train[np.isin(train, zoo.last_checkpoints())]
    probes = dream(zoo, last, count=config.probes, steps=config.probe_steps, seed=config.seed)
    return probe_table(zoo, probes), probes


def network_features(
    layout: Layout,
    vector: Float[np.ndarray, " weights"],
    names: Mapping[str, Sequence[str]],
    probes: ProbeSets,
    architecture: Architecture | None = None,
) -> dict[str, FeatureTable]:
    """Return the computed blocks of one network (1, F), with the columns that a head was trained on.

    Features that the network lacks are NaN, and so are its probe features if its architecture is unknown or no probes
    fit it.

    Args:
        layout: of the network.
        vector: its weights.
        names: columns by block; blocks that are not computed are ignored.
        probes: as stored with the head.
        architecture: of the network; its activation and pooling are ignored.
    """
    computed = {"statistics": _named_statistics(layout, vector[None]), "spectra": network_numbers(layout, vector[None])}
    fitting = None if architecture is None else probes.get(probe_key(architecture))
    if architecture is not None and fitting is not None:
        member = Member(architecture, layout, np.zeros(1, int))
        answers = probe_numbers(member, torch.from_numpy(vector[None].astype(np.float32)), fitting)
        computed["probes"] = dict(zip(probe_names(), answers.T, strict=True))
    blocks = {}
    for block in (block for block in COMPUTED if block in names):
        missing = np.full(1, np.nan)
        columns = [computed.get(block, {}).get(name, missing) for name in names[block]]
        blocks[block] = FeatureTable(_narrow(np.array(columns, float).reshape(1, -1)), tuple(names[block]))
    return blocks


def write_blocks(folder: Path, blocks: Blocks, probes: ProbeSets) -> None:
    """Write blocks and probes next to the latents, float32; the column names as JSON."""
    write_arrays(folder / VALUES, {name: block.values for name, block in blocks.items()}, _narrow)
    write_json(folder / NAMES, {name: list(block.names) for name, block in blocks.items()})
    write_probes(folder, probes)


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


def _named_statistics(layout: Layout, vectors: np.ndarray) -> dict[str, np.ndarray]:
    values = tensor_statistics(layout, vectors)  # (1, tensors, 7)
    return {
        f"{kind}[-{place}].{name}": values[:, number, column]
        for number, (kind, place) in enumerate(tensor_roles(layout))
        for column, name in enumerate(STATISTICS)
    }


def _narrow(values: Float[np.ndarray, "rows feature"] | Any) -> np.ndarray:
    return np.ascontiguousarray(np.clip(values, -LARGEST, LARGEST), dtype=np.float32)
