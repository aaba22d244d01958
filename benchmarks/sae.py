"""Benchmark: speed of a training step of a sparse dictionary, next to a plain dense one in PyTorch.

    python -m benchmarks.sae

Prints rows per second of forward, backward, AdamW step and renormalisation for each sparsity, and in brackets the ratio
to a naive sparse autoencoder (two `nn.Linear`, ReLU, mean squared error plus L1, the same optimizer) without unit-norm
atoms, threshold or top-k. Half of the latents count as dead where the auxiliary loss is measured. Best of several runs,
one thread. Takes about a minute and a half.
"""

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wscore.config import convert, read_yaml
from wscore.sae.dataset import Scaler
from wscore.sae.rows import UnitBatch
from wscore.sae.train import SaeConfig, SparseTrainingModule, build_sae, sae_objective

SPARSITIES = ("l1", "kl", "hoyer", "topk", "batchtopk", "jumprelu")
SIZES = ((256, 2048, 256), (768, 16384, 64))  # input, latents, rows per step
K = 32
SECONDS = 2.0  # per measurement
PARAMS = Path(__file__).parents[1] / "params.yaml"


class Dense(nn.Module):
    """The naive reference."""

    def __init__(self, width: int, latents: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(width, latents), nn.Linear(latents, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and reconstruction."""
        codes = self.encoder(x).relu()
        return codes, self.decoder(codes)


class Case(NamedTuple):
    """One measurement.

    Attributes:
        name: of the step.
        step: callable that runs it.
    """

    name: str
    step: Callable[[], object]


def dense_step(width: int, latents: int, x: Tensor) -> Callable[[], object]:
    """Return a training step of the reference."""
    model = Dense(width, latents)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        codes, rebuilt = model(x)
        ((rebuilt - x).square().mean() + 1e-3 * codes.abs().mean()).backward()
        optimizer.step()

    return step


def sparse_step(sparsity: str, width: int, latents: int, x: Tensor, *, dead: bool = False) -> Callable[[], object]:
    """Return a training step of a dictionary as in the training loop."""
    section = read_yaml(PARAMS)["sae"]
    changes = {"sparsity": sparsity, "latent_dim": latents, "k": K, "dead": "auxiliary" if dead else "none"}
    config = convert({**section, **changes}, SaeConfig, where="sae")
    still, one = torch.zeros(width), torch.ones(width)
    trainee = SparseTrainingModule(build_sae(config, width, Scaler(still, one, still, float(width)))).train()
    loss, batch = sae_objective(config, spread=float(width), rows=1), UnitBatch(x, torch.ones_like(x, dtype=torch.bool))
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def step() -> None:
        if dead:
            trainee.silent[: latents // 2] = 1e9
        optimizer.zero_grad()
        loss(trainee, batch)["loss"].backward()
        optimizer.step()
        trainee.model.normalize()

    return step


def seconds(step: Callable[[], object]) -> float:
    """Return the shortest time of a step after one warm-up step."""
    step()
    best, end = float("inf"), time.perf_counter() + SECONDS
    for number in count():
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end and number >= 2:
            return best
    return best


def cases(width: int, latents: int, x: Tensor) -> Iterator[Case]:
    """Yield all measurements of one size, the reference first; each model is freed before the next is built."""
    yield Case("plain dense PyTorch", dense_step(width, latents, x))
    for name in SPARSITIES:
        yield Case(name, sparse_step(name, width, latents, x))
    yield Case("topk, half of the latents dead", sparse_step("topk", width, latents, x, dead=True))


def main() -> None:
    """Print one line per size and step."""
    torch.set_num_threads(1)
    for width, latents, rows in SIZES:
        torch.manual_seed(0)
        x = torch.randn(rows, width)
        print(f"\n{width} -> {latents}, {rows} rows per step, k = {K}")
        rival = 0.0
        for case in cases(width, latents, x):
            speed = rows / seconds(case.step)
            rival = rival or speed
            print(f"  {case.name:<32}{speed:>10,.0f} rows/s  ({speed / rival:.2f}x)", flush=True)


if __name__ == "__main__":
    main()
