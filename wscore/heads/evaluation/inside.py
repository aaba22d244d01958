"""Evaluates how well the encoder tells held-out networks of its population from damaged and foreign ones.

    kind         networks
    noise, ...   damaged copies of test networks (`wscore.encoder.damage`)
    foreign      perceptrons of other sizes, trained on random regression tasks

`auroc` is the area under the ROC curve of the p-value `inside`, held-out networks against those of a kind; `outside` the
share of networks that are reported as unlike the training networks.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from torch import nn

from wscore.encoder.damage import damaged
from wscore.encoder.weight_encoder import OUTSIDE, WeightEncoder
from wscore.errors import ModelError
from wscore.heads.dataset import HeadData
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.zoo.splits import UNSEEN
from wscore.zoo.store import Zoo

DAMAGED = 160  # test networks that are damaged in every way
FOREIGN = 16
TEST = "test"
STEPS, RATE = 60, 0.1  # of the training of a foreign network, by gradient descent
P = Float[np.ndarray, " networks"]


def evaluate_inside(encoder: WeightEncoder, zoo: Zoo, data: HeadData, config: EvaluateHeadsConfig) -> dict[str, Any]:
    """Return `auroc` by kind and its mean, and `outside` by split and kind.

    Args:
        encoder: that encoded the networks.
        zoo: of the networks.
        data: networks of all splits, with their p-values.
        config: its seed is that of the damage and the foreign networks.

    Raises:
        ModelError: if another encoder encoded them.
    """
    if encoder.identity != data.encoder:
        raise ModelError(
            "latents come from another encoder", where="features", expected=encoder.identity, got=data.encoder
        )
    inside = {str(split): rows["inside"].to_numpy() for split, rows in data.table.groupby("split")}
    rows = data.table.loc[data.table["split"] == TEST, "row"].to_numpy(int)
    others = damaged_inside(encoder, zoo, rows, seed=config.seed) | {
        "foreign": foreign_inside(encoder, seed=config.seed)
    }
    auroc = {kind: _auroc(inside[TEST], values) for kind, values in others.items()}
    groups = {split: inside[split] for split in (TEST, UNSEEN) if split in inside} | others
    outside = {name: float(np.mean(values <= OUTSIDE)) for name, values in groups.items()}
    return {"auroc": auroc | {"mean": float(np.mean(list(auroc.values())))}, "outside": outside}


def damaged_inside(encoder: WeightEncoder, zoo: Zoo, rows: Int[np.ndarray, " test"], *, seed: int) -> dict[str, P]:
    """Return the p-values of damaged copies of some networks by kind of damage."""
    random = np.random.default_rng(seed)
    drawn = np.sort(random.choice(rows, min(DAMAGED, len(rows)), replace=False))
    keys = zoo.table["layout"].astype(str).to_numpy()[drawn]
    parts: dict[str, list[np.ndarray]] = {}
    for key in np.unique(keys):
        layout = zoo.layouts[str(key)]
        for kind, vectors in damaged(layout, zoo.weights(drawn[keys == key]), random).items():
            parts.setdefault(kind, []).append(encoder.encode_many(layout, vectors).inside.numpy())
    return {kind: np.concatenate(values) for kind, values in parts.items()}


def foreign_inside(encoder: WeightEncoder, *, seed: int) -> P:
    """Return the p-values of networks that were trained on other tasks."""
    random = np.random.default_rng(seed)
    return np.array([encoder.inside(_foreign(random)) for _ in range(FOREIGN)])


def _foreign(random: np.random.Generator) -> nn.Module:
    """Return a perceptron of random size, trained on the outputs of another one."""
    inputs, outputs = int(random.integers(2, 40)), int(random.integers(1, 8))
    widths = [inputs, *random.integers(8, 65, random.integers(1, 4)).tolist(), outputs]
    generator = torch.Generator().manual_seed(int(random.integers(1 << 31)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        network, teacher = _perceptron(widths), _perceptron([inputs, 16, outputs])
    parameters = list(network.parameters())
    for _ in range(STEPS):
        x = torch.randn(64, inputs, generator=generator)
        loss = (network(x) - teacher(x).detach()).square().mean()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= RATE * gradient
    return network


def _perceptron(widths: list[int]) -> nn.Sequential:
    layers = [module for before, after in pairwise(widths) for module in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _auroc(inside: P, others: Float[np.ndarray, " others"]) -> float:
    truth = np.repeat([1, 0], [len(inside), len(others)])
    return float(roc_auc_score(truth, np.concatenate([inside, others])))
