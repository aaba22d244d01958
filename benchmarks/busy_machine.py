"""Benchmark: slow-down of training under other load, with sleeping (as set by wscore) and spinning idle OpenMP threads.

    python -m benchmarks.busy_machine [--repeats 3] [--busy 2]

Times the main work of `train_heads`, small steps of a perceptron and histogram boosting, in a separate process: alone
and next to busy loops. Prints seconds (the best of the repeats) and their ratio to the quiet machine
with the default of GNU OpenMP. With as many loops as cores the work gets half of each core, which explains a ratio of
2.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wscore  # sets how idle threads wait, before torch and scikit-learn load

ROOT = Path(__file__).parents[1]
STEPS, TREES = 60, 8
SETTINGS = {
    "spinning (default of GNU OpenMP)": {"GOMP_SPINCOUNT": "300000"},
    "sleeping (wscore)": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def main() -> None:
    """Time every setting on a quiet and a busy machine, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="busy loops next to the work")
    parser.add_argument("--work", action="store_true", help="do the work once and print its seconds")
    options = parser.parse_args()
    if options.work:
        print(seconds_of_work())
        return
    reference = 0.0
    for name, setting in SETTINGS.items():
        times = []
        for count in (0, options.busy):
            with loops(count):
                times.append(min(measure(setting) for _ in range(options.repeats)))
        reference = reference or times[0]
        quiet, busy = (f"{seconds:6.2f} s ({seconds / reference:5.2f})" for seconds in times)
        print(f"{name:34} quiet {quiet}   busy {busy}", flush=True)


def measure(setting: dict[str, str]) -> float:
    """Return the seconds of the work in a new process with these settings of OpenMP."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-m", "benchmarks.busy_machine", "--work"]
    output = subprocess.run(command, cwd=ROOT, env=inherited | setting, check=True, capture_output=True, text=True)
    return float(output.stdout)


@contextmanager
def loops(count: int) -> Iterator[None]:
    """Keep a number of cores busy within the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds_of_work() -> float:
    """Return the seconds of a short training of a perceptron and of boosting."""
    import numpy as np
    import torch
    from sklearn.ensemble import HistGradientBoostingRegressor
    from torch import nn

    assert wscore.__version__
    x = torch.randn(2048, 512, generator=torch.Generator().manual_seed(0))
    y = x[:, :8].sum(1, keepdim=True)
    model = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    boosting = HistGradientBoostingRegressor(max_iter=TREES, max_leaf_nodes=15, early_stopping="auto")
    start = time.perf_counter()
    for step in range(STEPS):
        some = slice(step % 16 * 128, (step % 16 + 1) * 128)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[some]), y[some]).backward()
        optimizer.step()
    boosting.fit(x.numpy(), np.ravel(y.numpy()))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
