"""Recipe of the property heads: cached latents and the zoo's metadata in, a folder per task out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from wscore.config import Section, convert, to_plain
from wscore.errors import ConfigError, DataError, ModelError
from wscore.io import read_json
from wscore.losses.property import binary_loss, class_loss, regression_loss
from wscore.models.folder import CONFIG, load_model, read_model_config, save_model
from wscore.models.heads import Head, HeadConfig
from wscore.training.batches import TensorBatches, derive_seed
from wscore.training.callbacks import Callback, Resume
from wscore.training.engine import Device
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.schedule import Schedule
from wscore.training.state import FitConfig
from wscore.training.targets import (
    Binary,
    Continuous,
    Discrete,
    SavedTargets,
    Scale,
    Target,
    Targets,
    encode,
    fit_binary,
    fit_continuous,
    fit_discrete,
)
from wscore.zoo.store import Zoo

Task = Literal["patterns", "accuracy", "hyperparameters"]
Batch = tuple[Tensor, Tensor, Tensor]  # latents (B, Z), values (B, T), known (B, T)
Positive = Annotated[int, Meta(ge=1)]
ENCODE_AGAIN = "run `dvc repro cache_representations`"
Outputs = dict[str, Float[np.ndarray, "rows _"]]


class HeadsConfig(Section):
    """Property heads on cached representations (section `heads:`).

    Args:
        tasks: heads that are trained, each on its own.
        patterns: labels of the task `patterns`: columns that are true or false, or `<column>_<value>`.
        accuracy_target: column that the task `accuracy` predicts.
        continuous: numeric columns of the task `hyperparameters`, each on a linear or a log scale.
        discrete: columns of the task `hyperparameters` that hold names.
        target_weights: weight of single targets in the loss of their head; 1 where not named.
        balance: weigh rare labels and names up in the loss.
        regression_loss: of continuous targets, in their scaled space.
        hidden_dim: units of each hidden layer.
        layers: hidden layers; 0 makes linear probes.
        dropout: share of the hidden units left out in training.
        epochs: most passes over the training networks.
        batch_size: networks per step.
        lr: highest learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        schedule: decay of the learning rate after the warm-up.
        warmup: share of the steps in which the rate rises.
        clip_norm: largest norm of the gradient; null = no limit.
        patience: epochs without improvement of the validation loss.
        device: where to compute.
        seed: of the initial weights, the order of the batches and dropout.
    """

    tasks: Annotated[tuple[Task, ...], Meta(min_length=1)]
    patterns: Annotated[tuple[str, ...], Meta(min_length=1)]
    accuracy_target: str
    continuous: dict[str, Scale]
    discrete: tuple[str, ...]
    target_weights: dict[str, Annotated[float, Meta(ge=0)]]
    balance: bool
    regression_loss: Literal["mse", "huber"]
    hidden_dim: Positive
    layers: Annotated[int, Meta(ge=0)]
    dropout: Annotated[float, Meta(ge=0, lt=1)]
    epochs: Positive
    batch_size: Positive
    lr: Annotated[float, Meta(gt=0)]
    weight_decay: Annotated[float, Meta(ge=0)]
    schedule: Schedule
    warmup: Annotated[float, Meta(ge=0, lt=1)]
    clip_norm: Annotated[float, Meta(gt=0)] | None
    patience: Positive
    device: Device
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        named = {"tasks": self.tasks, "patterns": self.patterns, "continuous and discrete": self.hyperparameters}
        for key, names in named.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"named twice under {key}: {', '.join(twice)}")
        unknown = sorted(set(self.target_weights) - {*self.patterns, self.accuracy_target, *self.hyperparameters})
        if unknown:
            raise ValueError(f"target_weights names no target: {', '.join(unknown)}")
        if not self.hyperparameters and "hyperparameters" in self.tasks:
            raise ValueError("the task hyperparameters needs a column under continuous or discrete")

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Columns of the task `hyperparameters`."""
        return (*self.continuous, *self.discrete)


class HeadData(NamedTuple):
    """Networks with their latents.

    Attributes:
        latents: (N, Z) float32.
        table: metadata, one row per network in the same order, with the columns `row` (of the zoo) and `split`.
        encoder: hash of the encoder that made the latents.
    """

    latents: Float[np.ndarray, "rows latent"]
    table: pd.DataFrame
    encoder: str

    def part(self, split: str) -> "HeadData":
        """Return the networks of one split."""
        chosen = (self.table["split"] == split).to_numpy()
        return HeadData(self.latents[chosen], self.table.loc[chosen], self.encoder)


class PropertyHead(NamedTuple):
    """A trained head and what its outputs mean.

    Attributes:
        task: what it was trained for.
        model: latents in, raw outputs by target out.
        targets: fitted on the training rows.
        encoder: hash of the encoder whose latents it reads.
    """

    task: str
    model: Head
    targets: Targets
    encoder: str


def read_head_data(representations: Path, zoo: Zoo) -> HeadData:
    """Return the cached latents of networks beside the zoo's metadata about them.

    Raises:
        DataError: if a file is missing or malformed, or the representations are those of another zoo.
    """
    table, manifest = _read_representations(Path(representations))
    zoo_rows = zoo.table.assign(row=np.arange(len(zoo))).set_index("model_id", drop=False)
    unknown = len(set(table["model_id"]) - set(zoo_rows.index))
    if manifest["zoo"] != zoo.identity or unknown or not zoo_rows.index.is_unique:
        raise DataError(
            "the representations are those of another zoo",
            where=representations,
            expected=f"zoo {zoo.identity}, each network once by its model_id",
            got=f"zoo {manifest['zoo']}, {unknown} unknown networks of {len(table)}",
            fix=ENCODE_AGAIN,
        )
    joined = zoo_rows.loc[table["model_id"]].reset_index(drop=True)
    latents = np.stack(table["latent"].tolist()).astype(np.float32)
    return HeadData(latents, joined.assign(split=table["split"].to_numpy()), manifest["encoder"])


def fit_targets(task: str, config: HeadsConfig, train: pd.DataFrame) -> Targets:
    """Return the targets of a task with scales, vocabularies and class weights of the training rows.

    Raises:
        ConfigError: if the task is unknown.
        DataError: if a column is missing, of the wrong type, or has one value only.
    """
    if task not in TASKS:
        raise ConfigError("unknown task", where="--task", expected=f"one of {', '.join(TASKS)}", got=task)
    return TASKS[task](config, train)


def train_head(
    task: str,
    config: HeadsConfig,
    data: HeadData,
    *,
    callbacks: Sequence[Callback] = (),
    resume: Resume | Path | None = None,
) -> tuple[PropertyHead, History]:
    """Return a head trained on the training networks, and the figures of its epochs; test networks are not looked at.

    Raises:
        ConfigError: if the task is unknown.
        DataError: if the training or validation split is empty, or a target can't be learned.
    """
    train, validation = data.part("train"), data.part("validation")
    for name, part in (("training", train), ("validation", validation)):
        if not len(part.table):
            raise DataError(
                f"there is no {name} network", where="heads", fix="make more runs, or change the fractions in tokens"
            )
    targets = fit_targets(task, config, train.table)
    head = PropertyHead(task, build_head(config, train.latents, targets), targets, data.encoder)
    history = fit(
        head.model,
        train=batches(head, train, config, shuffle=True),
        validation=batches(head, validation, config, shuffle=False),
        loss=head_loss(targets, regression=config.regression_loss),
        # One batch per step in float32: a head is too small to gain from anything else.
        config=FitConfig.of(config, accumulate=1, precision="no"),
        callbacks=callbacks,
        resume=resume,
    )
    return head, history


def build_head(config: HeadsConfig, latents: Float[np.ndarray, "rows latent"], targets: Targets) -> Head:
    """Return an untrained head whose input scaling is that of these training latents."""
    shape = HeadConfig(
        latent_dim=latents.shape[1],
        hidden_dim=config.hidden_dim,
        layers=config.layers,
        dropout=config.dropout,
        outputs={target.name: target.width for target in targets},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "head"))
        model = Head(shape)
    model.standardise(torch.from_numpy(np.ascontiguousarray(latents)))
    return model


def batches(head: PropertyHead, data: HeadData, config: HeadsConfig, *, shuffle: bool) -> TensorBatches:
    """Return batches (latents (B, Z), values (B, T), known (B, T)) of networks."""
    encoded = encode(head.targets, data.table)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (data.latents, *encoded)]
    return TensorBatches(*tensors, batch_size=config.batch_size, seed=config.seed, shuffle=shuffle)


def head_loss(targets: Targets, *, regression: str) -> Callable[[Head, Batch], Mapping[str, Tensor]]:
    """Return the loss of a head: the mean over its targets of weight x loss.

    Each target's own loss is logged as `loss_<name>`. A target's loss is the mean over the networks of the batch of
    which it is known.
    """
    weights = {target.name: target.weight for target in targets}
    functions = [_target_loss(target, regression) for target in targets]

    def loss(head: Head, batch: Batch) -> dict[str, Tensor]:
        latents, values, known = batch
        outputs = head(latents)
        each = {
            target.name: function(outputs[target.name], values[:, number], known[:, number])
            for number, (target, function) in enumerate(zip(targets, functions, strict=True))
        }
        total = torch.stack([weights[name] * value for name, value in each.items()]).mean()
        return {"loss": total, **{f"loss_{name}": value for name, value in each.items()}}

    return loss


@torch.no_grad()
def predict(head: PropertyHead, latents: Float[np.ndarray, "rows latent"]) -> Outputs:
    """Return what a head says about latents, by target.

    That is the probability of true (N, 1), a scaled number (N, 1), or the probability of each name of the vocabulary
    (N, K).

    Raises:
        ModelError: if the latents have another length than those it was trained on.
    """
    expected = head.model.config.latent_dim
    if latents.shape[1] != expected:
        raise ModelError("latents do not fit the head", expected=f"{expected} numbers each", got=latents.shape[1])
    raw = head.model.eval()(torch.from_numpy(np.ascontiguousarray(latents, dtype=np.float32)))
    return {target.name: _probabilities(target, raw[target.name]).numpy() for target in head.targets}


def read(head: PropertyHead, latents: Float[np.ndarray, "rows latent"]) -> pd.DataFrame:
    """Return the properties of networks in plain words and units, a column per target: true or false, number, name."""
    outputs = predict(head, latents)
    return pd.DataFrame(
        {
            target.name: target.restore(outputs[target.name].argmax(axis=1))
            if isinstance(target, Discrete)
            else target.restore(outputs[target.name][:, 0])
            for target in head.targets
        }
    )


def save_head(folder: Path, head: PropertyHead) -> None:
    """Write a head as config.json (with task, encoder, and targets with their scaling and vocabulary) and weights."""
    extra = {"task": head.task, "encoder": head.encoder, "targets": to_plain(head.targets)}
    save_model(folder, head.model, extra=extra)


def load_head(folder: Path, task: str | None = None) -> PropertyHead:
    """Return the head in a folder.

    Raises:
        ModelError: if it is missing, altered, no head, or was trained for another task than the one asked for.
    """
    content = read_model_config(folder)
    found = content.get("task", content["class"])
    if not {"task", "encoder", "targets"} <= set(content) or task not in (None, found):
        raise ModelError("holds no head for this task", where=folder, expected=task or "a head", got=found)
    try:
        saved = convert({"targets": content["targets"]}, SavedTargets, where=str(Path(folder) / CONFIG))
    except ConfigError as error:
        raise ModelError(str(error)) from error
    model = load_model(folder, Head)
    widths = {target.name: target.width for target in saved.targets}
    if widths != model.config.outputs:
        raise ModelError(
            "outputs and targets differ", where=Path(folder) / CONFIG, expected=widths, got=model.config.outputs
        )
    return PropertyHead(found, model, saved.targets, content["encoder"])


def _read_representations(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return model_id, split and latent of each network, and the manifest."""
    path = folder / "representations.parquet"
    manifest = read_json(folder / "manifest.json")
    if not path.is_file() or not {"zoo", "encoder"} <= set(manifest):
        raise DataError("no representations here", where=folder, expected=path.name, fix=ENCODE_AGAIN)
    try:
        return pd.read_parquet(path, columns=["model_id", "split", "latent"]), manifest
    except (pa.ArrowInvalid, ValueError) as error:
        text = " ".join(str(error).split())
        raise DataError("is not a table of representations", where=path, got=text, fix=ENCODE_AGAIN) from error


def _patterns(config: HeadsConfig, train: pd.DataFrame) -> Targets:
    return fit_binary(
        config.patterns, train, balance=config.balance, weights=config.target_weights, key="heads.patterns"
    )


def _accuracy(config: HeadsConfig, train: pd.DataFrame) -> Targets:
    name = config.accuracy_target
    return fit_continuous({name: "linear"}, train, weights=config.target_weights, key="heads.accuracy_target")


def _hyperparameters(config: HeadsConfig, train: pd.DataFrame) -> Targets:
    weights = config.target_weights
    continuous = fit_continuous(config.continuous, train, weights=weights, key="heads.continuous")
    return (
        *continuous,
        *fit_discrete(config.discrete, train, balance=config.balance, weights=weights, key="heads.discrete"),
    )


TASKS: dict[str, Callable[[HeadsConfig, pd.DataFrame], Targets]] = {
    "patterns": _patterns,
    "accuracy": _accuracy,
    "hyperparameters": _hyperparameters,
}


def _target_loss(target: Target, regression: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if isinstance(target, Binary):
        return lambda out, value, known: binary_loss(out[:, 0], value, known, positive_weight=target.positive_weight)
    if isinstance(target, Continuous):
        return lambda out, value, known: regression_loss(out[:, 0], value, known, kind=regression)
    weights = torch.tensor(target.class_weights)
    return lambda out, value, known: class_loss(out, value, known, class_weights=weights.to(out.device))


def _probabilities(target: Target, raw: Tensor) -> Tensor:
    if isinstance(target, Binary):
        return raw.sigmoid()
    return raw.softmax(dim=1) if isinstance(target, Discrete) else raw
