"""Callbacks of the training loop: before training, after each step, after each epoch, at the end."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from wscore.io import content_hash
from wscore.progress import progress_bar
from wscore.tracking import Tracker
from wscore.training.history import Row
from wscore.training.state import TrainingState, restore_training, write_state

CHECKPOINTS = Path(".cache/checkpoints")
RESUME_SECONDS = float(os.environ.get("WSCORE_CHECKPOINT_SECONDS", "10"))


@runtime_checkable
class Callback(Protocol):
    """Hooks called by the training loop; subclasses override what they need."""

    def on_start(self, state: TrainingState) -> None:
        """Before the first epoch, or before the next one if the training is resumed."""

    def on_step(self, state: TrainingState) -> None:
        """After each optimizer step."""

    def on_epoch(self, state: TrainingState) -> None:
        """After each epoch and its validation; `state.history.rows[-1]` holds its metrics."""

    def on_end(self, state: TrainingState) -> None:
        """At the end, also if training failed."""


class BestCheckpoint(Callback):
    """Keeps a copy of the weights of the best epoch in CPU memory."""

    def on_epoch(self, state: TrainingState) -> None:
        """Copy the weights if this epoch is the best so far."""
        if state.history.best_epoch == state.epoch:
            state.best = {name: value.detach().to("cpu", copy=True) for name, value in state.model.state_dict().items()}


class EarlyStopping(Callback):
    """Stops the training after `patience` epochs in a row without a new lowest monitored value."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_epoch(self, state: TrainingState) -> None:
        """Stop when the best epoch is too long ago."""
        if state.epoch - state.history.best_epoch >= self.patience:
            state.stop = True


class PostStep(Callback):
    """Changes the model after each optimizer step, for example to normalise the rows of a matrix."""

    def __init__(self, change: Callable[[nn.Module], object]) -> None:
        self.change = change

    def on_step(self, state: TrainingState) -> None:
        """Apply the change."""
        self.change(state.model)


class TrackerLogger(Callback):
    """Logs the metrics of each epoch to the stage's run; on resuming, earlier epochs are logged too."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_start(self, state: TrainingState) -> None:
        """Log the epochs before the interruption."""
        for row in state.history.rows:
            self.tracker.log_metrics(_figures(row), step=int(row["epoch"]))

    def on_epoch(self, state: TrainingState) -> None:
        """Log the epoch."""
        self.tracker.log_metrics(_figures(state.history.rows[-1]), step=state.epoch)

    def on_end(self, state: TrainingState) -> None:
        """Log the best epoch."""
        self.tracker.log_metrics({"best_epoch": state.history.best_epoch})


class TensorBoard(Callback):
    """Writes the metrics of each epoch for TensorBoard; the next training in the same folder replaces the curves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def on_start(self, state: TrainingState) -> None:
        """Open the log."""
        if state.main:
            from torch.utils.tensorboard.writer import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=state.epoch + 1)

    def on_epoch(self, state: TrainingState) -> None:
        """Write the epoch."""
        if self.writer is not None:
            for name, value in _figures(state.history.rows[-1]).items():
                self.writer.add_scalar(name.replace("_", "/", 1), value, state.epoch)

    def on_end(self, state: TrainingState) -> None:  # noqa: ARG002
        """Close the log."""
        if self.writer is not None:
            self.writer.close()


class Progress(Callback):
    """Progress with the metrics of the last epoch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Any = None

    def on_start(self, state: TrainingState) -> None:
        """Open the bar."""
        about = {"desc": self.name, "total": state.total_steps, "initial": state.step, "unit": "step"}
        self.bar = progress_bar(hidden=not state.main, **about)

    def on_step(self, state: TrainingState) -> None:  # noqa: ARG002
        """Advance the bar."""
        self.bar.update()

    def on_epoch(self, state: TrainingState) -> None:
        """Show the metrics of the epoch."""
        row = state.history.rows[-1]
        metric = f"{row[state.history.monitor]:.4g}"
        self.bar.set_postfix({"epoch": state.epoch, state.history.monitor: metric}, refresh=False)

    def on_end(self, state: TrainingState) -> None:  # noqa: ARG002
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class Resume(Callback):
    """Saves the full state between epochs, so that a killed training resumes and ends with exactly the same weights.

    Args:
        folder: see `resume_folder`; not a DVC output.
        seconds: minimum time between two writes; a kill loses at most this time plus one epoch.
    """

    def __init__(self, folder: Path, seconds: float | int = RESUME_SECONDS) -> None:
        self.path = Path(folder) / "state.safetensors"
        self.seconds = seconds
        self.written = time.monotonic()

    def load(self, state: TrainingState) -> bool:
        """Restore the saved state if there is a matching one; return whether there was."""
        return restore_training(self.path, state)

    def on_epoch(self, state: TrainingState) -> None:
        """Write the state if the last one is old enough."""
        if state.main and time.monotonic() - self.written >= self.seconds:
            write_state(self.path, state)
            self.written = time.monotonic()

    def remove(self, state: TrainingState) -> None:
        """Delete the state of a completed training."""
        if state.main:
            self.path.unlink(missing_ok=True)
            if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
                self.path.parent.rmdir()


def resume_folder(stage: str, *identity: str) -> Path:
    """Return the checkpoint folder of a stage for these params and data (strings or hashes that determine the result)."""
    return CHECKPOINTS / stage / content_hash(*identity)


def _figures(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("epoch", "step")}
