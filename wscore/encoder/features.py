"""What the encoder reads of a network: numbers of its weights and of its outputs that no order of hidden units changes.

    block        features
    statistics   <kind>[-k].<statistic>    seven statistics of the k-th tensor of its kind from the output (`weight_statistics`)
    spectra      <kind>[-k].<number>       singular values, norms, balance of layers, norm layers (`spectra`, `updates`)
    probes       chain.<measure>.<guess>   outputs of networks that are a chain of layers, on synthetic images (`chain_outputs`)

A network of another depth or kind lacks some of them: they are NaN.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.encoder.chain_outputs import chain_numbers
from wscore.encoder.dreamed_probes import ProbeSets
from wscore.encoder.spectra import network_numbers
from wscore.encoder.weight_statistics import STATISTICS, FeatureTable, chunks, tensor_roles, tensor_statistics
from wscore.errors import DataError
from wscore.io import scratch_array
from wscore.networks.layout import Layout, layout_of
from wscore.zoo.store import Zoo

LARGEST = 1e30  # larger numbers are clipped
CHAIN = "chain."
BLOCKS = ("statistics", "spectra", "probes")
QUANTISED = (torch.int8, torch.uint8, torch.int16, torch.int32)  # index tables are int64, masks bool
Numbers = dict[str, Float[np.ndarray, " networks"]]


def named_numbers(
    layout: Layout,
    vectors: Float[np.ndarray, "networks weights"],
    probes: ProbeSets,
    names: Iterable[str] | None = None,
) -> Numbers:
    """Return the features of networks that share a layout, by name.

    Args:
        layout: of the networks.
        vectors: their weights.
        probes: synthetic images.
        names: of the features that are needed, and maybe some others; None: all. Of a deep network a model reads the
            last layers only.
    """
    wanted = None if names is None else {name.rpartition(".")[0] for name in names}
    roles = [f"{kind}[-{place}]" for kind, place in tensor_roles(layout)]
    kept = [number for number, role in enumerate(roles) if wanted is None or role in wanted]
    values = tensor_statistics(layout, vectors, kept)
    statistics = {
        f"{roles[number]}.{name}": values[:, place, column]
        for place, number in enumerate(kept)
        for column, name in enumerate(STATISTICS)
    }
    outputs = {f"{CHAIN}{name}": column for name, column in chain_numbers(layout, vectors, probes).items()}
    return statistics | network_numbers(layout, vectors, wanted) | outputs


def block_of(name: str) -> str:
    """Return the block of a feature.

    >>> [block_of(name) for name in ("linear[-1].std", "conv[-2].singular1", "chain.hits.plain.relu.max")]
    ['statistics', 'spectra', 'probes']
    """
    if name.startswith(CHAIN):
        return "probes"
    return "statistics" if name.rpartition(".")[2] in STATISTICS else "spectra"


def feature_matrix(
    layout: Layout, vectors: Float[np.ndarray, "networks weights"], probes: ProbeSets, names: Sequence[str]
) -> Float[np.ndarray, "networks feature"]:
    """Return the named features of networks that share a layout, in float32; NaN for those that they lack."""
    return select(named_numbers(layout, vectors, probes, names), names, len(vectors))


def select(numbers: Numbers, names: Sequence[str], count: int) -> Float[np.ndarray, "networks feature"]:
    """Return named features of networks as a matrix in float32; NaN where they are missing."""
    missing = np.full(count, np.nan)
    columns = np.array([numbers.get(name, missing) for name in names], np.float64).reshape(len(names), count)
    return np.clip(columns.T, -LARGEST, LARGEST).astype(np.float32)


def zoo_features(zoo: Zoo, probes: ProbeSets) -> FeatureTable:
    """Return the features of all networks of a zoo, row by row, block after block; the weights are streamed."""
    ones = {key: np.ones((1, layout.size), np.float32) for key, layout in zoo.layouts.items()}
    known = {name for key, layout in zoo.layouts.items() for name in named_numbers(layout, ones[key], probes)}
    names = sorted(known, key=lambda name: (BLOCKS.index(block_of(name)), name))
    values = scratch_array((len(zoo), len(names)), np.float32)
    for key, rows, vectors in chunks(zoo, zoo.table["layout"].astype(str).tolist()):
        values[rows] = feature_matrix(zoo.layouts[key], vectors, probes, names)
    return FeatureTable(values, tuple(names))


def layout_and_weights(state: Mapping[str, Tensor]) -> tuple[Layout, Float[np.ndarray, "1 weights"]]:
    """Return layout and weights of a state dict.

    Raises:
        DataError: naming the tensor, if weights are missing, not floating-point or not finite.
    """
    weights = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    if not weights:
        integers = ", ".join(f"{name} ({tensor.dtype})" for name, tensor in state.items()) or "no tensors"
        raise DataError(
            "no weights to encode", where="network", expected="floating-point tensors", got=integers,
            fix="dequantise the network first",
        )  # fmt: skip
    for name, tensor in state.items():
        if not tensor.numel():
            raise DataError("an empty tensor can't be encoded", where=name, got=tuple(tensor.shape))
        if tensor.dtype in QUANTISED and tensor.ndim > 1:
            raise DataError(
                "integer weights can't be encoded", where=name, got=tensor.dtype, fix="dequantise the network first"
            )
        if not torch.isfinite(tensor).all():
            raise DataError("weights are not finite", where=name, got=f"{int((~torch.isfinite(tensor)).sum())} values")
    layout = layout_of(state)
    return layout, layout.flatten(state)[None]
