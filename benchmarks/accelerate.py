"""Benchmark: steps and time saved by jumps, to the loss of plain training with a tuned rate, next to other methods.

    python -m benchmarks.accelerate [--dataset mnist --root PATH] [--networks lenet5 mlp] [--optimizers momentum adam]

For every network and optimizer the learning rate is tuned first, by the mean validation loss of three separate seeds.
At that rate, seed by seed: plain training, jumps by the learned predictor (also at twice the rate), jumps on a straight
line, Lookahead, and the rate times 2, 3 and 5. Every run is evaluated twice, every ten steps: with its current
weights (just before a jump), and with the mean of its last five snapshots (with jumps: its last six, at a smaller
interval), at no cost of steps. Printed is the share of steps and of CPU time (including forecasts) that each method
saves until the test loss, and the test accuracy, that plain training without averaging reaches at 90% of its
length, and in the last column until the loss that it reaches with averaging: median, worst and best seed. A target
that is never reached counts as a saving of -1.

Every completed run is stored in `--out` and not repeated, so the benchmark can be stopped at any time.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from wscore.config import load_section
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.evaluation.baselines import Linear
from wscore.forecasting.models.predictors import WeightPredictor
from wscore.forecasting.nowcast import PLACES, Nowcast
from wscore.forecasting.trajectories.optimizers import OptimizerName, OptimizerSpec, make_optimizer
from wscore.networks.images import Images, ImagesConfig, load_images
from wscore.networks.lenet import NetworkSpec, build_network
from wscore.training.model_folder import load_model

DESCENT, ADAPTIVE = (0.01, 0.02, 0.03, 0.06, 0.1), (0.001, 0.002, 0.003, 0.006, 0.01)
RATES = {"sgd": (*DESCENT, 0.2, 0.3), "momentum": DESCENT, "adam": ADAPTIVE, "adamw": ADAPTIVE}
FACTORS = {"jumps, rate x 2": 2.0, "rate x 2": 2.0, "rate x 3": 3.0, "rate x 5": 5.0}
METHODS = ("plain", "jumps", "line", "lookahead", *FACTORS)
LABELS = {"jumps": "**jumps**", "line": "jumps on a straight line", "lookahead": "Lookahead (5, 0.5)"}
TUNING_SEEDS, BATCH, EVALUATE_EVERY, SNAPSHOT_EVERY, AVERAGED = (1000, 1001, 1002), 64, 10, 10, 5
LOOKAHEAD_STEPS, LOOKAHEAD_SHARE = 5, 0.5
TARGET, SMOOTHED, HELD_BACK = 0.9, 5, 6


class Case(NamedTuple):
    """One training setting."""

    dataset: str
    network: str
    optimizer: OptimizerName
    steps: int


class Curve(NamedTuple):
    """Curves at every `EVALUATE_EVERY` steps: step, loss and accuracy, current and averaged, CPU seconds so far."""

    step: list[int]
    loss: list[float]
    accuracy: list[float]
    averaged_loss: list[float]
    averaged_accuracy: list[float]
    seconds: list[float]
    jumps: int = 0
    accepted: int = 0


class Store:
    """Finished runs in a file of one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs = path, {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.runs[entry["key"]] = Curve(**entry["curve"])

    def get(self, key: str, make: Any) -> Curve:
        """Return a run; train it if it is missing."""
        if key not in self.runs:
            self.runs[key] = make()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "curve": self.runs[key]._asdict()}) + "\n")
        return self.runs[key]


def main() -> None:
    """Tune, run what is missing, print a table per case."""
    options = arguments()
    torch.set_num_threads(1)
    images = load_images(ImagesConfig(
        dataset=options.dataset, root=options.root, revision=None, size=28, max_train=6000, max_test=options.test_images,
        normalize=None,
    ))  # fmt: skip
    store = Store(Path(options.out))
    model = load_model(Path(options.predictor), WeightPredictor)
    for network, optimizer in product(options.networks, options.optimizers):
        case = Case(options.dataset, network, optimizer, options.steps)
        rate = tuned(case, images, store)
        curves: dict[str, list[Curve]] = {method: [] for method in ("plain", *options.methods)}
        for seed, method in product(options.seeds, curves):  # compared methods run close together in time
            curves[method].append(run(case, images, store, method, rate, seed, model))
        seeds = " ".join(map(str, options.seeds))
        print(f"\n{case.dataset}, {network}, {optimizer}, tuned rate {rate:g}, {case.steps} steps, seeds {seeds}\n")
        for line in table(curves):
            print(line)


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--root", default=None, help="folder of its files")
    parser.add_argument("--networks", nargs="+", default=["mlp"])
    parser.add_argument("--optimizers", nargs="+", default=["momentum", "adam"], choices=RATES)
    parser.add_argument(
        "--methods", nargs="+", default=METHODS[1:], choices=METHODS[1:], help="methods next to plain training"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[20, 21, 22, 23, 24], help="those below 20 were used in development"
    )
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=600)
    found = next((place for place in PLACES if place.is_dir()), PLACES[-1])
    parser.add_argument("--predictor", default=str(found), help="folder of a weight predictor")
    parser.add_argument("--out", default=".cache/benchmarks/accelerate.jsonl", help="file of finished runs")
    return parser.parse_args()


def tuned(case: Case, images: Images, store: Store) -> float:
    """Return the rate with the lowest final mean validation loss; validation images are held out of training."""
    count = len(images.x_train) // HELD_BACK
    inner = images._replace(
        x_train=images.x_train[count:], y_train=images.y_train[count:],
        x_test=images.x_train[:count], y_test=images.y_train[:count],
    )  # fmt: skip
    ends, early = {}, case.steps - SMOOTHED * EVALUATE_EVERY
    for rate in RATES[case.optimizer]:
        found = [
            store.get(
                f"{'/'.join(map(str, case))}/tuning/{rate:g}/{seed}",
                lambda rate=rate, seed=seed: train(case, inner, "plain", rate, seed, first=early),
            )
            for seed in TUNING_SEEDS
        ]
        ends[rate] = float(np.mean([np.nan_to_num(np.mean(one.loss[-SMOOTHED:]), nan=np.inf) for one in found]))
    return min(ends, key=lambda rate: ends[rate])


def run(case: Case, images: Images, store: Store, method: str, rate: float, seed: int, model: WeightPredictor) -> Curve:
    """Return the curve of one run, stored or newly trained."""
    factor = FACTORS.get(method, 1.0)
    which = f"/{identity(model)}" if method.startswith("jumps") else ""
    key = f"{'/'.join(map(str, case))}/{method}/{rate:g}/{seed}{which}"
    return store.get(key, lambda: train(case, images, method, rate * factor, seed, model))


def identity(model: WeightPredictor) -> str:
    """Return a short hash of the weights of a predictor, which separates its runs from those of others."""
    return hashlib.sha256(b"".join(one.numpy().tobytes() for one in model.state_dict().values())).hexdigest()[:8]


def train(
    case: Case,
    images: Images,
    method: str,
    rate: float,
    seed: int,
    model: WeightPredictor | None = None,
    first: int = 0,
) -> Curve:
    """Train once, evaluated after step `first`; initial weights and batches depend on the seed only, not on the method."""
    channels, size = images.x_train.shape[1:3]
    network = build_network(NetworkSpec(name=case.network, channels=channels, size=size, classes=images.classes), seed)
    optimizer = make_optimizer(OptimizerSpec(name=case.optimizer, lr=rate), network.parameters())
    jumps = accelerator(method, network, optimizer, model)
    slow, recent, curve = _copy(network), [_state(network)], Curve([], [], [], [], [], [])
    seconds = 0.0
    for step, chosen in enumerate(batches(len(images.x_train), case.steps, seed), start=1):
        start = time.process_time()
        network.train()
        loss = nn.functional.cross_entropy(network(images.x_train[chosen]), images.y_train[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if method == "lookahead" and step % LOOKAHEAD_STEPS == 0:
            slow = {name: one.lerp(_copy(network)[name], LOOKAHEAD_SHARE) for name, one in slow.items()}
            _put(network, slow)
        seconds += time.process_time() - start
        due = step % EVALUATE_EVERY == 0 and step > first
        found = judged(network, images) if due else ()  # before a jump, i.e. after the recovery from the last one
        start = time.process_time()
        if jumps is not None:
            jumps.step(loss)
        elif step % SNAPSHOT_EVERY == 0:
            recent = [*recent[1 - AVERAGED :], _state(network)]
        if step == case.steps and jumps is not None:
            jumps.finish()
        seconds += time.process_time() - start
        if due:
            with jumps.averaged() if jumps else mean_of(network, recent):
                row = (step, *found, *judged(network, images), seconds)
            for column, value in zip(tuple(curve)[:6], row, strict=True):
                cast(list[float], column).append(value)
    accepted = [jump.accepted for jump in jumps.jumps] if jumps else []
    return curve._replace(jumps=len(accepted), accepted=sum(accepted))


def accelerator(
    method: str, network: nn.Module, optimizer: torch.optim.Optimizer, model: WeightPredictor | None
) -> Nowcast | None:
    """Return the jumps of the method, if any; both kinds of forecast use the same acceptance rule."""
    if method.startswith("jumps"):
        return Nowcast(network, optimizer, predictor=model)
    if method == "line":
        rule = Linear(msgspec.structs.replace(load_section(PredictorConfig, "predictor"), sequence_length=5))
        return Nowcast(network, optimizer, predictor=rule)
    return None


def batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the image numbers of each batch, all batches of one size."""
    generator = torch.Generator().manual_seed(seed)
    whole = max(1, count // BATCH)
    order = torch.zeros(0, dtype=torch.int64)
    for number in range(steps):
        if number % whole == 0:
            order = torch.randperm(count, generator=generator)
        yield order[number % whole * BATCH :][:BATCH]


@torch.no_grad()
def judged(network: nn.Module, images: Images) -> tuple[float, float]:
    """Return test loss and accuracy."""
    network.eval()
    logits = torch.cat([network(some) for some in images.x_test.split(250)])
    accuracy = (logits.argmax(1) == images.y_test).float().mean()
    return float(nn.functional.cross_entropy(logits, images.y_test)), float(accuracy)


@contextmanager
def mean_of(network: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """Set a network to the mean of some states, including running statistics, and restore it afterwards."""
    kept = _state(network)
    floating = {name for name, one in kept.items() if one.is_floating_point()}
    network.load_state_dict({**kept, **{name: torch.stack([one[name] for one in states]).mean(0) for name in floating}})
    yield
    network.load_state_dict(kept)


def table(curves: Mapping[str, Sequence[Curve]]) -> Iterator[str]:
    """Yield a table in Markdown, one row per method: savings with current and, to the right, averaged weights."""
    yield "| | steps to the loss | CPU time | averaged: steps to the loss | CPU time | steps to the accuracy | {} |".format(
        "steps to the averaged loss"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    plain, smooth = curves["plain"], [averaged(one) for one in curves["plain"]]
    for method, runs in curves.items():
        some = [averaged(one) for one in runs]
        columns = [
            spread(plain, runs, "loss", "step"),
            spread(plain, runs, "loss", "seconds"),
            spread(plain, some, "loss", "step"),
            spread(plain, some, "loss", "seconds"),
            spread(plain, some, "accuracy", "step"),
            spread(smooth, some, "loss", "step"),
        ]
        count = sum(one.jumps for one in runs)
        kept = f", kept {sum(one.accepted for one in runs)} of {count}" if count else ""
        yield f"| {LABELS.get(method, method)}{kept} | {' | '.join(columns)} |"


def averaged(curve: Curve) -> Curve:
    """Return the curve of the mean of the last snapshots."""
    return curve._replace(loss=curve.averaged_loss, accuracy=curve.averaged_accuracy)


def saving(plain: Curve, other: Curve, target: str, cost: str) -> float:
    """Return 1 - cost of the method / cost of plain training, until the level of plain training at 90% of its length."""
    sign = 1 if target == "loss" else -1
    smooth = [np.convolve(sign * np.array(getattr(one, target)), np.ones(SMOOTHED) / SMOOTHED, "valid")
              for one in (plain, other)]  # fmt: skip
    wanted = smooth[0][round(TARGET * len(smooth[0])) - 1]
    places = [np.flatnonzero(curve <= wanted) for curve in smooth]
    if not len(places[1]):
        return -1.0
    costs = [
        getattr(one, cost)[int(place[0]) + SMOOTHED - 1] for one, place in zip((plain, other), places, strict=True)
    ]
    return max(-1.0, 1 - costs[1] / costs[0])


def spread(old: Sequence[Curve], new: Sequence[Curve], target: str, cost: str) -> str:
    """Return the savings over the seeds as text: median, worst and best."""
    values = [saving(*pair, target, cost) for pair in zip(old, new, strict=True)]
    if len(set(values)) == 1:
        return "never" if values[0] == -1 else f"{values[0]:.0%}"
    return f"{np.median(values):+.0%} [{min(values):+.0%}, {max(values):+.0%}]"


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in network.named_parameters()}


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in network.state_dict().items()}


@torch.no_grad()
def _put(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, one in network.named_parameters():
        one.copy_(values[name])


if __name__ == "__main__":
    main()
