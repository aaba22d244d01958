"""Trains the property heads: features of networks and zoo metadata in, one folder per task out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from wscore.autoencoder.models.autoencoder import Encoder
from wscore.config import Section, convert, to_plain
from wscore.errors import ConfigError, DataError, ModelError, WscoreWarning
from wscore.heads.boosting import Examples, fit_forest
from wscore.heads.conformal import Intervals, fit_intervals
from wscore.heads.dataset import NOTHING, PROBES, HeadBatches, HeadData
from wscore.heads.ensemble import Blend, BlendConfig, Predictions
from wscore.heads.ensemble_weights import best_shares, error_of
from wscore.heads.features import parse_features
from wscore.heads.finetune import Unfreeze, finetune_parameter_groups
from wscore.heads.losses import binary_loss, class_loss, regression_loss
from wscore.heads.mlp_head import Head, HeadConfig
from wscore.heads.targets import (
    Binary,
    Continuous,
    Discrete,
    Encoded,
    Scale,
    Target,
    Targets,
    encode_targets,
    fit_binary,
    fit_continuous,
    fit_discrete,
)
from wscore.heads.token_attention import ReaderConfig
from wscore.heads.trees import Forest
from wscore.late import pd
from wscore.training.batches import Batches, TensorBatches, derive_seed
from wscore.training.callbacks import Callback, Resume
from wscore.training.history import History
from wscore.training.loop import fit
from wscore.training.model_folder import CONFIG, load_model, read_model_config, save_model
from wscore.training.state import FitConfig

Task = Literal["patterns", "accuracy", "hyperparameters"]
Positive = Annotated[int, Meta(ge=1)]
Factor = Annotated[float, Meta(ge=0)]
Outputs = dict[str, Float[np.ndarray, "rows _"]]
BLOCK = 512  # networks read at once
BINS = 63  # histogram bins per feature in boosting
RATE = 0.1  # learning rate of boosting
SHARE = 0.3  # fraction of features considered per split, for trees on all features
BOOSTED = 16384  # maximum number of training networks for trees, sampled (trees keep several copies in memory);
# a quarter as many validation networks are used for early stopping
READER = {"width": 64, "blocks": 2, "heads": 4, "outputs": 128}  # attention over tokens


class HeadsConfig(Section):
    """Property heads (section `heads:`)."""

    tasks: Annotated[tuple[Task, ...], Meta(min_length=1)]
    patterns: Annotated[tuple[str, ...], Meta(min_length=1)]
    accuracy_target: str
    accuracy_scale: Scale
    coverage: Annotated[float, Meta(gt=0, lt=1)]
    continuous: dict[str, Scale]
    discrete: tuple[str, ...]
    target_weights: dict[str, Factor]
    balance: bool
    mode: Literal["frozen", "finetune"]
    features: str
    members: Annotated[tuple[Literal["network", "boosting", "statistics"], ...], Meta(min_length=1)]
    copies: Positive
    hidden_dim: Positive
    layers: Annotated[int, Meta(ge=0)]
    dropout: Annotated[float, Meta(ge=0, lt=1)]
    epochs: Positive
    batch_size: Positive
    lr: Annotated[float, Meta(gt=0)]
    encoder_lr: Factor
    unfreeze_every: Positive | None
    weight_decay: Factor
    patience: Positive
    boosting_rounds: Positive
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        named = {"tasks": self.tasks, "patterns": self.patterns, "members": self.members}
        for key, names in {**named, "continuous and discrete": self.hyperparameters}.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"named twice under {key}: {', '.join(twice)}")
        unknown = sorted(set(self.target_weights) - {*self.patterns, self.accuracy_target, *self.hyperparameters})
        if unknown:
            raise ValueError(f"target_weights names no target: {', '.join(unknown)}")
        if not self.hyperparameters and "hyperparameters" in self.tasks:
            raise ValueError("the task hyperparameters needs a column under continuous or discrete")
        self._check_members()

    def _check_members(self) -> None:
        """Reject members without inputs."""
        if self.mode == "finetune" and ("latent" not in self.read or "network" not in self.members):
            raise ValueError("mode finetune needs latent among the features and network among the members")
        if "tokens" in self.read and "network" not in self.members:
            raise ValueError("the features tokens need network among the members")
        if "boosting" in self.members and not self.blocks:
            raise ValueError("boosting has no input features: add some besides tokens, or remove it from members")
        if "statistics" in self.members and "statistics" not in self.blocks:
            raise ValueError("the member statistics needs statistics among the features")

    @property
    def read(self) -> tuple[str, ...]:
        """Feature blocks in use."""
        return parse_features(self.features)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Feature blocks that are cached arrays."""
        live = ("tokens", "latent") if self.mode == "finetune" else ("tokens",)
        return tuple(name for name in self.read if name not in live)

    @property
    def reads_tokens(self) -> bool:
        """Whether the tokens themselves are inputs."""
        return "tokens" in self.read or self.mode == "finetune"

    def is_informed(self, task: str) -> bool:
        """Whether the head of a task is trained with and without architectures: they would give away all but the accuracy."""
        return task == "accuracy" and self.mode == "frozen" and PROBES in self.blocks

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Columns of the task `hyperparameters`."""
        return (*self.continuous, *self.discrete)


class PropertyHead(NamedTuple):
    """A trained head with the targets that give its outputs meaning.

    Attributes:
        task: task that it was trained on.
        model: features in, outputs by target out.
        targets: fitted on the training rows.
        encoder: hash of the encoder of its latents.
        features: names of its input columns by block, in order.
        intervals: prediction intervals of its continuous targets.
        informed: the same for networks of known architecture; empty if it was not trained with architectures.
    """

    task: str
    model: Blend
    targets: Targets
    encoder: str
    features: Mapping[str, tuple[str, ...]]
    intervals: Mapping[str, Intervals]
    informed: Mapping[str, Intervals] = NOTHING


class Fold(NamedTuple):
    """Inputs and targets of the networks of one split."""

    data: HeadData
    inputs: Float[np.ndarray, "rows input"]
    encoded: Encoded

    @classmethod
    def of(cls, data: HeadData, config: HeadsConfig, targets: Targets) -> Fold:
        """Return the inputs and targets of networks."""
        return cls(data, data.inputs(config.blocks), encode_targets(targets, data.table))

    def followed_by(self, other: Fold) -> Fold:
        """Return the networks of both; features besides the inputs are those of the first."""
        data = self.data.take(np.tile(np.arange(len(self.inputs)), 2))
        pairs = zip((self.inputs, *self.encoded), (other.inputs, *other.encoded), strict=True)
        inputs, *encoded = (np.concatenate(pair) for pair in pairs)
        return Fold(data, inputs, Encoded(*encoded))


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
    encoder: Encoder | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Resume | Path | None = None,
) -> tuple[PropertyHead, History]:
    """Return a head trained on the training networks, and its training history; test networks are not used.

    Args:
        task: to train.
        config: of the heads.
        data: networks of all splits, with tokens if the head uses them.
        encoder: copied and trained jointly in the mode `finetune`.
        callbacks: for the training of the first network.
        resume: where the state of the first network's training is saved.

    Raises:
        ConfigError: if the task is unknown.
        DataError: if the training or validation split is empty, or a target cannot be learned.
    """
    train, validation = data.part("train"), data.part("validation")
    for name, rows in (("training", train), ("validation", validation)):
        if not len(rows.table):
            raise DataError(
                f"there is no {name} network", where="heads", fix="make more runs, or change the fractions in tokens"
            )
    targets = fit_targets(task, config, train.table)
    plain = [Fold.of(rows, config, targets) for rows in (train, validation)]
    known = [rows.informed() for rows in (train, validation)] if config.is_informed(task) else []
    told = [Fold.of(rows, config, targets) for rows in known] if known and known[0] is not train else []
    folds = [fold.followed_by(other) for fold, other in zip(plain, told, strict=True)] if told else plain
    _warn_of_trees(config, folds)
    forests = [_forest(member, config, targets, *folds) for member in config.members if member != "network"]
    networks, histories = [], []
    for copy in range(config.copies if "network" in config.members else 0):
        network = build_head(config, folds[0], targets, encoder=encoder, copy=copy)
        extras: dict[str, Any] = {"callbacks": callbacks, "resume": resume} if copy == 0 else {}
        histories.append(_fit_network(network, config, targets, folds, copy=copy, **extras))
        networks.append(network)
    model = _blend(targets, networks, forests)
    _mix(model, targets, folds[1])
    features = {block: data.names(block) for block in config.blocks}
    intervals = [_intervals(model, targets, part[1], config) for part in (plain, told) if part]
    head = PropertyHead(task, model, targets, data.encoder, features, *intervals)
    return head, histories[0] if histories else _bare_history(model, targets, folds)


def build_head(
    config: HeadsConfig, train: Fold, targets: Targets, *, encoder: Encoder | None = None, copy: int = 0
) -> Head:
    """Return an untrained network with inputs scaled by the training networks.

    Args:
        config: of the heads.
        train: training networks.
        targets: to predict.
        encoder: copied into the network (mode `finetune`).
        copy: index of the network, for its seed.

    Raises:
        ConfigError: if the encoder to be finetuned is missing.
    """
    if config.mode == "finetune" and encoder is None:
        raise ConfigError("the mode finetune needs the encoder itself", where="heads.mode", expected="its folder")
    shape = HeadConfig(
        inputs=train.inputs.shape[1],
        hidden_dim=config.hidden_dim,
        layers=config.layers,
        dropout=config.dropout,
        outputs={target.name: target.width for target in targets},
        encoder=encoder.config if encoder is not None and config.mode == "finetune" else None,
        reader=_reader(config, train.data) if "tokens" in config.read else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "head", copy) if copy else derive_seed(config.seed, "head"))
        model = Head(shape)
    model.standardise(torch.from_numpy(train.inputs))
    if model.encoder is not None and encoder is not None:
        model.encoder.load_state_dict(encoder.state_dict())
    return model


def batches(fold: Fold, config: HeadsConfig, *, shuffle: bool, seed: int | None = None) -> Batches:
    """Return batches (inputs (B, F), values (B, T), known (B, T)[, tokens]) of networks."""
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (fold.inputs, *fold.encoded)]
    options: dict[str, Any] = {"batch_size": config.batch_size, "shuffle": shuffle}
    options["seed"] = config.seed if seed is None else seed
    if not config.reads_tokens or fold.data.tokens is None:
        return TensorBatches(*tensors, **options)
    return HeadBatches(tensors, fold.data.tokens, fold.data.items(), **options)


def head_loss(targets: Targets) -> Callable[[Head, Sequence[Any]], Mapping[str, Tensor]]:
    """Return the loss of a head: the mean over its targets of weight x loss.

    The loss of each target is logged as `loss_<name>`. It is the mean over the networks of the batch where the target
    is known.
    """
    weights = {target.name: target.weight for target in targets}
    functions = [_target_loss(target) for target in targets]

    def loss(head: Head, batch: Sequence[Any]) -> dict[str, Tensor]:
        inputs, values, known, *tokens = batch
        outputs = head(inputs, *tokens)
        each = {
            target.name: function(outputs[target.name], values[:, number], known[:, number])
            for number, (target, function) in enumerate(zip(targets, functions, strict=True))
        }
        total = torch.stack([weights[name] * value for name, value in each.items()]).mean()
        return {"loss": total, **{f"loss_{name}": value for name, value in each.items()}}

    return loss


@torch.no_grad()
def outputs_of(model: Blend, data: HeadData, inputs: Float[np.ndarray, "rows input"]) -> Outputs:
    """Return the outputs of a model by target, computed in blocks of networks."""
    parts = [_predictions(model, data, inputs, rows) for rows in _blocks(len(inputs))]
    return {name: np.concatenate([block[name].numpy() for block in parts]) for name in model.config.kinds}


def predict_properties(head: PropertyHead, data: HeadData) -> Outputs:
    """Return the predictions of a head by target.

    A prediction is the probability of true (N, 1), a scaled value (N, 1), or the probability of each class (N, K).

    Raises:
        ModelError: if the features are not those it was trained on.
    """
    for block, names in head.features.items():
        columns = data.names(block)
        if columns != tuple(names):
            raise ModelError(
                f"the features {block!r} do not match the head", where=f"head for {head.task}",
                expected=f"{len(names)} numbers, the first {list(names[:1])}",
                got=f"{len(columns)}, of which {len(set(columns) & set(names))} are the same",
            )  # fmt: skip
    return outputs_of(head.model.eval(), data, data.inputs(tuple(head.features)))


def read(head: PropertyHead, outputs: Outputs, *, informed: bool = False) -> dict[str, np.ndarray]:
    """Decode predictions (`predict_properties`) to raw values, one array per target: boolean, number or class.

    A target with prediction intervals has two more, `<name>_low` and `<name>_high`.

    Args:
        head: that predicted them.
        outputs: predictions.
        informed: whether they were made with the architectures of the networks.
    """
    columns: dict[str, np.ndarray] = {}
    intervals = head.informed if informed and head.informed else head.intervals
    for target in head.targets:
        predicted = outputs[target.name]
        if not isinstance(target, Continuous):
            raw = target.restore(predicted.argmax(axis=1) if isinstance(target, Discrete) else predicted[:, 0])
            columns[target.name] = np.asarray(raw)
            continue
        columns[target.name] = target.possible(predicted[:, 0])
        if target.name in intervals:
            low, high = intervals[target.name].bounds(predicted[:, 0])
            columns |= {f"{target.name}_low": target.possible(low), f"{target.name}_high": target.possible(high)}
    return columns


def save_head(folder: Path, head: PropertyHead) -> None:
    """Write a head as config.json (task, encoder, features, intervals, targets with their scaling) and weights."""
    extra = {
        "task": head.task,
        "encoder": head.encoder,
        "features": {block: list(names) for block, names in head.features.items()},
        "targets": to_plain(head.targets),
        "intervals": to_plain(dict(head.intervals)),
        "informed": to_plain(dict(head.informed)),
    }
    save_model(folder, head.model, extra=extra)


class SavedHead(Section):
    """Content of the config.json of a head besides its model."""

    task: str
    encoder: str
    features: dict[Literal["latent", "statistics", "spectra", "probes"], tuple[str, ...]]
    targets: Targets
    intervals: dict[str, Intervals]
    informed: dict[str, Intervals]


def load_head(folder: Path, task: str | None = None) -> PropertyHead:
    """Return the head in a folder.

    Raises:
        ModelError: if it is missing, altered, no head, or was trained for another task.
    """
    content = read_model_config(folder)
    named = content.get("task", content["class"])
    if not set(SavedHead.__struct_fields__) <= set(content) or task not in (None, named):
        raise ModelError("holds no head for this task", where=folder, expected=task or "a head", got=named)
    try:
        plain = {name: content[name] for name in SavedHead.__struct_fields__}
        saved = convert(plain, SavedHead, where=str(Path(folder) / CONFIG))
    except ConfigError as error:
        raise ModelError(str(error)) from error
    model = load_model(folder, Blend)
    for number, forest in enumerate(model.forests):
        assert isinstance(forest, Forest)
        forest.check(f"{folder}: forests.{number}")
    kinds = {target.name: target_kind(target) for target in saved.targets}
    widths = {target.name: target.width for target in saved.targets}
    if kinds != model.config.kinds or any(shape.outputs != widths for shape in model.config.members):
        raise ModelError("outputs and targets differ", where=folder, expected=kinds, got=model.config.kinds)
    return PropertyHead(
        saved.task, model, saved.targets, saved.encoder, {**saved.features}, saved.intervals, saved.informed
    )


def target_kind(target: Target) -> Literal["binary", "continuous", "discrete"]:
    """Return the target kind used in `BlendConfig`."""
    if isinstance(target, Binary):
        return "binary"
    return "continuous" if isinstance(target, Continuous) else "discrete"


def _intervals(model: Blend, targets: Targets, fold: Fold, config: HeadsConfig) -> dict[str, Intervals]:
    predicted, runs = outputs_of(model, fold.data, fold.inputs), fold.data.table["run_id"].to_numpy()
    return fit_intervals(targets, predicted, fold.encoded, runs=runs, coverage=config.coverage)


def _reader(config: HeadsConfig, data: HeadData) -> ReaderConfig:
    dim = data.tokens.token_dim if data.tokens is not None else 1
    return ReaderConfig(token_dim=dim, dropout=config.dropout, **READER)


def _forest(member: str, config: HeadsConfig, targets: Targets, train: Fold, validation: Fold) -> Forest:
    """Return boosted trees on all features, or on the seven statistics of each tensor alone."""
    alone = member == "statistics"
    few = [_few(fold, most, config.seed) for fold, most in zip((train, validation), _most(), strict=True)]
    return fit_forest(
        targets,
        *(Examples(_only_statistics(fold, config) if alone else fold.inputs, fold.encoded) for fold in few),
        iterations=config.boosting_rounds,
        learning_rate=RATE,
        max_features=1.0 if alone else SHARE,
        max_bins=BINS,
        seed=config.seed,
    )


def _warn_of_trees(config: HeadsConfig, folds: Sequence[Fold]) -> None:
    counts = [len(fold.inputs) for fold in folds]
    if set(config.members) != {"network"} and any(np.greater(counts, _most())):
        most, given = (" and ".join(f"{count:,}" for count in numbers) for numbers in (_most(), counts))
        message = f"trees are fitted on at most {most} of {given} training and validation networks"
        warnings.warn(message, WscoreWarning, stacklevel=3)


def _most() -> tuple[int, int]:
    """Return how many training and validation networks trees are fitted on at most."""
    return BOOSTED, BOOSTED // 4


def _few(fold: Fold, most: int, seed: int) -> Fold:
    """Return a random subset of a fold for trees, which keep several copies of the features in memory."""
    count = len(fold.inputs)
    if count <= most:
        return fold
    rows = np.sort(np.random.default_rng(derive_seed(seed, "trees", count)).permutation(count)[:most])
    return fold._replace(inputs=fold.inputs[rows], encoded=Encoded(*(values[rows] for values in fold.encoded)))


def _only_statistics(fold: Fold, config: HeadsConfig) -> Float[np.ndarray, "rows input"]:
    """Return the inputs with everything but the statistics set to missing."""
    kept = [np.full(len(fold.data.names(block)), block == "statistics") for block in config.blocks]
    return np.where(np.concatenate(kept), fold.inputs, np.float32(np.nan))


def _fit_network(
    network: Head, config: HeadsConfig, targets: Targets, folds: Sequence[Fold], *, copy: int, **extras: Any
) -> History:
    seed = derive_seed(config.seed, "copy", copy) if copy else config.seed
    train, validation = folds
    callbacks = list(extras.pop("callbacks", ()))
    if config.mode == "finetune" and config.unfreeze_every is not None:
        callbacks.insert(0, Unfreeze(config.unfreeze_every))
    return fit(
        network,
        train=batches(train, config, shuffle=True, seed=seed),
        validation=batches(validation, config, shuffle=False),
        loss=head_loss(targets),
        # One batch per step in float32: a head is too small to gain from anything else.
        config=FitConfig.of(config, seed=seed),
        groups=lambda model: finetune_parameter_groups(model, encoder=config.encoder_lr),
        callbacks=callbacks,
        **extras,
    )


def _blend(targets: Targets, networks: Sequence[Head], forests: Sequence[Forest]) -> Blend:
    config = BlendConfig(
        kinds={target.name: target_kind(target) for target in targets},
        network=networks[0].config if networks else None,
        copies=max(1, len(networks)),
        forests=tuple(forest.config for forest in forests),
    )
    model = Blend(config)
    for place, network in enumerate(networks):
        model.networks[place].load_state_dict(network.state_dict())
    for place, forest in enumerate(forests):
        model.forests[place].load_state_dict(forest.state_dict())
    return model.eval()


@torch.no_grad()
def _mix(model: Blend, targets: Targets, validation: Fold) -> None:
    """Choose the mixing weights of the members per target on the validation networks."""
    tokens = (lambda rows: _tokens(validation.data, rows)) if model.reads_tokens else (lambda _: None)
    outputs: list[list[Predictions]] = [
        model.members(torch.from_numpy(validation.inputs[rows]), tokens(rows))
        for rows in _blocks(len(validation.inputs))
    ]
    for number, target in enumerate(targets):
        known = validation.encoded.known[:, number]
        each = [
            np.concatenate([block[member][target.name].numpy() for block in outputs])[known]
            for member in range(model.share.shape[1])
        ]
        shares = best_shares(target, each, validation.encoded.values[known, number])
        model.share[number] = torch.tensor(shares)


def _predictions(model: Blend, data: HeadData, inputs: np.ndarray, rows: np.ndarray) -> Predictions:
    return model(torch.from_numpy(inputs[rows]), _tokens(data, rows) if model.reads_tokens else None)


def _tokens(data: HeadData, rows: np.ndarray) -> Any:
    items = data.items()[rows]
    assert data.tokens is not None
    return data.tokens.batch(items)


def _blocks(count: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), max(1, -(-count // BLOCK)))


def _bare_history(model: Blend, targets: Targets, folds: Sequence[Fold]) -> History:
    """Return one row of errors for a head without networks: trees record no per-round history."""
    history = History("validation_loss")
    row: dict[str, float | int] = {"epoch": 1, "step": 1, "lr": 0.0}
    for name, fold in zip(("train", "validation"), folds, strict=True):
        predicted = outputs_of(model, fold.data, fold.inputs)
        losses = []
        for number, target in enumerate(targets):
            known = fold.encoded.known[:, number]
            losses.append(error_of(target, predicted[target.name][known], fold.encoded.values[known, number]))
        row[f"{name}_loss"] = float(np.mean(losses))
    history.rows.append(row)
    return history


def _patterns(config: HeadsConfig, train: pd.DataFrame) -> Targets:
    return fit_binary(
        config.patterns, train, balance=config.balance, weights=config.target_weights, key="heads.patterns"
    )


def _accuracy(config: HeadsConfig, train: pd.DataFrame) -> Targets:
    name = config.accuracy_target
    return fit_continuous(
        {name: config.accuracy_scale}, train, weights=config.target_weights, key="heads.accuracy_target"
    )


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


def _target_loss(target: Target) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if isinstance(target, Binary):
        return lambda out, value, known: binary_loss(out[:, 0], value, known, positive_weight=target.positive_weight)
    if isinstance(target, Continuous):
        return lambda out, value, known: regression_loss(out[:, 0], value, known)
    weights = torch.tensor(target.class_weights)
    return lambda out, value, known: class_loss(out, value, known, class_weights=weights.to(out.device))
