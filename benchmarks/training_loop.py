"""Benchmark: cost of the training loop per step, next to a plain PyTorch loop with the same arithmetic.

    python -m benchmarks.training_loop [--steps 2000] [--repeats 5]

Prints CPU milliseconds per step (the best of the repeats, which alternate) and their ratio. The plain loop shuffles,
clips and steps in the same way, but has no schedule, loss averages, check for non-finite losses, callbacks or
validation.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wscore.training.loop import FitConfig, TensorBatches, fit

BATCH = 64


def main() -> None:
    """Time both loops, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = torch.randn(50 * BATCH, 128), torch.randn(50 * BATCH, 128)
    epochs = max(1, options.steps // 50)
    rivals: dict[str, Callable[[Tensor, Tensor, int], None]] = {"plain": plain, "wscore": ours}
    best = dict.fromkeys(rivals, float("inf"))
    for _ in range(options.repeats):
        for name, run in rivals.items():
            start = time.process_time()
            run(x, y, epochs)
            best[name] = min(best[name], (time.process_time() - start) / (50 * epochs) * 1e3)
    for name, milliseconds in best.items():
        print(f"{name:8} {milliseconds:.3f} ms per step   ratio {milliseconds / best['plain']:.3f}")


def network() -> nn.Module:
    """Return the network of the comparison."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 128))


def plain(x: Tensor, y: Tensor, epochs: int) -> None:
    """Train with a minimal loop."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for a, b in zip(x[order].split(BATCH), y[order].split(BATCH), strict=True):
            optimizer.zero_grad()
            loss = (model(a) - b).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()


def ours(x: Tensor, y: Tensor, epochs: int) -> None:
    """Train with the project's loop and one small validation batch per epoch."""
    config = FitConfig(
        epochs=epochs, lr=1e-3, weight_decay=0.01, schedule="cosine", warmup=0.05, clip_norm=1.0, accumulate=1,
        patience=epochs, precision="no", seed=0,
    )  # fmt: skip
    train = TensorBatches(x, y, batch_size=BATCH, seed=0)
    validation = TensorBatches(x[:BATCH], y[:BATCH], batch_size=BATCH, shuffle=False)
    fit(network(), train=train, validation=validation, loss=squared_error, config=config)


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return the mean squared error of a batch."""
    inputs, targets = batch
    return {"loss": (model(inputs) - targets).square().mean()}


if __name__ == "__main__":
    main()
