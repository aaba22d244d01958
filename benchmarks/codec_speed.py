"""Times of the weight codec beside zstd and NNCodec: single pass and fit on a zoo, and a network of 25 million weights.

    python -m benchmarks.codec_speed [--zoo data/zoo --tokens data/tokens --codec models/codec]

Networks of the test split are coded at 20x in one pass by the codec of a finished `dvc repro`; zstd, and NNCodec where it can be
used (see `benchmarks.codec`), have no more bytes. The fit is that of stage `fit_codec`. The large network is random and is coded
at 20x in a process of its own, whose peak memory is printed. CPU seconds of one thread, beside multiples of those of zstd, whose
search for the step is included.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.codec import Case, by_nncodec, find_nncodec, squeezed
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.autoencoder.evaluation.evaluate_codec import TEST, rows_of_split
from wscore.config import load_section
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.networks.layout import Layout, layout_of
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

RATIO = 20.0
TIMED, FEW = 32, 4  # networks that zstd and NNCodec code
WIDTH, DEPTH = 2048, 6  # of the large network: 25.2 million weights


class Group(NamedTuple):
    """Networks of one layout."""

    layout: Layout
    weights: np.ndarray


def timed(work: Callable[[], object]) -> float:
    """Return the CPU seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def groups_of(zoo: Zoo, rows: np.ndarray) -> list[Group]:
    """Return the networks of some rows by their layouts."""
    names = zoo.table["layout"].astype(str).to_numpy()[rows]
    return [Group(zoo.layouts[name], zoo.weights(rows[names == name])) for name in np.unique(names)]


def by_codec(codec: WeightCodec, groups: list[Group]) -> None:
    """Code all networks in one pass."""
    for layout, weights in groups:
        codec.compress_vectors(layout, torch.from_numpy(weights), ratio=RATIO)


def by_zstd(groups: list[Group]) -> None:
    """Code all networks with one step each, and zstd."""
    for layout, weights in groups:
        for vector in weights:
            squeezed(layout, vector, int(4 * layout.size / RATIO))


def drawn(groups: list[Group]) -> list[Group]:
    """Return about `TIMED` of the networks."""
    share = TIMED / sum(len(group.weights) for group in groups)
    return [Group(layout, weights[: max(1, round(share * len(weights)))]) for layout, weights in groups]


def nncodec_seconds(groups: list[Group], python: Path) -> float:
    """Return the seconds that NNCodec takes to code the first network of each group, at the step that fits."""
    seconds = 0.0
    for layout, weights in groups:
        flat = layout.unflatten(torch.from_numpy(weights[0]))
        state = {name: value for name, value in flat.items() if value.is_floating_point()}
        seconds += by_nncodec(Case("", nn.Identity(), layout, [state], [RATIO]), python).encode
    return seconds


def print_zoo(zoo: Zoo, cache: TokenCache, codec: WeightCodec, python: Path | None) -> None:
    """Print networks for each CPU second, and what the fit takes."""
    groups = groups_of(zoo, rows_of_split(cache, TEST))
    few, count = drawn(groups), sum(len(group.weights) for group in groups)
    by_codec(codec, few)  # tables are made once
    rates = {"codec": count / timed(lambda: by_codec(codec, groups))}
    rates["zstd"] = sum(len(group.weights) for group in few) / timed(lambda: by_zstd(few))
    if python is not None:
        rates["NNCodec"] = len(few[:FEW]) / nncodec_seconds(few[:FEW], python)
    print(f"single pass of {count} networks at {RATIO:g}x, networks a CPU second (times those of zstd):")
    print("   " + ", ".join(f"{name} {rate:,.0f} ({rate / rates['zstd']:.1f}x)" for name, rate in rates.items()))
    rows, tasks = rows_of_split(cache, "train"), load_tasks(load_section(DataConfig, "data"))
    seconds = timed(lambda: WeightCodec.fit(populations_of(zoo, rows, tasks)))
    print(
        f"fit to {len(rows):,} networks: {seconds:.1f} CPU seconds, as long as zstd takes for {seconds * rates['zstd']:,.0f}"
    )


def large() -> None:
    """Code a network of 25 million weights, and print time and memory."""
    torch.set_num_threads(1)
    network = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)))
    layout = layout_of(network.state_dict())
    seconds, size = [], []
    seconds.append(timed(lambda: size.append(len(WeightCodec().compress(network, ratio=RATIO)))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    vector = layout.flatten(network.state_dict())
    seconds.append(timed(lambda: squeezed(layout, vector, size[0])))
    ratio, times = 4 * layout.size / size[0], seconds[0] / seconds[1]
    print(
        f"{layout.size:,} weights: {ratio:.1f}x in {seconds[0]:.0f} CPU seconds ({times:.2f} times those of zstd), {peak:.2f} GB"
    )


def main() -> None:
    """Print all times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, place in (("zoo", "data/zoo"), ("tokens", "data/tokens"), ("codec", "models/codec")):
        parser.add_argument(f"--{name}", type=Path, default=Path(place))
    options = parser.parse_args()
    torch.set_num_threads(1)
    child = multiprocessing.get_context("spawn").Process(target=large)
    child.start()
    child.join()
    codec, cache = WeightCodec.from_folder(options.codec), TokenCache(options.tokens)
    print_zoo(Zoo(options.zoo), cache, codec, find_nncodec())


if __name__ == "__main__":
    main()
