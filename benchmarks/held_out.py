"""Benchmark: accuracy of networks of a family or data set that neither encoder, probes nor head have seen.

    python -m benchmarks.held_out --column family [--runs 300]
    python -m benchmarks.held_out --column dataset --datasets digits letters [--root NAME=FOLDER ...]

Everything is fitted without the group: probe images, features, encoder, accuracy head and its mixing weights. It is evaluated
on the test runs of the group, next to a linear probe and to boosting on weight statistics and on outputs. The zoo is made for
this: runs are sampled as in the default zoo and alternate between the data sets (images of 8 x 8 pixels); `letters` are drawn
here, others are built in or read from a folder. Some three minutes of one core.
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
from wscore.heads.evaluation.evaluate import control_inputs, evaluate, heads_report
from wscore.heads.evaluation.ood import hold_out
from wscore.heads.features import split_blocks
from wscore.heads.train import HeadsConfig, train_head
from wscore.networks.datasets import DataConfig
from wscore.zoo.config import ZooConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.splits import assign_splits
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[1] / "params.yaml"
METHODS = ("ours", "linear_probe", "statistics", "probes")
LATENT_DIM = 256
SIZE = 8  # pixels
TEXT = "{:14} {:>8} {:>6} {:>14} {:>14} {:>14} {:>14} {:>6}"


def main() -> None:
    """Print one line per held-out group: R2 / tau of each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", choices=("family", "dataset"), default="family")
    parser.add_argument("--datasets", nargs="+", default=["digits"])
    parser.add_argument("--root", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(TEXT.format("without", "networks", "inside", *METHODS, "CPU s"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        roots = dict(text.split("=", 1) for text in options.root)
        zoo = small_zoo(Path(folder), options.datasets, roots, options.runs)
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
    """Print one line for each value of a column."""
    for value in sorted(set(zoo.table[column].astype(str))):
        start = time.process_time()
        result, inside = without(zoo, hold_out(zoo.table.assign(split=split), column, value))
        cells = [f"{result[name]['r2']:.3f} / {result[name]['kendall_tau']:.3f}" for name in METHODS]
        seconds = time.process_time() - start
        print(TEXT.format(value, f"{result['networks']:.0f}", f"{inside:.2f}", *cells, f"{seconds:.0f}"), flush=True)


def without(zoo: Zoo, split: np.ndarray) -> tuple[dict, float]:
    """Return the report of an accuracy head on the test split, and the share of it that the encoder takes for inside.

    Args:
        zoo: of the networks.
        split: of each network; encoder and head are fitted to `train` and `validation`.
    """
    config = load_section(EvaluateHeadsConfig, "evaluate_heads", PARAMS)
    heads = msgspec.structs.replace(load_section(HeadsConfig, "heads", PARAMS), tasks=("accuracy",))
    encoder, _ = WeightEncoder.fit(zoo, split, load_section(EncoderConfig, "encoder", PARAMS), latent_dim=LATENT_DIM)
    features = zoo_features(zoo, encoder.probes)
    encoding = encoder.encode_features(features)
    table = zoo.table.assign(row=np.arange(len(zoo)), split=split, inside=encoding.inside.numpy())
    data = HeadData(encoding.latents.numpy(), table, encoder.identity, split_blocks(features))
    data = data.take(np.isin(split, ("train", "validation", "test")))
    head, _ = train_head("accuracy", heads, data)
    results = evaluate(head, data, control_inputs(zoo, data, heads, config), config)
    return heads_report(results, config), float(np.mean(data.part("test").table["inside"].to_numpy(float) > OUTSIDE))


if __name__ == "__main__":
    main()
