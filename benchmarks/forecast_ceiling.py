"""Upper bound on forecast skill, given everything but the future batches.

A training step depends on the randomly drawn batch, which is not predictable from the past of a run. From chosen
snapshots, the training is therefore continued several times with newly drawn batches and image shifts; weights,
optimiser state, and the remaining images of the epoch are those of the run. With the displacement y = w(t + k) - w(t)
of each continuation,

    ceiling = 1 - E|y - E y|^2 / E|y|^2

is the skill of the forecast E y, the highest expected skill of any point forecast. The run itself is one more
continuation. Variances are unbiased (n - 1), and so is the ceiling up to the ratio.

`starts` are the snapshots of the continuations; a stride uses all starts within its windows. Skill is pooled over
windows, so each tested window is assigned to the nearest start, with its own squared displacement. The sums of each
start are cached in a folder, and an interrupted measurement resumes with the next start.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section, to_plain
from wscore.errors import DataError
from wscore.forecasting.sequences import Windows
from wscore.forecasting.trajectories.optimizers import OptimizerSpec, make_optimizer
from wscore.forecasting.trajectories.store import Trajectory
from wscore.forecasting.trajectories.train_base import BaseConfig, epoch_batches, moved
from wscore.io import read_json, write_json
from wscore.networks.images import Images
from wscore.networks.lenet import build_network

STRAY = 0.01  # largest deviation of a replayed run from the recorded one, relative to the last change between snapshots
CONTINUED = 2  # third entry of the seeds, so that continuations share no random numbers with a run


class Continued(Section):
    """Statistics of the continuations of a run from one snapshot.

    Args:
        lags: snapshots after it.
        energy: at each lag, the mean of |y|^2.
        variance: at each lag, the variance of y, summed over the weights.
        surprise: at each lag, |y - mean of the others|^2 of the run itself, scaled so that its expectation is the
            variance.
    """

    lags: tuple[int, ...]
    energy: tuple[float, ...]
    variance: tuple[float, ...]
    surprise: tuple[float, ...]


class Lost(NamedTuple):
    """Variance due to batch sampling at one stride and horizon, from each start of a run.

    Attributes:
        weights: squared displacements of the windows assigned to the start.
        share: E|y - E y|^2 / E|y|^2.
        surprise: the same for the run itself.
    """

    weights: Float[np.ndarray, " start"]
    share: Float[np.ndarray, " start"]
    surprise: Float[np.ndarray, " start"]


class Ceiling(NamedTuple):
    """Upper bound on the expected skill of a forecast.

    Attributes:
        skill: the bound.
        error: its standard error, from the variation between starts.
        itself: skill of the mean of the continuations as a forecast of the run itself; if it is far from the ceiling,
            the continuations are not representative of the run.
    """

    skill: float
    error: float
    itself: float


class Plan(NamedTuple):
    """Starts of the continuations of a run.

    Attributes:
        last: for each stride, the snapshots at which its tested windows end.
        horizons: steps ahead, in strides.
        starts: snapshots.
    """

    last: Mapping[int, np.ndarray]
    horizons: Sequence[int]
    starts: Sequence[int]

    def used(self, stride: int) -> list[int]:
        """Return the starts within the windows of a stride."""
        low, high = self.last[stride][[0, -1]]
        return [start for start in self.starts if low <= start <= high]

    def lags(self, start: int) -> list[int]:
        """Return the required numbers of snapshots after a start."""
        return sorted({stride * step for stride in self.last if start in self.used(stride) for step in self.horizons})


def plan_of(windows: Mapping[int, Windows], horizons: Sequence[int], count: int) -> Plan:
    """Return a plan with `count` starts: the midpoints of equal parts of the time in which windows of any stride end."""
    last = {stride: some.last for stride, some in windows.items()}
    low, high = min(some[0] for some in last.values()), max(some[-1] for some in last.values())
    parts = (np.arange(count) + 0.5) / count
    return Plan(last, horizons, [int(start) for start in low + np.floor(parts * (high - low + 1))])


class Training:
    """Training of a network at a constant rate, with given batches.

    Attributes:
        config: of the training; of its optimisers and seeds only those of the run are used.
        seed: of the run.
        images: training images and labels.
        network: in training.
        optimizer: of the training.
        steps: taken so far.
    """

    def __init__(self, config: BaseConfig, run: Trajectory, images: Images) -> None:
        manifest = run.manifest
        if manifest.network is None:
            raise DataError("belongs to a network that can't be built", where=run.folder, fix="record it here")
        self.config, self.seed, self.steps = config, manifest.seed, 0
        self.images = images.x_train.contiguous(memory_format=torch.channels_last), images.y_train
        self.network = build_network(manifest.network, self.seed)
        spec = OptimizerSpec(name=manifest.optimizer, lr=manifest.snapshots.lr[0])  # pyright: ignore[reportArgumentType]
        self.optimizer = make_optimizer(spec, self.network.parameters(), weight_decay=config.weight_decay)
        self.layout = run.layout

    @property
    def vector(self) -> Float[np.ndarray, " weights"]:
        """The weights."""
        return self.layout.flatten(self.network.state_dict())

    def step(self, chosen: Tensor, random: np.random.Generator) -> None:
        """Train on the chosen images, randomly shifted if configured."""
        images, labels = (part[chosen] for part in self.images)
        most = self.config.shift
        if most:
            images = moved(images, torch.from_numpy(random.integers(-most, most + 1, (len(images), 2))))
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(images), labels).backward()
        self.optimizer.step()
        self.steps += 1

    def replay(self, step: int) -> None:
        """Replay the recorded run up to a step."""
        count, size = len(self.images[1]), self.config.batch_size
        while self.steps < step:
            epoch, done = divmod(self.steps, -(-count // size))
            for chosen in list(epoch_batches(count, size, self.seed, epoch))[done : done + step - self.steps]:
                self.step(chosen, np.random.default_rng([self.seed, self.steps + 1, 1]))

    def go_on(self, steps: Sequence[int], random: np.random.Generator) -> Float[np.ndarray, "lag weights"]:
        """Return the weights after further steps on newly drawn batches."""
        count, size = len(self.images[1]), self.config.batch_size
        batches = coming(count, size, self.seed, self.steps, random)
        present, found = self.steps, []
        for more in steps:
            while self.steps < present + more:
                self.step(next(batches), random)
            found.append(self.vector)
        return np.stack(found)


def coming(count: int, size: int, seed: int, step: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Yield possible batches after a step of a run: first the rest of the epoch, in a new order."""
    epoch, done = divmod(step, -(-count // size))
    left = torch.cat(list(epoch_batches(count, size, seed, epoch))[done:])
    while True:
        yield from left[torch.from_numpy(random.permutation(len(left)))].split(size)
        left = torch.arange(count)


def measure(
    config: BaseConfig, run: Trajectory, images: Images, plan: Plan, repeats: int, folder: Path
) -> dict[int, Continued]:
    """Return the statistics of the continuations of a run by start, cached in a folder.

    Raises:
        DataError: if the training does not reproduce the recording.
    """
    training = Training(config, run, images)
    found = {}
    for start in plan.starts:
        path, lags = folder / f"{run.name}-{start}-{repeats}.json", plan.lags(start)
        kept = msgspec.convert(read_json(path), Continued) if path.is_file() else None
        if kept is None or not set(lags) <= set(kept.lags):
            training.replay(run.manifest.snapshots.step[start])
            _check(training, run, start)
            kept = continued(training, run, start, lags, repeats)
            write_json(path, to_plain(kept))
        found[start] = kept
    return found


def continued(training: Training, run: Trajectory, start: int, lags: Sequence[int], repeats: int) -> Continued:
    """Return the statistics of `repeats` continuations and the run itself from a snapshot."""
    steps = np.asarray(run.manifest.snapshots.step)
    more = (steps[start + np.asarray(lags)] - steps[start]).tolist()
    present = run.weights[start].astype(np.float64)
    own = run.weights[start + np.asarray(lags)] - present  # (lags, D)
    randoms = [np.random.default_rng([training.seed, start, CONTINUED, number]) for number in range(repeats)]
    others = np.stack([copy.deepcopy(training).go_on(more, random) - present for random in randoms])  # (R, lags, D)
    every = np.concatenate([others, own[None]])
    surprise = np.square(own - others.mean(0)).sum(-1) / (1 + 1 / repeats)
    return Continued(
        lags=tuple(lags),
        energy=tuple(np.square(every).sum(-1).mean(0).tolist()),
        variance=tuple(every.var(0, ddof=1).sum(-1).tolist()),
        surprise=tuple(surprise.tolist()),
    )


def lost_of(run: Trajectory, plan: Plan, found: Mapping[int, Continued], stride: int, step: int) -> Lost:
    """Return the loss from batch sampling in a run at a stride and horizon."""
    starts, last = plan.used(stride), plan.last[stride]
    nearest = np.abs(last[:, None] - np.asarray(starts)).argmin(1)  # (W,)
    weights = np.zeros(len(starts))
    for number, present in zip(nearest, last, strict=True):
        weights[number] += np.square(run.weights[present + stride * step] - run.weights[present]).sum(dtype=np.float64)
    place = [found[start].lags.index(stride * step) for start in starts]
    energy, variance, surprise = (
        np.array([getattr(found[start], name)[at] for start, at in zip(starts, place, strict=True)])
        for name in ("energy", "variance", "surprise")
    )
    return Lost(weights, variance / energy, surprise / energy)


def ceiling_of(parts: Sequence[Lost]) -> Ceiling:
    """Return the ceiling over several runs."""
    weights, share, surprise = (np.concatenate(some) for some in zip(*parts, strict=True))
    weights = weights / weights.sum()
    mean, count = weights @ share, len(weights)
    error = np.sqrt(np.square(weights * (share - mean)).sum() * count / max(1, count - 1))
    return Ceiling(float(1 - mean), float(error), float(1 - weights @ surprise))


def _check(training: Training, run: Trajectory, start: int) -> None:
    away = np.linalg.norm(training.vector - run.weights[start])
    allowed = STRAY * np.linalg.norm(run.weights[start] - run.weights[start - 1])
    if not away <= allowed:
        raise DataError(
            "is not reproduced by the same training",
            where=run.folder,
            expected=f"weights of snapshot {start} within {allowed:.2g}",
            got=f"{away:.2g}",
            fix="record it again on this machine",
        )
