"""Benchmark: accuracy predicted by weight-space encoders of the literature, next to ours, on the same runs.

    python -m benchmarks.weight_encoders [--zoo data/zoo] [--tokens data/tokens] [--families mlp cnn]

    encoder + ridge   linear regression on latents of our encoder, which is trained without labels
    head              our head for the accuracy
    statistics        boosting on seven statistics of each tensor
    probes            boosting on outputs on the encoder's probe images
    NFN               permutation-equivariant layers (Zhou et al. 2023, arXiv 2302.14040), pooled, and a perceptron
    sequence          like SANE (Schuerholt et al. 2024, arXiv 2406.09997): a token per unit with its position, units aligned
                      to a reference; a transformer, the mean over tokens, and a linear layer

Each family is a problem of its own, with the splits of the tokens. NFN and sequence are trained on accuracies of the training
runs for as many CPU seconds as our encoder takes to find its probes, compute the features of the whole zoo and train; the epoch
is selected on the validation runs. An NFN takes networks of one depth, of any widths, so networks of another depth than most
of the family are left out for all. Package `nfn` is installed by pip into a folder; NFN is left out if that fails. Prints a
Markdown table with 95% intervals over runs. Some five minutes of one core.
"""

import argparse
import copy
import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.held_out import PARAMS, encoded, predicted, with_interval
from wscore.config import load_section
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.heads.evaluation.evaluate import HeadResults, heads_report
from wscore.heads.targets import encode_targets
from wscore.networks.layout import Layout
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache
from wscore.tokens.tokenizer import FEATURES
from wscore.zoo.store import Zoo

PACKAGES = ("nfn==0.1.2", "einops==0.8.1")
NAMES = {"linear_probe": "encoder + ridge", "ours": "head", "statistics": "statistics", "probes": "probes"}
CHANNELS, WIDTH, HEADS, BLOCKS, UNITS = 8, 64, 4, 3, 64
BATCH, RATE, DECAY, NOISE = 32, 2e-3, 0.01, 0.02
LAYER, PLACE = FEATURES.index("layer"), FEATURES.index("position_in_layer")


class Rows(NamedTuple):
    """Networks of a family with their scaled accuracies.

    Attributes:
        keys: layout of each network of the zoo.
        values: scaled accuracy of each network of the zoo.
        train: rows of the training networks.
        validation: rows of the validation networks.
    """

    keys: np.ndarray
    values: np.ndarray
    train: np.ndarray
    validation: np.ndarray

    def batches(self, rows: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield batches of one layout each, in random order."""
        shuffled = random.permutation(rows)
        groups = [shuffled[self.keys[shuffled] == key] for key in np.unique(self.keys[rows])]
        parts = [part for group in groups for part in np.array_split(group, -(-len(group) // BATCH))]
        yield from (parts[place] for place in random.permutation(len(parts)))


class Sequence(nn.Module):
    """Transformer over the units of a network."""

    def __init__(self, cache: TokenCache) -> None:
        super().__init__()
        self.cache = cache
        self.inputs = nn.Linear(2 * cache.token_dim, WIDTH)
        self.layer, self.place = nn.Embedding(UNITS, WIDTH), nn.Embedding(UNITS, WIDTH)
        options: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.1, **options)
        self.blocks = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
        self.readout = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1))

    def batch(self, rows: np.ndarray) -> TokenBatch:
        """Return the tokens of networks of one layout."""
        batch = self.cache.batch(self.cache.items(rows))
        length = int(batch.token_mask.sum(1).max())
        return TokenBatch._make([*(tensor[:, :length] for tensor in batch[:3]), batch.layouts])

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return the scaled accuracy (B, 1) of networks."""
        tokens = batch.tokens + NOISE * torch.randn_like(batch.tokens) * self.training
        layers, places = (batch.features[..., column] for column in (LAYER, PLACE))
        x = self.inputs(torch.cat([tokens * batch.mask, batch.mask.float()], -1))
        x = x + self.layer(layers.long()) + self.place((places * UNITS).long())
        return self.readout(self.blocks(x).mean(1))


class Nfn(nn.Module):
    """Equivariant layers, pooled over the units of each layer, and a perceptron."""

    def __init__(self, zoo: Zoo, rows: Rows) -> None:
        super().__init__()
        self.zoo = zoo
        self.common, layers = importlib.import_module("nfn.common"), importlib.import_module("nfn.layers")
        self.scales = [1.0] * (2 * len(self._layers(rows.train[:1])))
        each = [self._layers(rows.train[rows.keys[rows.train] == key]) for key in np.unique(rows.keys[rows.train])]
        numbers = [[float(t.square().mean().sqrt()) for pair in group for t in pair] for group in each]
        self.scales = np.mean(numbers, axis=0).tolist()
        spec = self.common.network_spec_from_wsfeat(self.batch(rows.train[:1]))
        body: list[nn.Module] = []
        for before in (1, CHANNELS, CHANNELS):
            body += [layers.HNPLinear(spec, before, CHANNELS), layers.TupleOp(nn.GELU())]
        pooled = layers.HNPPool.get_num_outs(spec) * CHANNELS
        head = [nn.Linear(pooled, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 1)]
        self.body = nn.Sequential(*body, layers.HNPPool(spec), nn.Flatten(), nn.LayerNorm(pooled), *head)

    def _layers(self, rows: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        return layers_of(self.zoo.layout(int(rows[0])), self.zoo.weights(rows))

    def batch(self, rows: np.ndarray) -> Any:
        """Return the weights of networks of one layout, each tensor divided by its mean size in training."""
        pairs = self._layers(rows)
        weights = [weight / scale for (weight, _), scale in zip(pairs, self.scales[::2], strict=True)]
        biases = [bias / scale for (_, bias), scale in zip(pairs, self.scales[1::2], strict=True)]
        return self.common.WeightSpaceFeatures(weights, biases)

    def forward(self, batch: Any) -> Tensor:
        """Return the scaled accuracy (B, 1) of networks."""
        return self.body(batch.map(lambda x: x + NOISE * torch.randn_like(x)) if self.training else batch)


def layers_of(layout: Layout, vectors: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """Return weights (n, 1, out, in[, k, k]) and biases (n, 1, out) of layers; pixels of the maps are the kernel of the last."""
    tensors = list(layout.unflatten(torch.from_numpy(vectors)).values())
    pairs, units = [], 0
    for matrix, bias in zip(tensors[::2], tensors[1::2], strict=True):
        side = round((matrix.shape[2] / units) ** 0.5) if units and matrix.ndim == 3 else 1
        weight = matrix.unflatten(2, (units, side, side)) if side > 1 else matrix
        pairs.append((weight[:, None], bias[:, None]))
        units = weight.shape[1]
    return pairs


def main() -> None:
    """Print one table per family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("data/zoo"))
    parser.add_argument("--tokens", type=Path, default=Path("data/tokens"))
    parser.add_argument("--families", nargs="+", default=["mlp", "cnn"])
    parser.add_argument("--packages", type=Path, default=Path(".cache/nfn"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo, cache, has_nfn = Zoo(options.zoo), TokenCache(options.tokens), install(options.packages)
    print("| family | method | CPU s of training | test R² / tau | unseen widths R² / tau |\n|---|---|---:|---:|---:|")
    for family in options.families:
        for line in compare(zoo, cache, family, has_nfn=has_nfn):
            print(f"| {family} | {line} |", flush=True)


def install(folder: Path) -> bool:
    """Return whether package nfn can be imported, installing it into a folder if it is not there."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    try:
        if not folder.is_dir():
            subprocess.run(command, check=True, capture_output=True, text=True)
        sys.path.append(str(folder))
        importlib.import_module("nfn.layers")
    except (subprocess.CalledProcessError, ImportError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        print(f"NFN is left out: {reason}")
        return False
    return True


def compare(zoo: Zoo, cache: TokenCache, family: str, *, has_nfn: bool) -> Iterator[str]:
    """Yield one line of the table per method."""
    split = np.where(of_one_depth(zoo, family), cache.splits(len(zoo)), "aside")
    start = time.process_time()
    data = encoded(zoo, split)
    seconds = {"linear_probe": time.process_time() - start}
    start = time.process_time()
    results = predicted(zoo, data)
    seconds["ours"] = seconds["linear_probe"] + time.process_time() - start
    values = encode_targets(results.targets, zoo.table).values[:, 0]
    rows = Rows(
        zoo.table["layout"].to_numpy(str), values, *(np.flatnonzero(split == s) for s in ("train", "validation"))
    )
    makers = {"sequence": lambda: Sequence(cache), **({"NFN": lambda: Nfn(zoo, rows)} if has_nfn else {})}
    for name, make in makers.items():
        torch.manual_seed(0)
        model, seconds[name] = train(make(), rows, budget=seconds["linear_probe"])
        results = with_method(results, name, model, rows)
    config = load_section(EvaluateHeadsConfig, "evaluate_heads", PARAMS)
    reports = [heads_report(part, config) for part in (results, results.unseen) if part]
    for name in dict.fromkeys((*NAMES, *seconds)):
        scores = (" / ".join(with_interval(each[name], metric) for metric in ("r2", "kendall_tau")) for each in reports)
        yield " | ".join([NAMES.get(name, name), f"{seconds[name]:.0f}" if name in seconds else "", *scores])


def of_one_depth(zoo: Zoo, family: str) -> np.ndarray:
    """Return which networks are of a family and of its most frequent sequence of kinds of tensors."""
    kinds = {key: tuple(spec.kind for spec in layout.tensors) for key, layout in zoo.layouts.items()}
    each = [
        kinds[key] if own == family else () for key, own in zip(zoo.table["layout"], zoo.table["family"], strict=True)
    ]
    most = max({kind for kind in each if kind}, key=each.count)
    return np.array([kind == most for kind in each])


def train(model: Any, rows: Rows, *, budget: float) -> tuple[nn.Module, float]:
    """Return a model in its best epoch on the validation networks, and the CPU seconds of its training."""
    start, random = time.process_time(), np.random.default_rng(0)
    optimizer, best, state = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY), np.inf, {}
    while (spent := (time.process_time() - start) / budget) < 1:
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, 20 * spent + 0.02) * (1 - spent)
        for batch in rows.batches(rows.train, random):
            loss = nn.functional.mse_loss(model.train()(model.batch(batch))[:, 0], rows_of(rows, batch))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        error = float(np.mean((outputs(model, rows, rows.validation) - rows.values[rows.validation]) ** 2))
        if error < best:
            best, state = error, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    return model.eval(), time.process_time() - start


def rows_of(rows: Rows, batch: np.ndarray) -> Tensor:
    """Return the scaled accuracies of networks in float32."""
    return torch.from_numpy(rows.values[batch]).float()


@torch.no_grad()
def outputs(model: Any, rows: Rows, wanted: np.ndarray) -> np.ndarray:
    """Return the predictions of a model for networks, in their order."""
    predictions = np.zeros(len(rows.values))
    for batch in rows.batches(wanted, np.random.default_rng(0)):
        predictions[batch] = model.eval()(model.batch(batch))[:, 0].numpy()
    return predictions[wanted]


def with_method(results: HeadResults, name: str, model: nn.Module, rows: Rows) -> HeadResults:
    """Return results with the predictions of one more method, on networks of unseen widths too."""
    values = outputs(model, rows, results.table["row"].to_numpy(int))[:, None]
    unseen = results.unseen and with_method(results.unseen, name, model, rows)
    return results._replace(outputs={**results.outputs, name: {results.targets[0].name: values}}, unseen=unseen)


if __name__ == "__main__":
    main()
