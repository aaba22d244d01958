"""What base training and forecasting cost: seeds one by one beside `torch.func.vmap`, a forecast beside a training step.

    python -m benchmarks.forecast [--repeats 10]

Prints milliseconds (the best of the repeats, on one thread) per step of three LeNet-5, and per forecast of five horizons
with its cost per million weights, beside one training step of the same network.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from wscore.forecasting.networks import NetworkSpec, build_network, network_layout
from wscore.models.predictor import GramPredictor, GramPredictorConfig

SPEC = NetworkSpec(name="lenet5", channels=1, size=28, classes=10)
SEEDS, BATCH = 3, 64


def main() -> None:
    """Time both comparisons, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    x, y = torch.rand(SEEDS, BATCH, 1, 28, 28), torch.randint(0, 10, (SEEDS, BATCH))
    single, stacked = best(one_by_one(x, y), repeats), best(vmapped(x, y), repeats)
    print(f"one by one  {single:8.2f} ms per step of {SEEDS} seeds   ratio 1.00")
    print(f"vmap        {stacked:8.2f} ms per step of {SEEDS} seeds   ratio {stacked / single:.2f}")
    forecast, size = best(forecasting(), repeats), network_layout(SPEC).size
    print(f"forecast    {forecast:8.2f} ms, {forecast / size * 1e6:.1f} ms per million weights")
    print(f"            {forecast / (single / SEEDS):8.2f} training steps of batch {BATCH}")


def one_by_one(x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return a step of each network after the other, as recordings are made."""
    networks = [build_network(SPEC, seed) for seed in range(SEEDS)]
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.01) for network in networks]
    images = [some.contiguous(memory_format=torch.channels_last) for some in x]

    def step() -> None:
        for network, optimizer, some, labels in zip(networks, optimizers, images, y, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(some), labels).backward()
            optimizer.step()

    return step


def vmapped(x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return a step of all networks together."""
    networks = [build_network(SPEC, seed) for seed in range(SEEDS)]
    parameters, _ = stack_module_state(networks)
    optimizer = torch.optim.SGD(list(parameters.values()), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        logits = vmap(lambda one, some: functional_call(networks[0], one, (some,)))(parameters, x)
        nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").div(BATCH).backward()
        optimizer.step()

    return step


def forecasting() -> Callable[[], Tensor]:
    """Return a forecast of five horizons from three snapshots."""
    config = GramPredictorConfig(sequence_length=3, horizons=5, model_dim=48, layers=2, heads=4, dropout=0.0)
    model, layout = GramPredictor(config).eval(), network_layout(SPEC)
    history = torch.randn(3, layout.size)
    return lambda: model.predict(history, layout, 5)


def best(function: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of a call in milliseconds, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
