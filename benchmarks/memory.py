"""Benchmark: peak memory of the stages that read a zoo, at two zoo sizes; it should hardly grow.

    python -m benchmarks.memory [--networks 2000 50000] [--stages tokenize_zoo ...]

Every stage runs in a separate process on a zoo of small perceptrons (about 160 random weights) written without
training; `generate_zoo` trains one. Two peaks over the life of the process are given for each:

- own: anonymous memory (`RssAnon` in /proc/PID/status, read every 5 ms), which must fit into RAM
- all: own memory and pages of mapped files, such as tokens.npy (`VmHWM`), which the system may drop

The metadata table grows with the zoo; the memory for weights and tokens must not. Linux only; takes minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import layout_of
from wscore.zoo.store import write_layouts, write_part

ROOT = Path(__file__).parent.parent
CHECKPOINTS = 4
PER_PART = 4096
KNOWN = Architecture(family="mlp", input=(1, 8, 8), classes=10, widths=(2,), activation="relu", pooling="none")
STAGES = {
    "generate_zoo": "--out zoo --report report.csv --metrics zoo.json",
    "fetch_zoo": "--out zoo --report report.csv --metrics zoo.json",
    "tokenize_zoo": "--zoo zoo --out tokens --metrics tokens.json",
    "train_autoencoder": "--zoo zoo --tokens tokens --out autoencoder --history history.csv --metrics autoencoder.json",
    "cache_representations": "--zoo zoo --tokens tokens --autoencoder autoencoder --out representations",
    "train_heads": "--task accuracy --zoo zoo --tokens tokens --autoencoder autoencoder --representations representations "
    "--out head --history head.csv",
}


TEXT = "{:<22}{:>10}{:>10}{:>9}{:>12}{:>10}{:>10}{:>9}{:>12}"


class Peak(NamedTuple):
    """Peak memory of a process in MB, and its run time.

    Attributes:
        own: anonymous pages.
        all: pages of mapped files too.
        seconds: from start to end.
    """

    own: float
    all: float
    seconds: float


def main() -> None:
    """Print the peaks of each stage at each size, and the growth with the larger zoo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, nargs=2, default=[2000, 50000])
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=list(STAGES),
        default=list(STAGES),
        help="stages to measure; others run unmeasured",
    )
    options = parser.parse_args()
    few, many = options.networks
    peaks = {count: measure(count, options.stages) for count in (few, many)}
    print(f"peak memory in MB at {few:,} and {many:,} networks, growth, and bytes per further network")
    heads = ("own", "", "", "per network", "all", "", "", "per network")
    print(TEXT.format("stage", *heads))
    for stage in options.stages:
        cells = []
        for kind in ("own", "all"):
            a, b = (getattr(peaks[count][stage], kind) for count in (few, many))
            cells += [f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.2f}x", f"{1e6 * (b - a) / (many - few):,.0f}"]
        print(TEXT.format(stage, *cells))


def measure(count: int, stages: list[str]) -> dict[str, Peak]:
    """Return the peak memory of each stage on a zoo of `count` networks, up to the last requested stage."""
    last = max(list(STAGES).index(stage) for stage in stages)
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        write_zoo(folder / "published", count)
        write_params(folder, count)
        for stage in list(STAGES)[: last + 1]:
            if stage == "generate_zoo":
                if stage in stages:
                    found[stage] = peak(folder / "generated", "fetch_zoo", STAGES[stage])
                    shutil.rmtree(folder / "generated")
            else:
                found[stage] = peak(folder, stage, STAGES[stage])
            if stage not in found:
                continue
            print(f"{count:>8,} {stage:<22} own {found[stage].own:,.0f} all {found[stage].all:,.0f} MB", end=" ")
            print(f"in {found[stage].seconds:,.0f} s", flush=True)
        return found


def write_zoo(folder: Path, count: int) -> None:
    """Write random networks in parts."""
    layout, rng = layout_of(build(KNOWN).state_dict()), np.random.default_rng(0)
    for part, start in enumerate(range(0, count, PER_PART)):
        numbers = range(start, min(start + PER_PART, count))
        rows = [
            {"model_id": f"m{n}", "run_id": f"run-{n // CHECKPOINTS:06d}", "checkpoint": n % CHECKPOINTS,
             "layout": layout.identity, "architecture": KNOWN.to_json(), "family": "mlp",
             "test_accuracy": float(rng.random()), "train_accuracy": float(rng.random())}
            for n in numbers
        ]  # fmt: skip
        vectors = [rng.standard_normal(layout.size).astype(np.float32) for _ in numbers]
        write_part(folder / "rows" / f"part-{part:05d}.parquet", pd.DataFrame(rows), vectors)
    write_layouts(folder, [layout])


def write_params(folder: Path, count: int) -> None:
    """Write the parameters of the repository with the published zoo as source and one short epoch of training.

    With `generated`, a zoo of as many networks is trained instead: perceptrons of two hidden units, in a few steps.
    """
    yaml = YAML()
    content = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["zoo"].update(source="hub", path="published")
    content["ae"].update(epochs=1, hidden_dim=32, latent_dim=16)
    content["heads"].update(epochs=1, copies=1, boosting_rounds=10)
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    content["zoo"].update(
        source="generate", path=None, n_runs=count // CHECKPOINTS, checkpoints=CHECKPOINTS, families=["mlp"],
        widths={"mlp": [[2]]}, epochs=[2, 2], train_fraction=[0.1, 0.1], batch_sizes=[32],
    )  # fmt: skip
    (folder / "generated").mkdir()
    with (folder / "generated" / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def peak(folder: Path, stage: str, options: str) -> Peak:
    """Run a stage and return its peak memory."""
    command = [sys.executable, "-m", f"stages.{stage}", *options.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WSCORE_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    own, whole, start = 0.0, 0.0, time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            found = status(process.pid)
            own, whole = max(own, found.get("RssAnon", 0)), max(whole, found.get("VmHWM", 0))
            time.sleep(0.005)
    if process.returncode:
        raise SystemExit((folder / "log").read_text()[-2000:])
    return Peak(own / 1e3, whole / 1e3, time.perf_counter() - start)


def status(pid: int) -> dict[str, float]:
    """Return the sizes (kB) in /proc/PID/status, none once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    parts = (line.split() for line in lines)
    return {part[0].rstrip(":"): float(part[1]) * 1.024 for part in parts if part[-1] == "kB"}


if __name__ == "__main__":
    main()
