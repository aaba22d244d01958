"""The codec beside NNCodec and plain quantisation on LeNet-5, without a zoo: bytes, agreement on test images, times.

    python -m benchmarks.codec [--trajectories FOLDER]

Trains LeNet-5 on the built-in digits by SGD and by Adam for 20 epochs (section `base`; kept in `--trajectories`). The last
snapshot is coded at about 10x, 25x and 60x, then all 20: the first at a lower ratio, each other as the difference from the last
one that came back. Rivals have no more bytes than are asked of the codec:

    codec         search with the training images
    rounded       the codec on the weights alone
    zstd          one step for all weights, biases in 8 bits, zstd
    NNCodec       ISO/IEC 15938-17, DeepCABAC with trellis quantisation, the finest QP that fits; needs no data

CPU seconds are multiples of those that zstd takes to compress in the same run, its search for the step included. NNCodec needs
an environment of its own, and is left out without it:

    python -m venv .cache/nncodec && .cache/nncodec/bin/pip install nncodec==2.1.3 'numpy<2'
    WSCORE_NNCODEC=.cache/nncodec python -m benchmarks.codec
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.config import load_section
from wscore.forecasting.trajectories.optimizers import OptimizerSpec
from wscore.forecasting.trajectories.store import Trajectory, open_trajectories
from wscore.forecasting.trajectories.train_base import BaseConfig, record_runs
from wscore.networks.images import Images, load_images
from wscore.networks.layout import Layout
from wscore.networks.lenet import build_network

RATIOS = (10.0, 25.0, 60.0)
FIRST_RATIO, CHAIN_RATIO = (
    {"sgd": 6.0, "adam": 13.0},
    {"sgd": 46.0, "adam": 50.0},
)  # of the first snapshot, of differences
QPS = tuple(range(-44, -3))
WORKER = Path(__file__).with_name("_nncodec.py")
LEVELS, ZSTD = 256, pa.Codec("zstd", compression_level=19)  # steps between which bisections choose
State = dict[str, Tensor]


class Result(NamedTuple):
    """Networks that came back.

    Attributes:
        back: one state dict each.
        size: bytes of all files.
        encode: seconds.
        decode: seconds.
    """

    back: list[State]
    size: int
    encode: float
    decode: float


class Case(NamedTuple):
    """Networks that are coded one after the other.

    Attributes:
        name: what is printed.
        module: runs them.
        layout: of all of them.
        states: their weights.
        ratios: bytes in float32 to those of a file, for each.
    """

    name: str
    module: nn.Module
    layout: Layout
    states: list[State]
    ratios: list[float]

    @property
    def rooms(self) -> list[int]:
        """Bytes of each file."""
        return [int(4 * self.layout.size / ratio) for ratio in self.ratios]


def by_codec(case: Case, images: Tensor | None) -> Result:
    """Return networks through files of the codec, each from the last one that came back."""
    codec, back, size, seconds, base = WeightCodec(), [], 0, [0.0, 0.0], None
    run = {} if images is None else {"images": images, "architecture": case.module}
    for state, ratio in zip(case.states, case.ratios, strict=True):
        start = time.process_time()
        data = codec.compress(state, ratio=ratio, reference=base, **run)
        middle = time.process_time()
        base = codec.decompress(data, reference=base)
        seconds = [seconds[0] + middle - start, seconds[1] + time.process_time() - middle]
        back.append(base)
        size += len(data)
    return Result(back, size, *seconds)


def by_zstd(case: Case) -> Result:
    """Return networks quantised with one step and compressed by zstd, as differences likewise."""
    base, back, size = np.zeros(case.layout.size, np.float32), [], 0
    start = time.process_time()
    for state, room in zip(case.states, case.rooms, strict=True):
        restored, used = squeezed(case.layout, case.layout.flatten(state) - base, room)
        base = base + restored
        back.append(case.layout.unflatten(torch.from_numpy(base)))
        size += used
    return Result(back, size, time.process_time() - start, float("nan"))


def squeezed(layout: Layout, vector: np.ndarray, room: int) -> tuple[np.ndarray, int]:
    """Return a network with the finest step that fits `room` bytes after zstd, relative to each tensor, and its bytes."""
    best, shares = (np.zeros_like(vector), 0), np.geomspace(2.01, 1 / 127, LEVELS)
    low, high = -1, LEVELS
    while high - low > 1:
        middle = (low + high) // 2
        restored, size = _squeezed(layout, vector, shares[middle])
        low, high, best = (middle, high, (restored, size)) if size <= room else (low, middle, best)
    return best


def _squeezed(layout: Layout, vector: np.ndarray, share: float) -> tuple[np.ndarray, int]:
    """Return a network with steps of a share of the largest weight of each tensor, and its bytes after zstd."""
    restored, parts = np.zeros_like(vector), []
    for spec, place in zip(layout.tensors, layout.slices().values(), strict=True):
        largest = np.abs(vector[place]).max(initial=0)
        step = float(np.float16(largest * (share if spec.kind in ("linear", "conv") else 1 / 127))) or 1.0
        numbers = np.clip(np.rint(vector[place] / step), -128, 127)
        restored[place] = numbers * step
        parts.append(numbers.astype(np.int8).tobytes())
    return restored, len(ZSTD.compress(b"".join(parts), asbytes=True)) + 2 * len(layout.tensors)


def by_nncodec(case: Case, python: Path) -> Result:
    """Return networks at the finest QP with which all files together take no more than those of the codec."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        arrays = {f"{n}/{name}": value.numpy() for n, state in enumerate(case.states) for name, value in state.items()}
        np.savez(source, allow_pickle=False, **arrays)
        command = [str(python), "-I", str(WORKER), str(source), str(target), *map(str, QPS)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout)
        fits = [qp for qp in QPS if sum(found[str(qp)]["sizes"]) <= sum(case.rooms)]
        best = found[str(chosen := min(fits, default=QPS[-1]))]
        with np.load(target) as arrays:
            back = [
                {name: torch.from_numpy(arrays[f"{chosen}/{n}/{name}"]) for name in state}
                for n, state in enumerate(case.states)
            ]
    return Result(back, sum(best["sizes"]), best["encode"], best["decode"])


def cases(runs: Sequence[Trajectory]) -> Iterator[Case]:
    """Yield what is coded of each run."""
    for run in runs:
        spec, layout = run.manifest.network, run.manifest.layout
        assert spec is not None, "LeNet-5 can be built"
        states = [layout.unflatten(torch.from_numpy(np.array(weights))) for weights in run.weights[1:]]
        module, optimizer = build_network(spec).eval(), run.manifest.optimizer
        for ratio in RATIOS:
            yield Case(f"{optimizer}, last snapshot, {ratio:g}x", module, layout, states[-1:], [ratio])
        ratios = [FIRST_RATIO[optimizer]] + [CHAIN_RATIO[optimizer]] * (len(states) - 1)
        yield Case(f"{optimizer}, {len(states)} snapshots", module, layout, states, ratios)


@torch.no_grad()
def agreement(case: Case, back: list[State], images: Images) -> list[float]:
    """Return the share of test images that each network puts into the class of its original."""
    run = lambda state: torch.func.functional_call(case.module, state, (images.x_test,)).argmax(1)  # noqa: E731
    return [float((run(one) == run(two)).float().mean()) for one, two in zip(case.states, back, strict=True)]


def find_nncodec() -> Path | None:
    """Return the interpreter of the environment named by WSCORE_NNCODEC; None, with a printed reason, without NNCodec."""
    folder = os.environ.get("WSCORE_NNCODEC")
    if folder is None:
        print("NNCodec is left out: WSCORE_NNCODEC names no environment")
        return None
    python = Path(folder).absolute() / "bin" / "python"
    try:
        subprocess.run([str(python), "-c", "import nncodec"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        print(f"NNCodec is left out: WSCORE_NNCODEC={folder}: {reason}")
        return None
    return python


def trajectories(folder: Path, images: Images, config: BaseConfig) -> list[Trajectory]:
    """Return the recorded runs, training them if the folder is not there."""
    if not folder.is_dir():
        optimizers = (OptimizerSpec(name="sgd", lr=0.01), OptimizerSpec(name="adam", lr=0.001))
        changes = {"network": "lenet5", "optimizers": optimizers, "seeds": (0,), "snapshots_per_epoch": 1}
        record_runs(msgspec.structs.replace(config, **changes), images, folder)
    return open_trajectories(folder)


def main() -> None:
    """Print one line per case and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=Path, default=Path(".cache/benchmarks/lenet5"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_section(BaseConfig, "base")
    images, python = load_images(config.images), find_nncodec()
    methods: dict[str, Callable[[Case], Result]] = {
        "zstd": by_zstd,
        "rounded": lambda case: by_codec(case, None),
        "codec": lambda case: by_codec(case, images.x_train),
    }
    if python is not None:
        methods["NNCodec"] = lambda case: by_nncodec(case, python)
    print(f"\n{'':<28}{'':<10}{'bytes':>9}{'ratio':>8}{'agreement':>11}{'worst':>8}{'encode':>9}{'decode':>9}")
    for case in cases(trajectories(options.trajectories, images, config)):
        unit = 0.0
        for name, method in methods.items():
            result = method(case)
            unit = unit or result.encode
            found, whole = agreement(case, result.back, images), 4 * case.layout.size * len(case.states)
            print(
                f"{case.name:<28}{name:<10}{result.size:>9,}{whole / result.size:>7.1f}x{np.mean(found):>11.4f}{min(found):>8.3f}"
                f"{result.encode / unit:>8.2f}x{result.decode / unit:>8.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
