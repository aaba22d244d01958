"""Outputs on the probes of networks whose architecture is known: those under the one hypothesis that holds.

Outputs of a chain of layers are read under every hypothesis about its activation, pooling and residual connections
(`wscore.encoder.chain_outputs`). An architecture decides between them: the outputs under it take the place of all others.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wscore.encoder.chain_outputs import ACTIVATIONS, POOLINGS
from wscore.encoder.features import CHAIN
from wscore.encoder.weight_statistics import FeatureTable
from wscore.networks.architectures import parse

BLOCKS = {"mlp": "plain", "cnn": "plain", "cnn_bn": "plain", "resnet": "residual"}  # families that are chains


def true_hypothesis(architecture: str) -> str:
    """Return the name of the hypothesis that an architecture fulfils; empty if there is none, or it is no JSON.

    >>> from wscore.networks.architectures import Architecture
    >>> known = Architecture(family="cnn", input=(1, 8, 8), classes=10, widths=(4, 4), activation="tanh", pooling="avg")
    >>> true_hypothesis(known.to_json()), true_hypothesis("package.module:function")
    ('plain.tanh.avg', '')
    """
    known = parse(architecture) if architecture.lstrip().startswith("{") else None
    if known is None or known.family not in BLOCKS or known.activation not in ACTIVATIONS:
        return ""
    pooling = known.pooling if known.pooling in POOLINGS else POOLINGS[0]
    return f"{BLOCKS[known.family]}.{known.activation}.{pooling}"


def known_outputs(probes: FeatureTable, architectures: Sequence[str]) -> Float[np.ndarray, "network number"]:
    """Return outputs on the probes, under the true hypothesis in place of all where it is known.

    Args:
        probes: outputs of each network under all hypotheses, NaN for those that were not run.
        architectures: of each network, as JSON; empty where it is unknown.
    """
    texts, places = np.unique(np.asarray(architectures, dtype=str), return_inverse=True)
    columns = {name: column for column, name in enumerate(probes.names)}
    values = probes.values.copy()
    for number, text in enumerate(texts.tolist()):
        if hypothesis := true_hypothesis(text):
            rows = np.flatnonzero(places == number)
            true = [columns[_under(name, hypothesis)] for name in probes.names]
            values[rows] = probes.values[rows][:, true]
    return values


def _under(name: str, hypothesis: str) -> str:
    """Return the name of the same measure under a hypothesis.

    >>> _under("chain.hits.plain.relu.max", "residual.gelu.avg")
    'chain.hits.residual.gelu.avg'
    """
    return f"{CHAIN}{name.removeprefix(CHAIN).split('.')[0]}.{hypothesis}"
