"""Benchmark: accuracy of networks of a family or data set that neither encoder, probes nor head have seen.

    python -m benchmarks.held_out --column family --zoo data/zoo
    python -m benchmarks.held_out --column dataset --datasets digits letters [--root NAME=FOLDER ...] [--runs 300]

Everything is fitted without the group: probe images, features, encoder, accuracy head and its mixing weights. It is evaluated
on the test runs of the group, next to a linear probe on the latents and to boosting on weight statistics and on outputs; a
second row has the same test runs after a fit with all groups. Without a zoo one is made: runs are sampled as in the default
zoo and alternate between the data sets (images of 8 x 8 pixels); `letters` are drawn here, others are built in or read from a
folder. Prints a Markdown table with 95% intervals over runs. Some ten minutes of one core.
"""

import argparse
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import torch

from benchmarks.glyphs import write_glyphs
from wscore.config import load_section
from wscore.encoder.config import EncoderConfig
from wscore.encoder.features import zoo_features
from wscore.encoder.weight_encoder import OUTSIDE, WeightEncoder
from wscore.heads.dataset import HeadData
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.heads.evaluation.evaluate import HeadResults, control_inputs, evaluate, heads_report
from wscore.heads.evaluation.ood import hold_out
from wscore.heads.features import split_blocks
from wscore.heads.train import HeadsConfig, train_head
from wscore.networks.datasets import DataConfig
from wscore.zoo.config import ZooConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.splits import ALL_SPLITS, assign_splits
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[1] / "params.yaml"
METHODS = ("ours", "linear_probe", "statistics", "probes")
LATENT_DIM = 256
SIZE = 8  # pixels


def main() -> None:
    """Print two lines per group: R2 / tau of each method without and with it in training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", choices=("family", "dataset"), default="family")
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["digits"])
    parser.add_argument("--root", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        roots = dict(text.split("=", 1) for text in options.root)
        zoo = Zoo(options.zoo) if options.zoo else small_zoo(Path(folder), options.datasets, roots, options.runs)
        runs = zoo.table["run_id"].to_numpy(str)
        report(zoo, assign_splits(runs, validation_fraction=0.2, test_fraction=0.3, seed=0), options.column)


def small_zoo(folder: Path, datasets: list[str], roots: dict[str, str], runs: int) -> Zoo:
    """Return a zoo whose runs alternate between data sets, otherwise sampled as in the default zoo."""
    if "letters" in datasets and "letters" not in roots:
        roots = {**roots, "letters": str(write_glyphs(folder / "letters"))}
    data, config = load_section(DataConfig, "data", PARAMS), load_section(ZooConfig, "zoo", PARAMS)
    data = msgspec.structs.replace(data, dataset=tuple(datasets), root=roots, size=SIZE, max_train=1200, max_test=500)
    fetch_zoo(msgspec.structs.replace(config, n_runs=runs), data, folder / "zoo")
    return Zoo(folder / "zoo")


def report(zoo: Zoo, split: np.ndarray, column: str) -> None:
    """Print two lines for each value of a column."""
    print(f"| tested on | in training | networks | inside | {' | '.join(METHODS)} | CPU s |")
    print(f"|---|---|---:|---:|{'---:|' * len(METHODS)}---:|", flush=True)
    start = time.process_time()
    everything, seconds = fitted(zoo, split), time.process_time() - start
    for value in sorted(set(zoo.table[column].astype(str))):
        start = time.process_time()
        held_out = fitted(zoo, hold_out(zoo.table.assign(split=split), column, value))
        print(row(value, "no", held_out, time.process_time() - start))
        group = (everything.table[column].astype(str) == value).to_numpy()
        print(row(value, "yes", everything.take(group), seconds), flush=True)


def row(value: str, trained: str, results: HeadResults, seconds: float) -> str:
    """Return one line of the table: R2 with its interval / tau with its interval of each method."""
    scores = heads_report(results, load_section(EvaluateHeadsConfig, "evaluate_heads", PARAMS))
    cells = [" / ".join(with_interval(scores[name], metric) for metric in ("r2", "kendall_tau")) for name in METHODS]
    inside = float(np.mean(results.table["inside"].to_numpy(float) > OUTSIDE))
    return f"| {value} | {trained} | {scores['networks']:.0f} | {inside:.2f} | {' | '.join(cells)} | {seconds:.0f} |"


def with_interval(scores: dict[str, float], metric: str) -> str:
    """Return a metric with its interval as text."""
    return f"{scores[metric]:.3f} [{scores[f'{metric}_low']:.3f}, {scores[f'{metric}_high']:.3f}]"


def fitted(zoo: Zoo, split: np.ndarray) -> HeadResults:
    """Return predictions of the accuracy on the test split by an encoder and a head fitted to the training split."""
    return predicted(zoo, encoded(zoo, split))


def encoded(zoo: Zoo, split: np.ndarray) -> HeadData:
    """Return the networks of the splits with features of an encoder fitted to them; `inside` is in the table."""
    encoder, _ = WeightEncoder.fit(zoo, split, load_section(EncoderConfig, "encoder", PARAMS), latent_dim=LATENT_DIM)
    features = zoo_features(zoo, encoder.probes)
    encoding = encoder.encode_features(features)
    table = zoo.table.assign(row=np.arange(len(zoo)), split=split, inside=encoding.inside.numpy())
    data = HeadData(encoding.latents.numpy(), table, encoder.identity, split_blocks(features))
    return data.take(np.isin(split, ALL_SPLITS))


def predicted(zoo: Zoo, data: HeadData) -> HeadResults:
    """Return predictions of the accuracy on the test split by a head and its baselines fitted to the training split."""
    config = load_section(EvaluateHeadsConfig, "evaluate_heads", PARAMS)
    heads = msgspec.structs.replace(load_section(HeadsConfig, "heads", PARAMS), tasks=("accuracy",))
    head, _ = train_head("accuracy", heads, data)
    return evaluate(head, data, control_inputs(zoo, data, heads, config), config)


if __name__ == "__main__":
    main()
