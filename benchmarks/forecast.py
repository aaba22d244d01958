"""Benchmark: cost of base training (sequential seeds or `torch.func.vmap`) and of a forecast, next to a training step.

    python -m benchmarks.forecast [--repeats 10] [--large-width 3350]

Prints milliseconds (the best of the repeats, on one thread) per step of three LeNet-5; per forecast of five horizons
with its cost per million weights, for every kind of predictor, next to one training step of the same LeNet-5; and the
same for `gram` on a network of 25 million weights, with the memory of the forecast besides history and result.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from wscore.forecasting.models.per_weight import (
    DiffusionPredictor,
    DiffusionPredictorConfig,
    SeriesPredictor,
    SeriesPredictorConfig,
)
from wscore.forecasting.models.predictors import (
    GramPredictor,
    GramPredictorConfig,
    PcaPredictor,
    PcaPredictorConfig,
    WeightPredictor,
)
from wscore.networks.layout import Layout, layout_of
from wscore.networks.lenet import NetworkSpec, build_network, network_layout

SPEC = NetworkSpec(name="lenet5", channels=1, size=28, classes=10)
SEEDS, BATCH, HORIZONS = 3, 64, 5
SHAPE = {
    "sequence_length": 3,
    "horizons": tuple(range(1, HORIZONS + 1)),
    "model_dim": 48,
    "layers": 2,
    "heads": 4,
    "dropout": 0.0,
}
COMPONENTS, MEMBERS = 100, 3


def main() -> None:
    """Time all comparisons, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--large-width", type=int, default=3350, help="hidden units of the large perceptron")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = torch.rand(SEEDS, BATCH, 1, 28, 28), torch.randint(0, 10, (SEEDS, BATCH))
    single, stacked = best(one_by_one(x, y), options.repeats), best(vmapped(x, y), options.repeats)
    print(f"one by one  {single:8.2f} ms per step of {SEEDS} seeds   ratio 1.00")
    print(f"vmap        {stacked:8.2f} ms per step of {SEEDS} seeds   ratio {stacked / single:.2f}")
    layout, history = network_layout(SPEC), torch.randn(3, network_layout(SPEC).size)
    print(f"lenet5, {layout.size:,} weights, forecasts of {HORIZONS} horizons next to a step of batch {BATCH}")
    for name, model in predictors(layout).items():
        count = options.repeats if name in ("gram", "transformer_pca") else 2
        report(name, best(lambda model=model: model.predict(history, layout, HORIZONS), count), single / SEEDS, layout)
    large(options.large_width, max(2, options.repeats // 3))


def report(name: str, forecast: float, step: float, layout: Layout) -> None:
    """Print the cost of a forecast, per million weights and in training steps."""
    each = forecast / layout.size * 1e6
    print(f"{name:18}{forecast:10.2f} ms {each:10.1f} ms per million weights {forecast / step:8.2f} training steps")


def predictors(layout: Layout) -> dict[str, WeightPredictor]:
    """Return an untrained predictor of every kind, with the default sizes."""
    series = {**SHAPE, "chunk_size": 1}
    return {
        "gram": GramPredictor(
            GramPredictorConfig(**SHAPE, lagged_snapshots=(), rank_splits=(3, 20), ensemble_size=MEMBERS)
        ).eval(),
        "transformer_pca": PcaPredictor(
            PcaPredictorConfig(**SHAPE, weights=layout.size, rank=COMPONENTS, mode="residual")
        ).eval(),
        "transformer_param": SeriesPredictor(SeriesPredictorConfig(**series)).eval(),
        "diffusion": DiffusionPredictor(
            DiffusionPredictorConfig(**series, steps=10, samples=8, band=0.8, seed=0)
        ).eval(),
    }


def large(width: int, repeats: int) -> None:
    """Time a forecast and a training step of a large perceptron, and measure the memory added by the forecast."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
    )
    layout, optimizer = layout_of(network.state_dict()), torch.optim.SGD(network.parameters(), lr=0.01)
    x, y = torch.rand(BATCH, 784), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()

    training = best(step, repeats)
    del network, optimizer
    model, history = (
        GramPredictor(
            GramPredictorConfig(**SHAPE, lagged_snapshots=(), rank_splits=(3, 20), ensemble_size=MEMBERS)
        ).eval(),
        torch.randn(3, layout.size),
    )
    before = resident()
    model.predict(history, layout, HORIZONS)
    result = HORIZONS * layout.size * 4 / 2**20
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(f"perceptron, {layout.size:,} weights; history {history.nbytes / 2**20:,.0f} MiB, result {result:,.0f} MiB")
    report("gram", best(lambda: model.predict(history, layout, HORIZONS), repeats), training, layout)
    print(f"                  {max(0.0, extra - result):10.0f} MiB of memory at most besides history and result")


def resident() -> float:
    """Return the current memory of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def one_by_one(x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return a step of sequential training of the networks, as in recordings."""
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
    """Return a step of stacked training of all networks."""
    networks = [build_network(SPEC, seed) for seed in range(SEEDS)]
    parameters, _ = stack_module_state(networks)
    optimizer = torch.optim.SGD(list(parameters.values()), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        logits = vmap(lambda one, some: functional_call(networks[0], one, (some,)))(parameters, x)
        nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").div(BATCH).backward()
        optimizer.step()

    return step


def best(function: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of a call in milliseconds, after one warm-up call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
