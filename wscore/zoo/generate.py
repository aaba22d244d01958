"""Generation of a zoo by training it from scratch, shard by shard; interrupted generations resume at the last shard.

A shard is a group of runs trained together. Finished shards are kept in `.cache/zoo/<identity>/` until the zoo is
complete, outside of the outputs that DVC removes before a stage starts. The identity covers all parameters, images and
code that determine the result; the number of worker processes does not.
"""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import torch

from wscore.config import load_machine, to_plain
from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.io import atomic_folder, content_hash, read_tensors, source_code, write_tensors
from wscore.networks.architectures import TRAITS, Architecture, build
from wscore.networks.datasets import Tasks, as_tasks
from wscore.networks.images import Images
from wscore.networks.inference import StackedAnswer, logits, scores
from wscore.networks.layout import Layout, layout_of
from wscore.networks.records import Rejected
from wscore.parallel import workers_here
from wscore.progress import progress_bar
from wscore.zoo.config import ZooConfig
from wscore.zoo.sampling import LARGEST, RunPlan, checkpoint_steps, draw_run, group_runs, turn
from wscore.zoo.store import count_rows, is_whole, read_part, write_excluded, write_layouts, write_part
from wscore.zoo.training import own_images, own_labels, train_group

CACHE = Path(".cache/zoo")
RUNS_PER_PART = 1024
GROUP = 32  # maximum number of runs trained together
ON_GPU = 32  # times as many on a GPU
MOST = 10  # maximum number of runs, relative to those needed for n_networks if none diverged
POOR = 0.5  # training accuracy between chance (0) and perfect (1) below which a final network is marked as poor
CODE = (
    "networks/architectures.py", "networks/inference.py", "networks/layout.py", "networks/stacked.py",
    "zoo/generate.py", "zoo/sampling.py", "zoo/store.py", "zoo/training.py",
)  # fmt: skip


TENSORS = ("x_train", "y_train", "x_test", "y_test")


class TrainJob(NamedTuple):
    """Settings shared by all shards.

    Attributes:
        folder: of the shards and the images.
        classes: (name, number of classes) of each data set.
        checkpoints: snapshots per run.
        max_weight: magnitude of a weight above which a network has diverged.
        diverged: whether diverged networks with finite weights are kept.
        device: where networks are trained and run.
    """

    folder: Path
    classes: tuple[tuple[str, int], ...]
    checkpoints: int
    max_weight: float
    diverged: bool
    device: str = "cpu"


class Shard(NamedTuple):
    """Runs trained together.

    Attributes:
        number: of the shard, from 0.
        part: number of the parquet file of its rows.
        runs: the runs, the longest first.
    """

    number: int
    part: int
    runs: tuple[RunPlan, ...]

    def path(self, folder: Path) -> Path:
        """Return the path of the finished shard."""
        return folder / f"shard-{self.number:05d}.parquet"


def generate_zoo(config: ZooConfig, images: Images | Tasks, out: Path) -> int:
    """Train a zoo, write it to a folder and return the number of checkpoints excluded as diverged.

    Raises:
        DataError: if no checkpoint is left, or too many diverge for `n_networks`.
        WscoreError: if a worker process dies.
    """
    tasks = as_tasks(images)
    device = device_here()
    name = zoo_identity(config, tasks) + ("" if device == "cpu" else f"-{device}")  # groups are larger on a GPU
    folder = Path.cwd() / CACHE / name  # absolute, since workers may have another directory
    classes = tuple((dataset.name, dataset.classes) for dataset in tasks.images)
    job = TrainJob(folder, classes, config.checkpoints, config.max_weight, config.diverged == "keep", device)
    _keep_images(tasks, folder)
    shards = _train(config, tasks, job)
    with atomic_folder(out) as temporary:
        names, runs = _assemble(shards, folder, temporary, config.n_networks)
        rejected = _diverged(shards, config, names, runs)
        if rejected:
            write_excluded(temporary, rejected)
    kept, excluded = len(names), len(rejected)
    if excluded:
        reason = f"not finite, or with a weight beyond zoo.max_weight={config.max_weight:g}"
        warnings.warn(
            f"{excluded} of {excluded + kept} checkpoints were excluded: {reason}", WscoreWarning, stacklevel=2
        )
    shutil.rmtree(folder)
    return excluded


def device_here() -> str:
    """Return the device of the machine settings on which networks are trained; `auto` is CUDA if there is a GPU for it.

    Raises:
        ConfigError: if the machine lacks it.
    """
    device, cuda = load_machine().device, torch.cuda.is_available()
    if (device == "cuda" and not cuda) or (device == "mps" and not torch.backends.mps.is_available()):
        fix = "set it to auto in machine.yaml or WSCORE_DEVICE"
        raise ConfigError("is not on this machine", where="device", got=device, fix=fix)
    return ("cuda" if cuda else "cpu") if device == "auto" else device


def plan_shards(
    config: ZooConfig, images: Images | Tasks, runs: range | None = None, first: int = 0, *, device: str = "cpu"
) -> list[Shard]:
    """Return the shards of some runs of a zoo (default: all); `first` is the number of the first shard.

    Each shard belongs to one block of consecutive runs, which becomes one parquet file.
    """
    tasks, runs = as_tasks(images), range(config.runs) if runs is None else runs
    more = 1 if device == "cpu" else ON_GPU
    shards: list[Shard] = []
    for part in range(runs.start // RUNS_PER_PART, -(-runs.stop // RUNS_PER_PART)):
        start, stop = part * RUNS_PER_PART, (part + 1) * RUNS_PER_PART
        drawn = [_drawn(config, tasks, number) for number in range(max(start, runs.start), min(stop, runs.stop))]
        groups = group_runs(drawn, more * GROUP, more * LARGEST)
        shards += [Shard(first + len(shards) + place, part, group) for place, group in enumerate(groups)]
    return shards


def zoo_identity(config: ZooConfig, images: Images | Tasks) -> str:
    """Return a hash of everything that determines a generated zoo: parameters, images, code, version of torch."""
    plain = {
        key: value
        for key, value in to_plain(config).items()
        if key not in ("source", "path", "revision", "run_pattern", "reading", "hygiene")
    }
    content: list[bytes | str] = []
    for dataset in as_tasks(images).images:
        content += [dataset.name, *(getattr(dataset, name).numpy().tobytes() for name in TENSORS)]
    return content_hash(msgspec.json.encode(plain), *content, source_code(*CODE), torch.__version__)


def train_shard(shard: Shard, job: TrainJob) -> int:
    """Train the runs of one shard, evaluate their checkpoints, write the rows and return the number of runs."""
    images = _images(job, shard.runs[0].dataset)
    layout = layout_of(build(shard.runs[0].architecture).state_dict())
    recorded = train_group(shard.runs, images, job.checkpoints, job.device)
    rows, vectors = [], []
    for run, checkpoints in zip(shard.runs, recorded, strict=True):
        steps = checkpoint_steps(run.steps, job.checkpoints)
        weights = checkpoints[: len(steps)]
        for number, (step, measured) in enumerate(
            zip(steps, score_checkpoints(run, layout, weights, images), strict=True)
        ):
            sound = bool(weights[number].abs().max() <= job.max_weight) and np.isfinite([*measured.values()]).all()
            if sound or (job.diverged and bool(weights[number].isfinite().all())):
                state = state_of(run, measured, last=number == len(steps) - 1) if sound else "diverged"
                rows.append({**row(run, number, step, layout, measured, images.name), "state": state})
                vectors.append(weights[number].cpu().numpy())
    write_part(shard.path(job.folder), pd.DataFrame(rows, columns=rows[0] if rows else ["run_id"]), vectors)
    return len(shard.runs)


def state_of(run: RunPlan, measured: dict[str, float], *, last: bool) -> str:
    """Return `early` before the last checkpoint of a run, and `trained` or `poor` (underfitted) for the last one.

    Poor means a training accuracy below 1/c + (1 - 1/c) / 2, halfway from chance among its c classes to perfect.
    """
    if not last:
        return "early"
    chance = 1 / (len(run.variety.classes) if run.variety is not None else run.architecture.classes)
    return "poor" if measured["train_accuracy"] < chance + POOR * (1 - chance) else "trained"


def score_checkpoints(
    run: RunPlan, layout: Layout, weights: torch.Tensor, images: Images
) -> Iterator[dict[str, float]]:
    """Yield accuracies and losses of each checkpoint on the run's training images and on all test images.

    Training images are evaluated with the labels used in training, test images with the true ones.
    """
    subset = torch.from_numpy(own_images(run, images.y_train))
    labels = own_labels(run, images.y_train, images.classes)
    answer = StackedAnswer(run.architecture, layout)
    train = scores(logits(answer, weights, images.x_train[subset]), labels[subset])
    test = scores(logits(answer, weights, images.x_test), images.y_test)
    for train_accuracy, train_loss, test_accuracy, test_loss in zip(*train, *test, strict=True):
        yield {
            "train_accuracy": float(train_accuracy),
            "test_accuracy": float(test_accuracy),
            "train_loss": float(train_loss),
            "test_loss": float(test_loss),
            "generalization_gap": float(train_accuracy - test_accuracy),
        }


def row(
    run: RunPlan, number: int, step: int, layout: Layout, measured: dict[str, float], dataset: str
) -> dict[str, Any]:
    """Return the metadata of one checkpoint."""
    known = run.architecture
    traits = TRAITS[known.family]
    return {
        "model_id": f"{run.run_id}-{number}",
        "run_id": run.run_id,
        "checkpoint": number,
        "layout": layout.identity,
        "architecture": known.to_json(),
        "family": known.family,
        "dataset": dataset,
        "activation": known.activation,
        "pooling": known.pooling,
        "optimizer": run.optimizer,
        "lr": run.lr,
        "momentum": run.momentum,
        "weight_decay": run.weight_decay,
        "dropout": run.dropout,
        "init_scale": run.init_scale,
        "batch_size": run.batch_size,
        "epochs": run.epochs,
        "train_fraction": run.train_fraction,
        "step": step,
        "epoch": step / run.steps_per_epoch,
        "n_weights": layout.size,
        **measured,
        "seed_init": run.seed_init,
        "seed_data": run.seed_data,
        "has_conv_layers": traits.has_conv_layers,
        "has_batch_norm": traits.has_batch_norm,
        "has_residual": traits.has_residual,
        "has_dropout": run.dropout > 0,
        **_variety(run),
    }


def _variety(run: RunPlan) -> dict[str, Any]:
    """Return the columns of a run's additional conditions; empty if the zoo has none."""
    if run.variety is None:
        return {}
    return {
        "init": run.variety.init,
        "label_noise": run.variety.label_noise,
        "classes_seen": len(run.variety.classes),
        "augmentation": run.variety.augmentation,
        "has_random_labels": run.variety.label_noise == 1,
    }


def _drawn(config: ZooConfig, tasks: Tasks, number: int) -> RunPlan:
    images = tasks.images[turn(config, number, len(tasks.images))]
    channels, height, width = images.x_train.shape[1:]
    size = {"classes": images.classes, "images": len(images.x_train), "dataset": images.name}
    return draw_run(config, number, shape=(channels, height, width), **size)


def _train(config: ZooConfig, tasks: Tasks, job: TrainJob) -> list[Shard]:
    """Train all runs, and further ones until `n_networks` networks are kept; return their shards."""
    shards = plan_shards(config, tasks, device=job.device)
    _train_missing(shards, job)
    trained, kept = config.runs, _count(shards, job)
    while config.n_networks is not None and kept < config.n_networks:
        if trained >= MOST * config.runs:
            got = f"{kept:,} of {config.n_networks:,} networks kept of {trained:,} runs"
            raise DataError("too many networks diverge", where="zoo.n_networks", got=got, fix="lower `zoo.lr`")
        missing = max(1, -(-(config.n_networks - kept) // config.checkpoints))
        more = plan_shards(config, tasks, range(trained, trained + missing), len(shards), device=job.device)
        _train_missing(more, job)
        shards, trained, kept = [*shards, *more], trained + missing, kept + _count(more, job)
    return shards


def _count(shards: Sequence[Shard], job: TrainJob) -> int:
    return sum(count_rows(shard.path(job.folder)) for shard in shards)


def _train_missing(shards: Sequence[Shard], job: TrainJob) -> None:
    todo = [shard for shard in shards if not is_whole(shard.path(job.folder))]
    todo.sort(key=lambda shard: (-sum(run.steps for run in shard.runs), shard.number))
    total = sum(len(shard.runs) for shard in shards)
    done = total - sum(len(shard.runs) for shard in todo)
    with progress_bar(total=total, initial=done, desc="training", unit="run") as bar:
        train = partial(train_shard, job=job)
        workers = workers_here("zoo", most=None if job.device == "cpu" else 1)
        for finished in workers.map(train, todo, in_order=False):
            bar.update(finished)


def _keep_images(tasks: Tasks, folder: Path) -> None:
    for number, images in enumerate(tasks.images):
        path = folder / f"images-{number}.safetensors"
        if not path.is_file():
            write_tensors(path, {name: getattr(images, name) for name in TENSORS})


@lru_cache(maxsize=4)
def _images(job: TrainJob, dataset: str) -> Images:
    number = [name for name, _ in job.classes].index(dataset)
    tensors = read_tensors(job.folder / f"images-{number}.safetensors")
    return Images(name=dataset, classes=job.classes[number][1], **tensors)


def _diverged(shards: Sequence[Shard], config: ZooConfig, kept: set[str], runs: int) -> list[Rejected]:
    """Return the planned checkpoints of the first runs that were not kept."""
    detail = f"zoo.max_weight is {config.max_weight:g}"
    planned = sorted((run for shard in shards for run in shard.runs if run.number < runs), key=lambda run: run.number)
    names = (
        f"{run.run_id}-{number}"
        for run in planned
        for number, _ in enumerate(checkpoint_steps(run.steps, config.checkpoints))
    )
    return [Rejected(name, "diverged", detail) for name in names if name not in kept]


def _assemble(shards: Sequence[Shard], folder: Path, out: Path, most: int | None) -> tuple[set[str], int]:
    """Write the rows of all shards, sorted by run and checkpoint, one parquet file per part.

    Returns the names of all kept networks and the number of runs that are complete. With a limit of `most` networks, the
    run that exceeds it contributes only its last checkpoints, and later runs nothing.
    """
    kept: set[str] = set()
    used: set[str] = set()
    layouts: dict[Architecture, Layout] = {}
    runs = 1 + max(run.number for shard in shards for run in shard.runs)
    for part in sorted({shard.part for shard in shards}):
        tables, vectors = [], []
        for shard in (shard for shard in shards if shard.part == part):
            table, weights = read_part(shard.path(folder))
            if weights:
                tables.append(table)
                vectors += weights
                layouts[shard.runs[0].architecture] = layout_of(build(shard.runs[0].architecture).state_dict())
        if tables:
            table = pd.concat(tables, ignore_index=True)
            table = table.sort_values(["run_id", "checkpoint"])
            if most is not None and len(kept) + len(table) >= most:
                table, runs = _cut(table, most - len(kept))
            chosen = [vectors[place] for place in table.index]
            write_part(out / "rows" / f"part-{part:05d}.parquet", table, chosen)
            kept |= set(table["model_id"].astype(str))
            used |= set(table["layout"])
            if len(kept) == most:
                break
    if not kept:
        raise DataError("every network diverged, so the zoo is empty", where="zoo", fix="lower `zoo.lr`")
    write_layouts(out, [layout for layout in layouts.values() if layout.identity in used])
    return kept, runs


def _cut(table: pd.DataFrame, most: int) -> tuple[pd.DataFrame, int]:
    """Return `most` rows, with only the last checkpoints of the last run, and the number of complete runs."""
    last = table["run_id"].iloc[most - 1]
    runs = table["run_id"].to_numpy()
    before, of_last = np.flatnonzero(runs < last), np.flatnonzero(runs == last)
    missing = most - len(before)
    number = int(str(last).rpartition("-")[2])
    return table.iloc[[*before, *of_last[len(of_last) - missing :]]], number + (missing == len(of_last))
