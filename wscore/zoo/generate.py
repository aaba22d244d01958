"""A zoo trained from scratch, shard by shard: what an interrupted generation has finished is not trained again.

A shard is one group of runs that train together. Finished shards lie in `.cache/zoo/<identity>/` until the zoo is
whole, outside of the outputs that DVC removes before a stage starts. The identity covers the parameters, the images and
the code that decide the bytes; the number of worker processes is not one of them.
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
from tqdm import tqdm

from wscore.config import to_plain
from wscore.errors import DataError, WscoreWarning
from wscore.io import atomic_folder, content_hash, read_tensors, write_tensors
from wscore.parallel import parallel_map
from wscore.zoo.architectures import TRAITS, build
from wscore.zoo.config import ZooConfig
from wscore.zoo.functional import logits, scores
from wscore.zoo.images import Images
from wscore.zoo.layout import Layout, layout_of
from wscore.zoo.records import Refused
from wscore.zoo.sampling import RunPlan, checkpoint_steps, draw_run, group_runs
from wscore.zoo.store import is_whole, read_part, write_layouts, write_part, write_set_aside
from wscore.zoo.training import own_images, own_labels, train_group

CACHE = Path(".cache/zoo")
RUNS_PER_PART = 1024
CODE = ("architectures", "functional", "generate", "layout", "sampling", "stacked", "store", "training")


class Job(NamedTuple):
    """What a worker needs to know besides the shard.

    Attributes:
        folder: where shards and the images lie.
        dataset: name of the images.
        classes: count of classes.
        checkpoints: snapshots per run.
        max_weight: largest weight of a checkpoint that is kept.
    """

    folder: Path
    dataset: str
    classes: int
    checkpoints: int
    max_weight: float


class Shard(NamedTuple):
    """Runs that train together.

    Attributes:
        number: of the shard, from 0.
        part: number of the parquet file that its rows end in.
        runs: the runs, the longest first.
    """

    number: int
    part: int
    runs: tuple[RunPlan, ...]

    def path(self, folder: Path) -> Path:
        """Return where the finished shard lies."""
        return folder / f"shard-{self.number:05d}.parquet"


def generate_zoo(config: ZooConfig, images: Images, out: Path) -> int:
    """Train a zoo, write it to a folder and return how many checkpoints were set aside as diverged.

    Raises:
        DataError: if not one checkpoint is left.
        WscoreError: if a worker process dies.
    """
    shards = plan_shards(config, images)
    folder = Path.cwd() / CACHE / identity(config, images)  # workers elsewhere may have another working directory
    job = Job(folder, images.name, images.classes, config.checkpoints, config.max_weight)
    _keep_images(images, folder)
    _train_missing(shards, job, config)
    with atomic_folder(out) as temporary:
        names = _assemble(shards, folder, temporary)
        refused = _diverged(shards, config, names)
        if refused:
            write_set_aside(temporary, refused)
    kept, set_aside = len(names), len(refused)
    if set_aside:
        reason = f"not finite, or with a weight beyond zoo.max_weight={config.max_weight:g}"
        warnings.warn(
            f"{set_aside} of {set_aside + kept} checkpoints were set aside: {reason}", WscoreWarning, stacklevel=2
        )
    shutil.rmtree(folder)
    return set_aside


def plan_shards(config: ZooConfig, images: Images) -> list[Shard]:
    """Return all shards of a zoo; each belongs to one block of consecutive runs, which becomes one parquet file."""
    channels, height, width = images.x_train.shape[1:]
    count = len(images.x_train)
    shards: list[Shard] = []
    for part, start in enumerate(range(0, config.n_runs, RUNS_PER_PART)):
        numbers = range(start, min(start + RUNS_PER_PART, config.n_runs))
        runs = [
            draw_run(config, number, shape=(channels, height, width), classes=images.classes, images=count)
            for number in numbers
        ]
        groups = group_runs(runs, config.group_size)
        shards += [Shard(len(shards) + place, part, group) for place, group in enumerate(groups)]
    return shards


def identity(config: ZooConfig, images: Images) -> str:
    """Return a hash of all that decides the bytes of a generated zoo: parameters, images, code, version of torch."""
    plain = {
        key: value
        for key, value in to_plain(config).items()
        if key not in ("source", "path", "revision", "run_pattern", "reading", "hygiene", "workers", "parallel")
    }
    content = [tensor.numpy().tobytes() for tensor in (images.x_train, images.y_train, images.x_test, images.y_test)]
    code = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in CODE]
    return content_hash(msgspec.json.encode(plain), images.name, *content, *code, torch.__version__)


def train_shard(shard: Shard, job: Job) -> int:
    """Train the runs of one shard, judge their checkpoints, write the rows and return the count of runs."""
    images = _images(job)
    layout = layout_of(build(shard.runs[0].architecture).state_dict())
    recorded = train_group(shard.runs, images, job.checkpoints)
    rows, vectors = [], []
    for run, checkpoints in zip(shard.runs, recorded, strict=True):
        steps = checkpoint_steps(run.steps, job.checkpoints)
        weights = checkpoints[: len(steps)]
        for number, (step, measured) in enumerate(zip(steps, judge(run, layout, weights, images), strict=True)):
            sound = bool(weights[number].abs().max() <= job.max_weight) and np.isfinite([*measured.values()]).all()
            if sound:
                rows.append(row(run, number, step, layout, measured, job.dataset))
                vectors.append(weights[number].numpy())
    write_part(shard.path(job.folder), pd.DataFrame(rows, columns=rows[0] if rows else ["run_id"]), vectors)
    return len(shard.runs)


def judge(run: RunPlan, layout: Layout, weights: torch.Tensor, images: Images) -> Iterator[dict[str, float]]:
    """Yield accuracies and losses of each checkpoint on the run's own training images and on all test images.

    Training images have the labels that the run learnt, test images their true ones.
    """
    own = torch.from_numpy(own_images(run, len(images.x_train), images.y_train))
    labels = own_labels(run, images.y_train, images.classes)
    train = scores(logits(run.architecture, layout, weights, images.x_train[own]), labels[own])
    test = scores(logits(run.architecture, layout, weights, images.x_test), images.y_test)
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
    """Return the columns of what is unusual about a run; none in a zoo of usual runs."""
    if run.variety is None:
        return {}
    return {
        "init": run.variety.init,
        "label_noise": run.variety.label_noise,
        "classes_seen": len(run.variety.classes),
        "augmentation": run.variety.augmentation,
        "has_random_labels": run.variety.label_noise == 1,
    }


def _train_missing(shards: Sequence[Shard], job: Job, config: ZooConfig) -> None:
    todo = [shard for shard in shards if not is_whole(shard.path(job.folder))]
    todo.sort(key=lambda shard: (-sum(run.steps for run in shard.runs), shard.number))
    total = sum(len(shard.runs) for shard in shards)
    done = total - sum(len(shard.runs) for shard in todo)
    with tqdm(total=total, initial=done, desc="training", unit="run", disable=None) as bar:
        train = partial(train_shard, job=job)
        where = {"backend": config.parallel.backend, "address": config.parallel.address, "where": "zoo.parallel"}
        for finished in parallel_map(train, todo, config.workers, in_order=False, **where):
            bar.update(finished)


def _keep_images(images: Images, folder: Path) -> None:
    tensors = {name: getattr(images, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    if not (folder / "images.safetensors").is_file():
        write_tensors(folder / "images.safetensors", tensors)


@lru_cache(maxsize=1)
def _images(job: Job) -> Images:
    return Images(name=job.dataset, classes=job.classes, **read_tensors(job.folder / "images.safetensors"))


def _diverged(shards: Sequence[Shard], config: ZooConfig, kept: set[str]) -> list[Refused]:
    """Return the checkpoints that were planned and not kept."""
    detail = f"zoo.max_weight is {config.max_weight:g}"
    runs = sorted((run for shard in shards for run in shard.runs), key=lambda run: run.number)
    planned = (
        f"{run.run_id}-{number}"
        for run in runs
        for number, _ in enumerate(checkpoint_steps(run.steps, config.checkpoints))
    )
    return [Refused(name, "diverged", detail) for name in planned if name not in kept]


def _assemble(shards: Sequence[Shard], folder: Path, out: Path) -> set[str]:
    """Write the rows of all shards by run and checkpoint, one parquet file per part; return their names."""
    kept: set[str] = set()
    layouts = {}
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
            order = table.sort_values(["run_id", "checkpoint"]).index.to_numpy()
            write_part(out / "rows" / f"part-{part:05d}.parquet", table.iloc[order], [vectors[i] for i in order])
            kept |= set(table["model_id"].astype(str))
    if not kept:
        raise DataError("every network diverged, so the zoo is empty", where="zoo", fix="lower `zoo.lr`")
    write_layouts(out, layouts.values())
    return kept
