"""What the best forecast could reach that knows everything but the batches to come.

A training step depends on the images that are drawn for it, and nothing in the past of a run tells which these will be.
From chosen snapshots on, the training is therefore continued several times, each time with batches and moves of the images
drawn anew; weights, state of the optimiser, and which images are left in the epoch are those of the run. With the
displacement y = w(t + k) - w(t) of each continuation,

    ceiling = 1 - E|y - E y|^2 / E|y|^2

is the skill of the forecast E y, and no point forecast has a higher one in expectation. The run itself is one more
continuation. Variances are unbiased (n - 1), so that the ceiling is too, but for the ratio.

`starts` says from where: a stride takes all of its windows that begin at one of these snapshots. Skill is pooled over
windows, so each of the tested windows counts for the start nearest to it, with its own squared displacement.
The sums of each start are kept in a folder, and an interrupted measurement goes on with the next start.
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

STRAY = 0.01  # of the last change between snapshots: so far a replayed run may be from the recorded one
CONTINUED = 2  # third number of the seeds, so that no continuation has the random numbers of a run


class Continued(Section):
    """What the continuations of a run from one snapshot on have in common, and what not.

    Args:
        lags: snapshots after it.
        energy: at each lag, the mean of |y|^2.
        variance: likewise, the variance of y, summed over the weights.
        surprise: likewise, |y - mean of the others|^2 of the run itself, scaled so that its expectation is the variance.
    """

    lags: tuple[int, ...]
    energy: tuple[float, ...]
    variance: tuple[float, ...]
    surprise: tuple[float, ...]


class Lost(NamedTuple):
    """What is lost to the draw of the batches at one stride and horizon, from each start of a run.

    Attributes:
        weights: squared displacements of the windows that count for the start.
        share: E|y - E y|^2 / E|y|^2.
        surprise: the same of the run itself.
    """

    weights: Float[np.ndarray, " start"]
    share: Float[np.ndarray, " start"]
    surprise: Float[np.ndarray, " start"]


class Ceiling(NamedTuple):
    """The skill that no forecast exceeds on average.

    Attributes:
        skill: itself.
        error: its standard error, from how much the starts differ.
        itself: the skill of forecasting the run itself with the mean of its continuations, for comparison: where it is
            not near the ceiling, the continuations are not like the run.
    """

    skill: float
    error: float
    itself: float


class Plan(NamedTuple):
    """From where a run is continued.

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
        """Return how many snapshots after a start somebody wants to know."""
        return sorted({stride * step for stride in self.last if start in self.used(stride) for step in self.horizons})


def plan_of(windows: Mapping[int, Windows], horizons: Sequence[int], count: int) -> Plan:
    """Return a plan with `count` starts: the middles of equal parts of the time in which windows of any stride end."""
    last = {stride: some.last for stride, some in windows.items()}
    low, high = min(some[0] for some in last.values()), max(some[-1] for some in last.values())
    parts = (np.arange(count) + 0.5) / count
    return Plan(last, horizons, [int(start) for start in low + np.floor(parts * (high - low + 1))])


class Training:
    """A network while it is trained at a constant rate, with batches from outside.

    Attributes:
        config: how it is trained; of its optimisers and seeds only those of the run count.
        seed: of the run.
        images: training images and labels.
        network: in training.
        optimizer: likewise.
        steps: made so far.
    """

    def __init__(self, config: BaseConfig, run: Trajectory, images: Images) -> None:
        manifest = run.manifest
        if manifest.network is None:
            raise DataError("belongs to no network that can be built", where=run.folder, fix="record it here")
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
        """Train on the chosen images, moved at random if the configuration says so."""
        images, labels = (part[chosen] for part in self.images)
        most = self.config.shift
        if most:
            images = moved(images, torch.from_numpy(random.integers(-most, most + 1, (len(images), 2))))
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(images), labels).backward()
        self.optimizer.step()
        self.steps += 1

    def replay(self, step: int) -> None:
        """Go on as the recorded run did, up to a step."""
        count, size = len(self.images[1]), self.config.batch_size
        while self.steps < step:
            epoch, done = divmod(self.steps, -(-count // size))
            for chosen in list(epoch_batches(count, size, self.seed, epoch))[done : done + step - self.steps]:
                self.step(chosen, np.random.default_rng([self.seed, self.steps + 1, 1]))

    def go_on(self, steps: Sequence[int], random: np.random.Generator) -> Float[np.ndarray, "lag weights"]:
        """Return the weights after more steps on batches that are drawn here."""
        count, size = len(self.images[1]), self.config.batch_size
        batches = coming(count, size, self.seed, self.steps, random)
        present, found = self.steps, []
        for more in steps:
            while self.steps < present + more:
                self.step(next(batches), random)
            found.append(self.vector)
        return np.stack(found)


def coming(count: int, size: int, seed: int, step: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Yield batches as they may come after a step of a run: first what is left in the epoch, in a new order."""
    epoch, done = divmod(step, -(-count // size))
    left = torch.cat(list(epoch_batches(count, size, seed, epoch))[done:])
    while True:
        yield from left[torch.from_numpy(random.permutation(len(left)))].split(size)
        left = torch.arange(count)


def measure(
    config: BaseConfig, run: Trajectory, images: Images, plan: Plan, repeats: int, folder: Path
) -> dict[int, Continued]:
    """Return what continuations of a run have in common by the snapshot from which they start, kept in a folder.

    Raises:
        DataError: if the training does not repeat what was recorded.
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
    """Return what `repeats` continuations and the run itself have in common from a snapshot on."""
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
    """Return what is lost in a run at a stride, so many strides ahead."""
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
            "is not repeated by the same training",
            where=run.folder,
            expected=f"weights of snapshot {start} within {allowed:.2g}",
            got=f"{away:.2g}",
            fix="record it anew on this machine",
        )
