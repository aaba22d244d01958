"""Peak memory of the stages that read a zoo, at two sizes of the zoo: it should hardly grow.

    python -m benchmarks.memory [--networks 2000 50000]

Every stage runs in a process of its own on a zoo of small perceptrons (about 160 random weights) that is written without
training; its peak resident memory is asked from the operating system when it ends. What must grow is the table of
metadata; what must not is the memory for weights and tokens. Takes some minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from wscore.zoo.architectures import Architecture, build
from wscore.zoo.layout import layout_of
from wscore.zoo.store import write_layouts, write_part

ROOT = Path(__file__).parent.parent
CHECKPOINTS = 4
PER_PART = 4096
KNOWN = Architecture(family="mlp", input=(1, 8, 8), classes=10, widths=(2,), activation="relu", pooling="none")
STAGES = {
    "fetch_zoo": "--out zoo --report report.csv --metrics zoo.json",
    "tokenize_zoo": "--zoo zoo --out tokens --metrics tokens.json",
    "train_autoencoder": "--zoo zoo --tokens tokens --out autoencoder --history history.csv --metrics autoencoder.json",
    "cache_representations": "--zoo zoo --tokens tokens --autoencoder autoencoder --out representations",
}


def main() -> None:
    """Print the peak of each stage at each size, and how much the larger zoo needs more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, nargs=2, default=[2000, 50000])
    few, many = parser.parse_args().networks
    peaks = {count: measure(count) for count in (few, many)}
    print(f"{'peak memory, MB':<24}{few:>10,}{many:>10,}{'growth':>10}{'bytes per network':>20}")
    for stage in STAGES:
        a, b = peaks[few][stage], peaks[many][stage]
        print(f"{stage:<24}{a:>10,.0f}{b:>10,.0f}{b / a:>9.2f}x{1e6 * (b - a) / (many - few):>20,.0f}")


def measure(count: int) -> dict[str, float]:
    """Return the peak memory (MB) of each stage on a zoo of so many networks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zoo(folder / "published", count)
        write_params(folder)
        return {stage: peak(folder, stage, options) for stage, options in STAGES.items()}


def write_zoo(folder: Path, count: int) -> None:
    """Write random networks, part by part."""
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


def write_params(folder: Path) -> None:
    """Write the parameters of the repository with the published zoo as source and one short epoch of training."""
    yaml = YAML()
    content = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["zoo"].update(source="hub", path="published", workers=1)
    content["ae"].update(epochs=1, hidden_dim=32, latent_dim=16)
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def peak(folder: Path, stage: str, options: str) -> float:
    """Run a stage and return its peak resident memory in MB."""
    command = [sys.executable, "-m", f"stages.{stage}", *options.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WSCORE_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "log").read_text()[-2000:])
    return usage.ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)


if __name__ == "__main__":
    main()
