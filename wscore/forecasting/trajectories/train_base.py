"""Trains base networks, one per optimiser and seed, and records weights and scores at regular intervals.

Each run is trained on one thread, with `workers` processes in parallel. On CPUs that is faster than
`torch.func.vmap` over the seeds (see `benchmarks/forecast.py`): convolutions with separate weights per network become
grouped ones.

A killed recording resumes at the epoch in which it stopped, in a folder named after a hash of parameters, images and
code:

.cache/base/<hash>/
    images.safetensors              training and test images
    sgd-0.01-seed-0/weights.npy     snapshots so far (the rest of the array is not filled yet)
    sgd-0.01-seed-0/state-7.safetensors  weights and optimiser state after the last complete epoch
    sgd-0.01-seed-0/progress.json   number of that epoch, and the scores of the snapshots so far
"""

import inspect
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.config import Section, load_machine, to_plain
from wscore.errors import ConfigError, TrainingError
from wscore.forecasting.trajectories.optimizers import OptimizerSpec, make_optimizer
from wscore.forecasting.trajectories.store import WEIGHTS, Manifest, SnapshotColumns, write_run_manifest
from wscore.io import (
    atomic_folder,
    content_hash,
    read_json,
    read_tensors,
    source_code,
    tensors_below,
    write_json,
    write_tensors,
)
from wscore.networks.images import Images, ImagesConfig, Normalization
from wscore.networks.inference import scores
from wscore.networks.layout import Layout, layout_of
from wscore.networks.lenet import NetworkSpec, build_network, find_builder, run_networks
from wscore.parallel import workers_here
from wscore.progress import progress_bar
from wscore.training.schedule import Schedule, rate

CACHE = Path(".cache/base")
IMAGES, STATE, PROGRESS = "images.safetensors", "state-{}.safetensors", "progress.json"
SPLITS = ("x_train", "y_train", "x_test", "y_test")
SCORES = ("train_loss", "test_loss", "test_accuracy")
CODE = ("forecasting/trajectories/train_base.py", "forecasting/trajectories/optimizers.py", "networks/lenet.py")
FREE = ("source", "path", "pattern", "further_datasets", "optimizers", "seeds")  # do not change a run's results

Count = Annotated[int, msgspec.Meta(ge=1)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class FurtherDataset(Section):
    """A further training data set, with the image size and counts of the first one.

    Args:
        dataset: as in section `data:`.
        root: as in section `data:`.
        revision: as in section `data:`.
    """

    dataset: str
    root: str | None = None
    revision: str | None = None


class BaseConfig(Section):
    """Networks to train and record, and their training (section `base:`)."""

    source: Literal["train", "folder"]
    path: str | None
    pattern: str | None
    network: str
    dataset: str
    root: str | None
    revision: str | None
    further_datasets: tuple[FurtherDataset, ...]
    size: Annotated[int, msgspec.Meta(ge=4, le=512)] | None
    max_train: Annotated[int, msgspec.Meta(ge=10)] | None
    max_test: Annotated[int, msgspec.Meta(ge=10)] | None
    normalize: Normalization | None
    optimizers: Annotated[tuple[OptimizerSpec, ...], msgspec.Meta(min_length=1)]
    schedule: Schedule
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=100)]
    batch_size: Count
    epochs: Count
    snapshots_per_epoch: Count
    snapshot_steps: Count | None
    seeds: Annotated[tuple[Seed, ...], msgspec.Meta(min_length=1)]
    shift: Annotated[int, msgspec.Meta(ge=0, le=64)]
    probe_images: Count

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"Seeds must differ, got {list(self.seeds)} - at `$.seeds`")
        if len(set(self.optimizers)) != len(self.optimizers):
            names = [f"{optimizer.name} {optimizer.lr:g}" for optimizer in self.optimizers]
            raise ValueError(f"Optimizers must differ in name or lr, got {names} - at `$.optimizers`")
        datasets = [config.dataset for config in (self, *self.further_datasets)]
        if len(set(datasets)) != len(datasets):
            raise ValueError(f"Data sets must differ in name, got {datasets} - at `$.further_datasets`")

    @property
    def images(self) -> ImagesConfig:
        """The images, as in section `data:`."""
        names = ("dataset", "root", "revision", "size", "max_train", "max_test", "normalize")
        return ImagesConfig(**{name: getattr(self, name) for name in names})

    @property
    def each(self) -> "list[BaseConfig]":
        """Configurations, one per data set."""
        alone = msgspec.structs.replace(self, further_datasets=())
        others = [to_plain(config) for config in self.further_datasets]
        return [alone, *(msgspec.structs.replace(alone, **other) for other in others)]


class Recipe(NamedTuple):
    """One run to record.

    Attributes:
        config: of all runs.
        optimizer: of this one.
        seed: of this one.
        spec: network that is trained.
        cache: folder with the images, kept when a recording is killed.
        prefix: of its name, the data set.
    """

    config: BaseConfig
    optimizer: OptimizerSpec
    seed: int
    spec: NetworkSpec
    cache: Path
    prefix: str

    @property
    def name(self) -> str:
        """Name of the run, with data set, optimiser and rate where they differ between runs."""
        others = [optimizer for optimizer in self.config.optimizers if optimizer != self.optimizer]
        lr = f"-{self.optimizer.lr:g}" if any(optimizer.name == self.optimizer.name for optimizer in others) else ""
        optimizer = f"{self.optimizer.name}{lr}-" if others else ""
        return f"{self.prefix}{optimizer}seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """Folder of the run until all are complete."""
        return self.cache / f"{self.optimizer.name}-{self.optimizer.lr!r}-seed-{self.seed}"


class RunProgress(Section):
    """Progress of a run.

    Args:
        epoch: completed epochs.
        snapshots: scores of the snapshots so far.
    """

    epoch: int
    snapshots: SnapshotColumns


def record_runs(config: BaseConfig, images: Images, out: Path, further: Sequence[Images] = ()) -> list[Manifest]:
    """Train a network per optimiser, seed and data set, write their trajectories below `out` and return the manifests.

    Args:
        config: section `base:`.
        images: of `base.dataset`.
        out: folder to write.
        further: images of `base.further_datasets`, in their order.

    Raises:
        TrainingError: if a loss is not finite.
        ConfigError: if the images don't fit the network or each other, or an epoch has fewer steps than snapshots.
    """
    sets = [images, *further]
    recipes = [
        recipe
        for alone, dataset in zip(config.each, sets, strict=True)
        for recipe in _recipes(alone, dataset, images, prefix="" if dataset is images else f"{_plain(dataset.name)}-")
    ]
    recorded = workers_here("base").map(record, recipes)
    manifests = list(progress_bar(recorded, total=len(recipes), desc="recording", unit="run"))
    with atomic_folder(out) as folder:
        for manifest, recipe in zip(manifests, recipes, strict=True):
            (folder / manifest.run).mkdir()
            shutil.copyfile(recipe.folder / WEIGHTS, folder / manifest.run / WEIGHTS)
            write_run_manifest(folder / manifest.run, manifest)
    _discard(recipes)
    return manifests


def _discard(recipes: Sequence[Recipe]) -> None:
    """Remove the cached runs, and their images unless another recording (other seeds or optimisers) needs them."""
    for recipe in recipes:
        shutil.rmtree(recipe.folder)
    for cache in {recipe.cache for recipe in recipes}:
        if not any(path.is_dir() for path in cache.iterdir()):
            shutil.rmtree(cache)


def _recipes(config: BaseConfig, images: Images, first: Images, *, prefix: str) -> list[Recipe]:
    """Return the runs on one data set and cache its images."""
    spec, wanted = network_spec(config, images), network_spec(config, first)
    if spec != wanted:
        where, expected, got = f"base.further_datasets: {images.name}", _describe(wanted), _describe(spec)
        raise ConfigError("results in a different network", where=where, expected=expected, got=got, fix="leave it out")
    build_network(spec)
    snapshot_steps(config, len(images.x_train))
    cache = CACHE / run_identity(config, images)
    pairs = [(optimizer, seed) for optimizer in config.optimizers for seed in config.seeds]
    recipes = [Recipe(config, optimizer, seed, spec, cache, prefix) for optimizer, seed in pairs]
    for recipe in recipes:
        recipe.folder.mkdir(parents=True, exist_ok=True)
    if not (cache / IMAGES).is_file():
        write_tensors(cache / IMAGES, {name: getattr(images, name) for name in SPLITS})
    return recipes


def _describe(spec: NetworkSpec) -> str:
    return f"{spec.channels} x {spec.size} x {spec.size}, {spec.classes} classes"


def _plain(name: str) -> str:
    return name.replace("/", "-")


def run_identity(config: BaseConfig, images: Images) -> str:
    """Return a hash of everything that determines the runs: parameters, images, code, version of torch."""
    plain = {key: value for key, value in to_plain(config).items() if key not in FREE}
    builder_file = inspect.getsourcefile(find_builder(config.network))
    sources = [source_code(*CODE), *([Path(builder_file).read_bytes()] if builder_file else [])]
    content = [getattr(images, name).contiguous().numpy().tobytes() for name in SPLITS]
    return content_hash(msgspec.json.encode(plain), *content, *sources, torch.__version__)


def recording_report(manifests: Sequence[Manifest]) -> dict[str, float]:
    """Return the metrics of metrics/base.json: means of the final scores over runs, and counts."""
    ends = {name: [_or_nan(getattr(run.snapshots, name)[-1]) for run in manifests] for name in SCORES}
    return {
        "runs": float(len(manifests)),
        "weights": float(manifests[0].layout.size),
        "snapshots": float(len(manifests[0].snapshots.step)),
        "steps": float(manifests[0].snapshots.step[-1]),
        **{name: float(np.mean(values)) for name, values in ends.items()},
        "test_accuracy_worst": float(min(ends["test_accuracy"])),
    }


def recording_summary_line(manifests: Sequence[Manifest]) -> str:
    """Return a summary of the recording in one line."""
    report = recording_report(manifests)
    size = f"{report['runs']:.0f} runs of {manifests[0].network_name} ({report['weights']:,.0f} weights)"
    counts = sorted({len(run.snapshots.step) for run in manifests})
    count = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    accuracy = f", test accuracy {report['test_accuracy']:.3f}" if math.isfinite(report["test_accuracy"]) else ""
    return f"{size}, {count} snapshots each{accuracy}"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def network_spec(config: BaseConfig, images: Images) -> NetworkSpec:
    """Return the network specification for the images.

    Raises:
        ConfigError: if the images are not square.
    """
    channels, height, width = images.x_train.shape[1:]
    if height != width:
        raise ConfigError("images are not square", where="base.size", got=f"{height} x {width}", fix="set base.size")
    return NetworkSpec(name=config.network, channels=channels, size=height, classes=images.classes)


def snapshot_steps(config: BaseConfig, n_train: int) -> list[int]:
    """Return the steps after which a snapshot is taken, 0 first.

    Raises:
        ConfigError: if an epoch has fewer steps than snapshots, or the training fewer than one interval.
    """
    each = math.ceil(n_train / config.batch_size)
    if config.snapshot_steps is not None:
        total = each * config.epochs
        if config.snapshot_steps > total:
            expected = f"at most {total}, the steps of the training"
            raise ConfigError("is too high", where="base.snapshot_steps", expected=expected, got=config.snapshot_steps)
        return list(range(0, total + 1, config.snapshot_steps))
    if config.snapshots_per_epoch > each:
        expected = f"at most {each}, the steps of an epoch"
        raise ConfigError(
            "is too high", where="base.snapshots_per_epoch", expected=expected, got=config.snapshots_per_epoch
        )
    count = config.epochs * config.snapshots_per_epoch
    return [round(number * each / config.snapshots_per_epoch) for number in range(count + 1)]


def record(recipe: Recipe) -> Manifest:
    """Train one network, resuming a killed run, and leave its snapshots in the recipe's folder."""
    return _Recording(recipe).run()


class _Recording:
    """Training of one run."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.config, self.spec = recipe, recipe.config, recipe.spec
        device = _device(load_machine().device)
        self.network = build_network(self.spec, recipe.seed).to(device)
        self.optimizer = make_optimizer(
            recipe.optimizer, self.network.parameters(), weight_decay=self.config.weight_decay
        )
        self.probe = build_network(self.spec)  # runs the weights of snapshots, in evaluation mode
        self.layout: Layout = layout_of(self.network.state_dict())
        self.x, self.y, self.x_test, self.y_test = (tensor.to(device) for tensor in _images(recipe.cache / IMAGES))
        self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.steps_per_epoch = math.ceil(len(self.x) / self.config.batch_size)
        self.steps = snapshot_steps(self.config, len(self.x))
        self.weights = self._open_weights()
        self.columns: dict[str, list[float]] = {name: [] for name in SnapshotColumns.__struct_fields__}

    def run(self) -> Manifest:
        start = self._restore()
        if start == 0:
            self._snapshot(0)
        for epoch in range(start, self.config.epochs):
            self._epoch(epoch)
            self._save(epoch + 1)
        return self._manifest()

    def _epoch(self, epoch: int) -> None:
        batches = epoch_batches(len(self.x), self.config.batch_size, self.recipe.seed, epoch)
        due = set(self.steps)
        for number, chosen in enumerate(batches, start=epoch * self.steps_per_epoch + 1):
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(number)
            self.optimizer.zero_grad()
            images = self._moved(self.x[chosen], number)
            loss = nn.functional.cross_entropy(self.network(images), self.y[chosen])
            loss.backward()
            self.optimizer.step()
            if number in due:
                self._snapshot(number)

    def _moved(self, images: Tensor, number: int) -> Tensor:
        """Return the images of step `number`, shifted if configured."""
        most = self.config.shift
        if not most:
            return images
        random = np.random.default_rng([self.recipe.seed, number, 1])
        return moved(images, torch.from_numpy(random.integers(-most, most + 1, (len(images), 2))))

    def _rate(self, number: int) -> float:
        """Return the learning rate of step `number`, counted from 1."""
        total, schedule = self.steps_per_epoch * self.config.epochs, self.config.schedule
        share = rate(max(0, number - 1), total=total, warmup=0.0, schedule=schedule)
        return self.recipe.optimizer.lr * share

    def _snapshot(self, step: int) -> None:
        vector = self.layout.flatten(self.network.state_dict())
        train = self._scores(vector, self.x, self.y, self.config.probe_images)
        test = self._scores(vector, self.x_test, self.y_test, None if self._last() else self.config.probe_images)
        if not (math.isfinite(train[1]) and np.isfinite(vector).all()):
            where = f"train_base, {self.recipe.optimizer.name}, seed {self.recipe.seed}, step {step}"
            fix = "lower its learning rate in base.optimizers"
            raise TrainingError("the loss is not finite", where=where, got=train[1], fix=fix)
        self.weights[len(self.columns["step"])] = vector
        row = (step, step / self.steps_per_epoch, self._rate(step), train[1], test[1], test[0])
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)

    def _scores(self, vector: np.ndarray, x: Tensor, y: Tensor, count: int | None) -> tuple[float, float]:
        result = scores(run_networks(self.probe, self.layout, torch.from_numpy(vector)[None], x[:count]), y[:count])
        return float(result.accuracy[0]), float(result.loss[0])

    def _last(self) -> bool:
        return len(self.columns["step"]) == len(self.steps) - 1

    def _open_weights(self) -> np.memmap:
        path, shape = self.recipe.folder / WEIGHTS, (len(self.steps), self.layout.size)
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+" if path.is_file() and (path.parent / PROGRESS).is_file() else "w+"
        return np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=None if mode == "r+" else shape)

    def _save(self, epoch: int) -> None:
        self.weights.flush()
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in entries.items() if tensor is not None}
        write_tensors(self.recipe.folder / STATE.format(epoch), tensors)
        write_json(self.recipe.folder / PROGRESS, {"epoch": epoch, "snapshots": self.columns})
        (self.recipe.folder / STATE.format(epoch - 1)).unlink(missing_ok=True)

    def _restore(self) -> int:
        path = self.recipe.folder / PROGRESS
        if not path.is_file():
            return 0
        progress = msgspec.convert(read_json(path), RunProgress)
        tensors = read_tensors(self.recipe.folder / STATE.format(progress.epoch))
        self.network.load_state_dict(tensors_below(tensors, "network."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors_below(tensors, "optimizer.").items():
            number, _, entry = name.partition(".")
            moments.setdefault(int(number), {})[entry] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.columns = {name: list(column) for name, column in to_plain(progress.snapshots).items()}
        return progress.epoch

    def _manifest(self) -> Manifest:
        return Manifest(
            format=1,
            run=self.recipe.name,
            seed=self.recipe.seed,
            dataset=self.config.dataset,
            optimizer=self.recipe.optimizer.name,
            weight_decay=self.config.weight_decay,
            batch_size=self.config.batch_size,
            snapshots_per_epoch=self.steps_per_epoch / self.config.snapshot_steps
            if self.config.snapshot_steps
            else self.config.snapshots_per_epoch,
            network=self.spec,
            layout=self.layout,
            snapshots=msgspec.convert(self.columns, SnapshotColumns, strict=False),
        )


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Yield the image indices of each batch of an epoch; the order depends on seed and epoch only."""
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))
    yield from order.split(batch_size)


def moved(
    images: Float[Tensor, "image channel row column"], shifts: Int[Tensor, "image 2"]
) -> Float[Tensor, "image channel row column"]:
    """Return each image shifted down and right by its number of pixels, padded with 0."""
    most = int(shifts.abs().max())
    padded = nn.functional.pad(images, (most,) * 4).movedim(1, -1)  # (B, H + 2 most, W + 2 most, C)
    rows, columns = (
        torch.arange(length) + most - shift[:, None] for length, shift in zip(images.shape[-2:], shifts.T, strict=True)
    )  # (B, H), (B, W)
    whole = torch.arange(len(images))[:, None, None]
    return padded[whole, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)  # channels last, as it came


def _device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the CPU, since such small networks gain nothing from a GPU."""
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        fix = "set it to auto in machine.yaml or WSCORE_DEVICE"
        raise ConfigError("is not available on this machine", where="device", got=name, fix=fix)
    return torch.device("cpu" if name == "auto" else name)


@lru_cache(maxsize=1)  # runs on one data set are consecutive
def _images(path: Path) -> tuple[Tensor, ...]:
    tensors = read_tensors(path)
    return tuple(tensors[name] for name in SPLITS)
