"""Generic training loop, independent of the model: takes a module, batches and a loss function."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wscore.config import load_machine
from wscore.errors import TrainingError
from wscore.training.batches import Batches, TensorBatches, derive_seed
from wscore.training.callbacks import BestCheckpoint, Callback, EarlyStopping, Resume
from wscore.training.engine import Engine, batch_items
from wscore.training.history import History
from wscore.training.schedule import rate
from wscore.training.state import FitConfig, TrainingState

__all__ = ["Batches", "FitConfig", "History", "TensorBatches", "fit"]

Loss = Callable[[Any, Any], Mapping[str, Tensor]]
Groups = Callable[[Any], list[dict[str, Any]]]
CHECK_EVERY = 32  # batches between two checks of the loss, each of which synchronises with the GPU


def fit(
    model: nn.Module,
    *,
    train: Batches,
    validation: Batches | None,
    loss: Loss,
    config: FitConfig,
    monitor: str = "loss",
    callbacks: Sequence[Callback] = (),
    resume: Path | Resume | None = None,
    groups: Groups | None = None,
) -> History:
    """Train a model in place with AdamW; it ends with the weights of its best epoch, in eval mode, on its original device.

    The result is a pure function of the arguments on one machine: each epoch seeds torch's global generators from the
    seed and its number (losses draw from these only); the state of the caller's generators is restored.

    Args:
        model: the module to train; any of its parts may be used by the loss.
        train: batches of the training split.
        validation: batches of the validation split, in eval mode without gradients; None monitors the training loss.
        loss: scalars of a batch, means over its items; `loss` is minimised, the others are only logged.
        config: training settings.
        monitor: scalar that determines the best epoch; lower is better.
        callbacks: called in this order.
        resume: folder for the state of an interrupted training, removed at the end.
        groups: AdamW's parameter groups of a model, each with an optional `lr_factor`; all parameters equally if None.

    Returns:
        One row per epoch.

    Raises:
        TrainingError: if there is no batch or a loss is not finite.
        ConfigError: if the device is missing or does not support the precision.
    """
    engine = Engine(load_machine().device, config.precision)
    home = next(model.parameters()).device
    model.to(engine.device)
    engine.synchronize([*model.parameters(), *model.buffers()])
    trainer = _Trainer(model, engine, loss, config, groups)
    state = trainer.begin(len(train), f"{'train' if validation is None else 'validation'}_{monitor}")
    saver = Resume(resume) if isinstance(resume, Path) else resume
    devices = [engine.device] if engine.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        trainer.run(state, train, validation, [BestCheckpoint(), EarlyStopping(config.patience), *callbacks], saver)
    if saver is not None:
        saver.remove(state)
    model.load_state_dict(state.best)
    model.to(home).eval()
    return state.history


class _Trainer:
    def __init__(self, model: nn.Module, engine: Engine, loss: Loss, config: FitConfig, groups: Groups | None) -> None:
        self.model = model
        self.engine = engine
        self.loss = loss
        self.config = config
        entries = (
            groups(model) if groups is not None else [{"params": [p for p in model.parameters() if p.requires_grad]}]
        )
        entries = [{"lr_factor": 1.0, **entry} for entry in entries]
        fused = engine.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(entries, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def begin(self, batches: int, monitor: str) -> TrainingState:
        if batches == 0:
            raise TrainingError("there is nothing to train on", expected="at least one batch", got=0)
        return TrainingState(
            model=self.model,
            optimizer=self.optimizer,
            config=self.config,
            history=History(monitor),
            total_steps=self.config.epochs * -(-batches // self.config.accumulate),
            main=self.engine.rank == 0,
            scaler=self.engine.scaler,
        )

    def run(
        self,
        state: TrainingState,
        train: Batches,
        validation: Batches | None,
        callbacks: list[Callback],
        saver: Resume | None,
    ) -> None:
        if saver is not None:
            saver.load(state)
            callbacks = [*callbacks, saver]
        hooks = [c.on_step for c in callbacks if type(c).on_step is not Callback.on_step]
        try:
            for callback in callbacks:
                callback.on_start(state)
            while state.epoch < self.config.epochs and not state.stop:
                state.epoch += 1
                row = {f"train_{k}": v for k, v in self.train_epoch(state, train, hooks).items()}
                if validation is not None:
                    row |= {f"validation_{k}": v for k, v in self.validate(state, validation).items()}
                lr = max(group["lr"] for group in self.optimizer.param_groups)
                state.history.rows.append({"epoch": state.epoch, "step": state.step, "lr": lr, **row})
                for callback in callbacks:
                    callback.on_epoch(state)
        finally:
            for callback in callbacks:
                callback.on_end(state)

    def train_epoch(
        self, state: TrainingState, batches: Batches, hooks: Sequence[Callable[[TrainingState], None]]
    ) -> dict[str, float]:
        """Return the mean of each scalar over the epoch."""
        torch.manual_seed(derive_seed(self.config.seed, "epoch", state.epoch, self.engine.rank))
        self.model.train()
        means = _Means(self.engine, f"epoch {state.epoch}, training")
        for group in _batched(batches.epoch(state.epoch), self.config.accumulate):
            self.train_step(state, group, means)
            for hook in hooks:
                hook(state)
        return means.result()

    def train_step(self, state: TrainingState, group: list[Any], means: "_Means") -> None:
        """Do one optimizer step on the mean loss over the items of a group of batches."""
        self.set_rate(state)
        self.optimizer.zero_grad()
        counts = [batch_items(batch) for batch in group]
        for batch, count in zip(group, counts, strict=True):
            piece, items = self.engine.share(batch, count)
            with self.engine.autocast():
                scalars = self.loss(self.model, self.engine.place(piece))
            means.add(scalars, items)
            share = items / sum(counts)
            self.engine.backward(scalars["loss"] if share == 1 else scalars["loss"] * share)
        self.engine.step(self.optimizer, self.parameters, self.config.clip_norm)
        state.step += 1

    def set_rate(self, state: TrainingState) -> None:
        config = self.config
        share = rate(state.step, total=state.total_steps, warmup=config.warmup, schedule=config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * share * group["lr_factor"]

    def validate(self, state: TrainingState, batches: Batches) -> dict[str, float]:
        """Return the mean of each scalar over the validation split; random losses use the same draws in every epoch."""
        torch.manual_seed(derive_seed(self.config.seed, "validation"))
        self.engine.synchronize(list(self.model.buffers()))
        self.model.eval()
        means = _Means(self.engine, f"epoch {state.epoch}, validation")
        with torch.no_grad():
            for batch in batches.epoch(state.epoch):
                with self.engine.autocast():
                    means.add(self.loss(self.model, self.engine.place(batch)), float(batch_items(batch)))
        return means.result()


class _Means:
    """Means of scalars over the items of an epoch; kept on the device until they are read."""

    def __init__(self, engine: Engine, where: str) -> None:
        self.engine = engine
        self.where = where
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.items: list[float] = []
        self.checked = 0

    def add(self, scalars: Mapping[str, Tensor], items: float) -> None:
        for name, value in scalars.items():
            self.values[name].append(value.detach())
        self.items.append(items)
        if len(self.items) - self.checked >= CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """Raise if a loss is not finite."""
        if self.checked == len(self.items):
            return
        losses = torch.stack(self.values["loss"][self.checked :])
        if not losses.isfinite().all():
            index = int((~losses.isfinite()).nonzero()[0])
            raise TrainingError(
                "the loss is not finite",
                where=f"{self.where} batch {self.checked + index + 1}",
                got=losses[index].item(),
                fix="lower the learning rate, set clip_norm, or look for non-finite values in the data",
            )
        self.checked = len(self.items)

    def result(self) -> dict[str, float]:
        if not self.items:
            raise TrainingError("there is no batch", where=self.where)
        self.check()
        items = torch.tensor(self.items, dtype=torch.float64)
        stacked = torch.stack([torch.stack(values) for values in self.values.values()]).cpu().double()  # (K, N)
        sums = torch.cat([stacked @ items, items.sum()[None]])
        sums = self.engine.sum(sums.to(self.engine.device)).cpu() if self.engine.processes > 1 else sums
        return dict(zip(self.values, (sums[:-1] / sums[-1]).tolist(), strict=True))


def _batched(batches: Iterable[Any], count: int) -> Iterator[list[Any]]:
    iterator = iter(batches)
    while group := list(islice(iterator, count)):
        yield group
