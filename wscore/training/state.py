"""Training configuration and state, with saving and restoring of the state."""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wscore.config import Section, convert, to_plain
from wscore.errors import WscoreWarning
from wscore.io import tensors_below, write_tensors
from wscore.training.engine import Precision
from wscore.training.history import History
from wscore.training.schedule import Schedule


class FitConfig(Section, kw_only=True):
    """Training settings; fields of every trained model's section have the same names. Those that no section varies have defaults.

    Attributes:
        epochs: maximum number of passes over the training data.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        schedule: decay of the learning rate after the warm-up.
        warmup: fraction of the steps with linear warm-up.
        clip_norm: maximum global Euclidean gradient norm; null = no clipping.
        accumulate: batches per optimizer step.
        patience: epochs without a new lowest monitored value before training stops.
        precision: of the forward pass.
        seed: for everything random during training; the initial weights are up to the caller.
    """

    epochs: Annotated[int, Meta(ge=1)]
    lr: Annotated[float, Meta(gt=0)]
    weight_decay: Annotated[float, Meta(ge=0)]
    schedule: Schedule = "cosine"
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    clip_norm: Annotated[float, Meta(gt=0)] | None = 1.0
    accumulate: Annotated[int, Meta(ge=1)] = 1
    patience: Annotated[int, Meta(ge=1)]
    precision: Precision = "no"
    seed: Annotated[int, Meta(ge=0)]

    @classmethod
    def of(cls, section: Section, **given: Any) -> "FitConfig":
        """Return the training part of a larger section: fields of the same name, overridden by `given`."""
        values = {name: value for name, value in to_plain(section).items() if name in cls.__struct_fields__}
        return convert({**values, **given}, cls, where=type(section).__name__)


@dataclass(kw_only=True)
class TrainingState:
    """Training state that callbacks read and modify.

    Attributes:
        model: the model being trained, unwrapped.
        optimizer: its optimizer.
        config: training settings.
        history: metrics of the completed epochs.
        total_steps: optimizer steps in the whole training.
        main: whether this process writes files and logs (only the first one does under torchrun).
        scaler: loss scaler of fp16.
        epoch: number of the current or just completed epoch, 0 before the first.
        step: completed optimizer steps.
        stop: set to stop after this epoch.
        best: weights of the best epoch, on the CPU.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: FitConfig
    history: History
    total_steps: int
    main: bool = True
    scaler: torch.amp.GradScaler | None = None
    epoch: int = 0
    step: int = 0
    stop: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)


def write_state(path: Path, state: TrainingState) -> None:
    """Write a training between two epochs as one safetensors file, atomically.

    Random generators need not be stored: each epoch seeds them from the configured seed and its number, and the learning
    rate is a function of the step.
    """
    tensors = {f"model/{name}": tensor.clone() for name, tensor in state.model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    plain = {"epoch": state.epoch, "step": state.step, "stop": state.stop, "rows": state.history.rows, "optimizer": {}}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in values.items() if isinstance(value, Tensor)}
        plain["optimizer"][index] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
    if state.scaler is not None:
        plain["scaler"] = state.scaler.state_dict()
    write_tensors(path, tensors, {"state": json.dumps(plain)})


def restore_training(path: Path, state: TrainingState) -> bool:
    """Restore the state from a file; return whether a matching one was found, and warn about one that does not match."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            plain = json.loads(file.metadata()["state"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path}: unreadable ({error}); training starts afresh", WscoreWarning, stacklevel=2)
        return False
    if not _fits(tensors_below(tensors, "model/"), state.model.state_dict()):
        warnings.warn(f"{path}: of another model; training starts afresh", WscoreWarning, stacklevel=2)
        return False
    _restore(state, tensors, plain)
    return True


def _restore(state: TrainingState, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    state.model.load_state_dict(tensors_below(tensors, "model/"))
    state.best = tensors_below(tensors, "best/")
    moments = {int(index): dict(values) for index, values in plain["optimizer"].items()}
    for name, tensor in tensors_below(tensors, "optimizer/").items():
        index, _, key = name.partition("/")
        moments[int(index)][key] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.history.rows = plain["rows"]
    state.epoch, state.step, state.stop = plain["epoch"], plain["step"], plain["stop"]
    if state.scaler is not None and "scaler" in plain:
        state.scaler.load_state_dict(plain["scaler"])


def _fits(saved: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return {n: (t.shape, t.dtype) for n, t in saved.items()} == {n: (t.shape, t.dtype) for n, t in expected.items()}
