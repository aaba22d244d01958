"""Benchmark: checkpoint files read per CPU second, by format, next to plain loops over the libraries of the formats.

    python -m benchmarks.reading [--files 2000]

Networks of 1,972 numbers in 14 tensors: two convolutions with batch normalisation and a linear layer. `ours` is
`read_file_networks`, which also finds the network in the file, checks claims and removes wrappers; the rivals are
`torch.load(weights_only=True)`, `safetensors.torch.load_file` and `dict(numpy.load(...))`. The shortest time of three
alternating rounds counts.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from wscore.networks.architectures import Architecture, build
from wscore.networks.checkpoints import read_file_networks

KNOWN = Architecture(
    family="cnn_bn", input=(1, 8, 8), classes=10, widths=(8, 16), activation="relu", pooling="max"
)  # fmt: skip
ROUNDS = 3
Load = Callable[[Path], Any]
Save = Callable[[dict[str, torch.Tensor], Path], None]
FORMATS: dict[str, tuple[Save, Load, str]] = {
    "pt": (torch.save, lambda path: torch.load(path, weights_only=True), "torch.load"),
    "safetensors": (save_file, load_file, "safetensors.torch"),
    "npz": (
        lambda state, path: np.savez(path, allow_pickle=False, **{name: tensor.numpy() for name, tensor in state.items()}),
        lambda path: dict(np.load(path)),
        "numpy.load",
    ),
}  # fmt: skip


def main() -> None:
    """Print files per CPU second of each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    count = parser.parse_args().files
    torch.set_num_threads(1)
    state = build(KNOWN).state_dict()
    print(f"{'format':<14}{'ours':>8}{'rival':>8}  files per CPU second")
    for suffix, (save, load, rival) in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{place}.{suffix}" for place in range(count)]
            for path in paths:
                save({name: tensor + torch.rand(()).to(tensor.dtype) for name, tensor in state.items()}, path)
            ours, theirs = fastest([lambda path: read_file_networks(path, key=None, most=10**6), load], paths)
        print(f"{suffix:<14}{ours:>8,.0f}{theirs:>8,.0f}  {rival}", flush=True)


def fastest(readers: list[Load], paths: list[Path]) -> list[float]:
    """Return files per CPU second of each reader."""
    seconds: list[list[float]] = [[] for _ in readers]
    for _ in range(ROUNDS):
        for times, read in zip(seconds, readers, strict=True):
            start = time.process_time()
            for path in paths:
                read(path)
            times.append(time.process_time() - start)
    return [len(paths) / min(times) for times in seconds]


if __name__ == "__main__":
    main()
