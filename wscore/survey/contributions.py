"""What each hidden unit contributes to right outputs on the probe images of the encoder: flipped units work against it.

The same pass shows whether running statistics match (`wscore.survey.running_statistics`).

With the margin M, the mean logit of the right class above the mean of all, unit i with incoming weights w_i contributes
c_i = w_i . dM/dw_i, one backward pass for all units. Nearly all units of a trained network contribute to right outputs. A
network is run under the hypothesis on its activation, pooling and blocks (`wscore.encoder.chain_outputs`) with most hits.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.encoder.chain import read_chains
from wscore.encoder.chain_outputs import HYPOTHESES, POOLINGS, Guess, Moments, chain_logits, find_probes
from wscore.encoder.dreamed_probes import Probes, ProbeSets
from wscore.encoder.features import CHAIN, Numbers
from wscore.encoder.weight_statistics import tensor_roles
from wscore.networks.layout import Layout
from wscore.survey.damages import MATRICES
from wscore.survey.rules import matrix_roles
from wscore.survey.running_statistics import running_match

TINY = 1e-12
BLOCK = 64  # networks that are run at once
Vectors = Float[np.ndarray, "networks weights"]


def unit_contributions(layout: Layout, vectors: Vectors, probes: ProbeSets, outputs: Numbers) -> Numbers:
    """Return what units contribute, by names such as `linear[-2].least_part`, and how running statistics of layers match.

    There is nothing for networks that can't be run.

    Args:
        layout: of the networks.
        vectors: their weights.
        probes: synthetic images.
        outputs: measures of the networks on them under all hypotheses, by names such as `chain.hits.plain.relu.max`.
    """
    chains = read_chains(layout) if probes and f"{CHAIN}hits.{'.'.join(HYPOTHESES[0])}" in outputs else ()
    fitting = find_probes(chains[0], probes) if chains else None
    if fitting is None:
        return {}
    likely = likeliest(outputs)
    numbers: Numbers = {}
    for number in np.unique(likely).tolist():
        blocks, activation, pooling = HYPOTHESES[number]
        chain = chains[-1 if blocks == "residual" else 0]
        guess = Guess(chain, activation, pooling if chain.grid else POOLINGS[0])
        rows = np.flatnonzero(likely == number)
        for start in range(0, len(rows), BLOCK):
            chosen = rows[start : start + BLOCK]
            for name, column in _measured(guess, layout, vectors[chosen], fitting).items():
                numbers.setdefault(name, np.full(len(vectors), np.nan))[chosen] = column
    return numbers


def likeliest(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the number of the hypothesis with most hits per network; of those, the most confident."""
    quality = [outputs[f"{CHAIN}hits.{'.'.join(guess)}"] + 1e-3 * outputs[f"{CHAIN}right_share.{'.'.join(guess)}"]
               for guess in HYPOTHESES]  # fmt: skip
    return np.argmax(quality, axis=0)


def _measured(guess: Guess, layout: Layout, vectors: Vectors, probes: Probes) -> Numbers:
    """Return the numbers of networks under one hypothesis, from one forward and one backward pass."""
    weights = torch.from_numpy(np.ascontiguousarray(vectors, np.float32)).requires_grad_()
    moments: Moments = {}
    logits = chain_logits(guess, layout.unflatten(weights), probes.images, moments)  # (n, P, C)
    right = logits[:, torch.arange(len(probes.labels)), probes.labels]
    margins: Tensor = (right - logits.mean(dim=2)).mean(dim=1)
    (gradient,) = torch.autograd.grad(margins.sum(), weights)
    parts = (weights * gradient).detach().nan_to_num(0.0, 0.0, 0.0).numpy()  # w dM/dw
    moments = {name: (mean.detach(), var.detach()) for name, (mean, var) in moments.items()}
    numbers, roles = _by_role(layout, parts), matrix_roles(layout)
    for tensor, match in running_match(guess.chain, layout.unflatten(weights.detach()), moments):
        numbers |= {f"{roles[tensor]}.{name}": column for name, column in match.items()}
    return numbers


def _by_role(layout: Layout, parts: Float[np.ndarray, "networks weights"]) -> Numbers:
    """Return per matrix the least contribution of a unit, the share of those against the rest, and their balance."""
    numbers: Numbers = {}
    pairs = zip(layout.tensors, tensor_roles(layout), layout.slices().values(), strict=True)
    for spec, (kind, place), span in pairs:
        if spec.kind in MATRICES and spec.size:
            units = parts[:, span].reshape(len(parts), spec.shape[0], -1).sum(axis=2, dtype=np.float64)
            total = np.abs(units).sum(axis=1) + TINY
            role = f"{kind}[-{place}]"
            numbers[f"{role}.least_part"] = units.min(axis=1) / total * spec.shape[0]
            numbers[f"{role}.parts_against"] = (units < 0).mean(axis=1)
            numbers[f"{role}.balance"] = units.sum(axis=1) / total
            numbers[f"{role}.largest_part"] = units.max(axis=1) / total * spec.shape[0]
    return numbers
