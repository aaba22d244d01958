"""What the encoder learns to predict: outputs of networks on the probes, in principal components."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.encoder.dreamed_probes import LARGEST, ProbeSets, probe_key
from wscore.networks.architectures import FAMILIES, parse
from wscore.networks.inference import StackedAnswer, logits
from wscore.pca import fit_pca
from wscore.zoo.store import Zoo

COMPONENTS = 48  # per key of the probes
LOGITS = 0.3  # weight of standardised logits beside probabilities
SMALLEST = 1e-6


def output_targets(
    zoo: Zoo, train: Int[np.ndarray, " train"], others: Int[np.ndarray, " others"], probes: ProbeSets
) -> Float[np.ndarray, "networks target"]:
    """Return principal components of probabilities, standardised logits and log spread of the logits on the probes.

    Args:
        zoo: targets are in the order of its rows.
        train: networks on which the components are fitted.
        others: further networks to run.
        probes: by key; components belong to one key and are scaled to a total variance of 1.

    Returns:
        (N, K); NaN for components of other keys and for networks that were not run or can't be; K is 0 if none can.
    """
    outputs = _outputs(zoo, np.union1d(train, others), probes)
    columns = []
    for _, (rows, values) in sorted(outputs.items()):
        fitted = values[np.isin(rows, train)]
        if len(fitted) > 1:
            pca = fit_pca(lambda fitted=fitted: [fitted], COMPONENTS, seed=0)
            scale = max(float(np.sqrt(pca.variances.sum())), SMALLEST)
            targets = np.full((len(zoo), len(pca.basis)), np.nan, np.float32)
            targets[rows] = (values - pca.mean) @ pca.basis.T / scale
            columns.append(targets)
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(zoo), 0), np.float32)


def _outputs(zoo: Zoo, wanted: np.ndarray, probes: ProbeSets) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return rows and described outputs of the networks that can be run, by key of their probes."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for text, layout, family_rows in zoo.families():
        rows = np.intersect1d(family_rows, wanted)
        architecture = parse(text) if text and len(rows) else None
        if architecture is not None and architecture.family in FAMILIES and (key := probe_key(architecture)) in probes:
            run = StackedAnswer(architecture, layout)
            found = logits(run, torch.from_numpy(zoo.weights(rows)), probes[key].images)
            parts.setdefault(key, []).append((rows, _described(found)))
    joined = {key: [np.concatenate(arrays) for arrays in zip(*pairs, strict=True)] for key, pairs in parts.items()}
    return {key: (rows, values) for key, (rows, values) in joined.items()}


def _described(outputs: Float[Tensor, "n image classes"]) -> Float[np.ndarray, "n number"]:
    clipped = outputs.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
    spread = clipped.std((1, 2)).clamp_min(SMALLEST)
    standard = (clipped - clipped.mean((1, 2), keepdim=True)) / spread[:, None, None]
    parts = [clipped.softmax(-1).flatten(1), LOGITS * standard.flatten(1), spread.log()[:, None]]
    return torch.cat(parts, 1).numpy()
