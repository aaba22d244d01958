"""Nowcasting in any training loop: jump to forecast weights, continue training, and undo jumps that did not help.

    jumps = wscore.nowcast(network, optimizer, every=40)
    for images, labels in batches:
        loss = ...
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        jumps.step(loss)
    jumps.finish()
    with jumps.averaged():
        ...  # evaluate or save the network

A jump is evaluated only after some recovery steps: a forecast adds error in steep directions, which a few steps remove,
and progress in flat ones, which remains. Until then the weights and the optimiser state from before the jump are kept;
a jump that did not lower the loss is undone together with its recovery steps.

At a high constant learning rate the weights fluctuate around a point with a lower loss. `averaged` gives that point,
the mean of the last few snapshots, at no extra steps; jumps move it forward.
"""

import copy
import math
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.errors import ConfigError, ModelError, TrainingError
from wscore.forecasting.models.predictors import Steps, WeightPredictor
from wscore.forecasting.trajectories.recorder import unwrapped
from wscore.networks.layout import Layout, layout_of
from wscore.training.model_folder import CONFIG, load_model

FURTHEST = 8  # intervals; longer jumps were no better
FAST = 0.5  # no jump while the loss falls by a larger share between two jumps
PLACES = (Path("models/predictor"), Path("models/published/predictor"))  # a newly trained predictor comes first


@runtime_checkable
class Forecasts(Protocol):
    """Interface of the forecasters: any `WeightPredictor`, or your own rule."""

    def predict(
        self, history: Float[Tensor, "snapshot weights"], layout: Layout, horizons: Steps
    ) -> Float[Tensor, "horizon weights"]:
        """Return the weights at each horizon after the last of some equally spaced snapshots, oldest first."""
        ...


class Jump(NamedTuple):
    """One evaluated jump.

    Attributes:
        step: optimiser steps before it.
        expected: loss without the jump, extrapolated from the trend.
        recovered: loss after the recovery.
        accepted: whether it was kept.
    """

    step: int
    expected: float
    recovered: float
    accepted: bool


class Nowcast:
    """Jumps to forecast weights at regular intervals and undoes jumps that did not lower the loss.

    With c input snapshots of the predictor, a snapshot is taken every `every // c` steps, and a jump spans `horizon` of
    these intervals. It is kept if the mean loss of the last half of the recovery is at most `tolerance` standard errors
    above the loss extrapolated from before the jump (`Trend`). While the losses fall fast (`falls_fast`), there are no
    jumps. Steps lost to undone jumps are at most a share `budget` of all steps, plus one recovery.

    Args:
        network: its unfrozen parameters jump; buffers, such as running statistics, are kept and adapt during recovery.
        optimizer: of these parameters; its state (momentum, moments) is kept over a jump and restored with the weights.
            The options of its groups are not restored: a schedule continues.
        every: steps between jumps.
        horizon: length of a jump in snapshot intervals, one of the predictor's horizons; null takes the longest up to
            8.
        predictor: a forecaster, or the folder of one; null takes `models/predictor`, else `models/published/predictor`.
        snapshots: c, for forecasters without a configuration.
        start: steps before the first jump.
        recovery: steps after a jump before it is evaluated.
        tolerance: allowed excess loss in standard errors.
        budget: largest share of steps lost to undone jumps.
        averages: snapshots, `every // c` steps apart, in the mean of `averaged`.

    Attributes:
        jumps: all evaluated jumps.
        steps: counted optimiser steps, including lost ones.
        lost: undone steps.

    Raises:
        ConfigError: if a number is out of range, or the optimizer has none of the network's parameters.
        ModelError: if there is no predictor in that folder.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 40,
        horizon: int | None = None,
        predictor: Forecasts | Path | str | None = None,
        snapshots: int | None = None,
        start: int = 80,
        recovery: int = 15,
        tolerance: float = 4.0,
        budget: float = 0.05,
        averages: int = 6,
    ) -> None:
        self.network, self.optimizer = unwrapped(network), optimizer
        self.predictor = _predictor(predictor)
        config = getattr(self.predictor, "config", None)
        self.length = snapshots or getattr(config, "sequence_length", None) or 3
        learned = getattr(config, "horizons", range(1, FURTHEST + 1))
        self.every, self.recovery = every, recovery
        near = [step for step in learned if step <= FURTHEST]
        self.horizon = max(near, default=min(learned)) if horizon is None else horizon
        self.start, self.tolerance, self.budget, self.averages = start, tolerance, budget, averages
        _check(self)
        self.interval = every // self.length
        self.parameters = _parameters(self.network, optimizer)
        self.layout = layout_of(self.parameters)
        self.jumps: list[Jump] = []
        self.steps = self.lost = 0
        self._history: list[Tensor] = []
        self._recent: list[_Snapshot] = []
        self._losses: list[Tensor] = []
        self._before: _Before | None = None
        self._optimized = False
        inner = getattr(optimizer, "optimizer", optimizer)  # Hugging Face's `Accelerator` wraps it
        inner.register_step_post_hook(self._note_optimizer)

    def step(self, loss: float | Tensor) -> None:
        """Count one optimiser step, and jump or evaluate a jump if it is due; call it after `optimizer.step()`.

        Args:
            loss: of the batch of this step. In distributed training all processes must pass the mean loss.

        Raises:
            TrainingError: if the loss is not a scalar, or not finite outside of a recovery, or if the optimizer makes
                no steps.
        """
        self.steps += 1
        self._losses.append(_number(loss, self.steps))
        if len(self._losses) % self.interval == 0:
            self._note()
        if self._before is not None and len(self._losses) == self.recovery:
            self._decide(self._before)
        full = len(self._history) == self.length and len(self._losses) % self.interval == 0
        ready = full and len(self._losses) >= self.every and self.steps >= self.start
        if ready and self.lost <= self.budget * self.steps and not falls_fast(_numbers(self._losses[-self.every :])):
            self._jump()

    def finish(self) -> None:
        """Undo a jump that has not been evaluated yet; call it before the weights are used for anything else.

        Without it the network may keep weights from up to `recovery` steps after an unevaluated jump.
        """
        if self._before is not None:
            self._go_back(self._before, len(self._losses))
            self._before = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Set the network to the mean of its last snapshots, also across jumps, and restore its weights afterwards.

        Floating-point buffers, such as running statistics, are averaged too. Before the first snapshot nothing changes.
        """
        if not self._recent:
            yield
            return
        before = _copies(self.network)
        means = [torch.stack(columns).mean(0) for columns in zip(*self._recent, strict=True)]
        with torch.no_grad():
            for name, value in self.layout.unflatten(means[0]).items():
                self.parameters[name].copy_(value)
            for buffer, value in zip(self._statistics(), means[1:], strict=True):
                buffer.copy_(value)
        try:
            yield
        finally:
            _put(self.network, before)

    def _note(self) -> None:
        """Save the current state."""
        vector = self._vector()
        self._history = [*self._history[1 - self.length :], vector]
        statistics = (buffer.detach().clone() for buffer in self._statistics())
        self._recent = [*self._recent, (vector, *statistics)][-self.averages :]

    def _statistics(self) -> list[Tensor]:
        """Return the buffers that can be averaged: all fractions but the unit vectors of a power iteration."""
        names = {name for name, _ in self.network.named_parameters()}
        buffers = dict(self.network.named_buffers())
        return [b for name, b in buffers.items() if b.is_floating_point() and not _is_power_vector(name, names)]

    @torch.no_grad()
    def _jump(self) -> None:
        calm = max(self.every - self.recovery, self.every // 2)  # losses undisturbed by jumps
        trend = fit_trend(_numbers(self._losses[-calm:]), self.steps)
        if not math.isfinite(trend.error):
            raise TrainingError("the loss is not finite", where=f"step {self.steps}", fix="lower the learning rate")
        if not self._optimized:
            fix = "give the optimizer that trains the network to a new `wscore.nowcast`"
            raise TrainingError("the optimizer makes no steps", where=f"step {self.steps}", fix=fix)
        if isinstance(self.predictor, nn.Module):
            self.predictor.to(self._history[-1].device)
        future = self.predictor.predict(torch.stack(self._history), self.layout, (self.horizon,))[-1]
        self._forget()
        if not bool(torch.isfinite(future).all()):
            return
        self._before = _Before(
            self.steps,
            trend,
            _copies(self.network),
            copy.deepcopy(self.optimizer.state_dict()["state"]),
            self._recent,
        )
        for name, value in self.layout.unflatten(future).items():
            self.parameters[name].copy_(value)

    def _decide(self, before: "_Before") -> None:
        recovered = _numbers(self._losses)[-math.ceil(self.recovery / 2) :]
        expected, error = before.trend.ahead(self.recovery - len(recovered) / 2, len(recovered))
        mean = sum(recovered) / len(recovered)
        accepted = mean <= expected + self.tolerance * error  # false for a loss that is not finite
        if not accepted:
            self._go_back(before, self.recovery)
        self.jumps.append(Jump(before.step, expected, mean, accepted))
        self._before = None

    def _go_back(self, before: "_Before", steps: int) -> None:
        _put(self.network, before.values)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": before.state})
        self._recent = before.recent
        self.lost += steps
        self._forget()

    def _forget(self) -> None:
        """Start a new history: increments across a jump are not training dynamics."""
        self._history, self._losses, self._optimized = [], [], False

    def _note_optimizer(self, *_: object) -> None:
        self._optimized = True

    def _vector(self) -> Float[Tensor, " weights"]:
        return torch.cat([self.parameters[spec.name].detach().reshape(-1).float() for spec in self.layout.tensors])


nowcast = Nowcast
_Snapshot = tuple[Tensor, ...]  # weights as one vector, and each floating-point buffer


class Trend(NamedTuple):
    """A falling curve through losses: level - fall log(step / last step).

    It flattens out, as losses do; a straight line would be too optimistic early in training.

    Attributes:
        level: at their end.
        fall: over a unit of log(step), 0 or more.
        error: standard deviation s of the losses around the curve.
        last: step of their end.
        number: of losses n.
        centre: mean m of their log(step / last step).
        square: sum S of the squared distances from it.
    """

    level: float
    fall: float
    error: float
    last: int
    number: int
    centre: float
    square: float

    def ahead(self, steps: float, count: int) -> tuple[float, float]:
        """Return the extrapolated loss some steps ahead, and the standard error of a mean of `count` losses there.

        The variance at x = log(step / last step) is s^2 (1 / n + (x - m)^2 / S + 1 / count).
        """
        place = math.log((self.last + steps) / self.last)
        variance = 1 / self.number + (place - self.centre) ** 2 / self.square + 1 / count
        return self.level - self.fall * place, self.error * math.sqrt(variance)


def fit_trend(losses: Sequence[float], last: int) -> Trend:
    """Return the least-squares curve through the losses of successive steps up to step `last`; its fall is at least 0."""
    n = len(losses)
    places = [math.log((last - n + 1 + place) / last) for place in range(n)]
    centre, mean = sum(places) / n, sum(losses) / n
    square = sum((place - centre) ** 2 for place in places) or 1.0
    product = sum((place - centre) * (loss - mean) for place, loss in zip(places, losses, strict=True))
    fall = max(0.0, -product / square)
    rest = sum((loss - mean + fall * (place - centre)) ** 2 for place, loss in zip(places, losses, strict=True))
    error = math.sqrt(rest / max(1, n - 2))
    return Trend(mean + fall * centre, fall, error, last, n, centre, square)


def falls_fast(losses: Sequence[float]) -> bool:
    """Return whether losses of successive steps fall by more than half, from their first third to their last.

    The share is undefined for losses that can be negative; these never count as fast.

    >>> falls_fast([2.0, 1.0, 0.5]), falls_fast([2.0, 1.9, 1.8])
    (True, False)
    """
    third = len(losses) // 3
    return 0 < sum(losses[-third:]) < (1 - FAST) * sum(losses[:third])


class _Before(NamedTuple):
    """State from before a jump, for undoing it."""

    step: int
    trend: Trend
    values: dict[str, Tensor]
    state: dict[Any, Any]
    recent: "list[_Snapshot]"


def _numbers(losses: Sequence[Tensor]) -> list[float]:
    return torch.stack([loss.float() for loss in losses]).tolist()


def _number(loss: float | Tensor, step: int) -> Float[Tensor, ""]:
    value = torch.as_tensor(loss).detach()
    if value.numel() != 1:
        got = f"shape {tuple(value.shape)}"
        raise TrainingError("the loss is not one number", where=f"step {step}", got=got, fix="give its mean")
    return value.reshape(())


def _parameters(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """Return the parameters that jump: floating-point and not frozen."""
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = dict(network.named_parameters())
    jumping = {name: p for name, p in named.items() if p.requires_grad and p.is_floating_point()}
    if not any(id(p) in optimized for p in jumping.values()):
        expected = "one that trains parameters of the network"
        raise ConfigError("has none of the parameters", where="nowcast: optimizer", expected=expected)
    return jumping


def _is_power_vector(name: str, parameters: Set[str]) -> bool:
    """Return whether a buffer is a unit vector of spectral normalisation, old or new; a mean of them is shorter than 1."""
    return name.rpartition(".")[2] in ("_u", "_v") or (
        name.endswith(("_u", "_v")) and f"{name[:-2]}_orig" in parameters
    )


def _values(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (*network.named_parameters(), *network.named_buffers())}


def _copies(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of what training changes: unfrozen parameters and all buffers, also non-persistent ones."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: tensor.clone() for name, tensor in _values(network).items() if name not in frozen}


def _put(network: nn.Module, copies: dict[str, Tensor]) -> None:
    tensors = _values(network)
    for name, value in copies.items():
        tensors[name].copy_(value)


def _predictor(predictor: Forecasts | Path | str | None) -> Forecasts:
    if predictor is None:
        folders = [place for place in PLACES if (place / CONFIG).is_file()]
        if not folders:
            fix = "run `dvc repro train_predictor`, or name the folder of a predictor"
            raise ModelError("no weight predictor here", where=PLACES[0], expected=f"{CONFIG} and weights", fix=fix)
        predictor = folders[0]
    return load_model(Path(predictor), WeightPredictor) if isinstance(predictor, Path | str) else predictor


def _check(jumps: Nowcast) -> None:
    learned = getattr(getattr(jumps.predictor, "config", None), "horizons", None)
    if learned is not None and jumps.horizon not in learned:
        expected = f"a trained horizon, one of {list(learned)}"
        raise ConfigError("is out of range", where="nowcast: horizon", expected=expected, got=jumps.horizon)
    bounds = {
        "every": (jumps.every, jumps.length, math.inf),
        "horizon": (jumps.horizon, 1, math.inf),
        "recovery": (jumps.recovery, 1, jumps.every - 1),
        "start": (jumps.start, 0, math.inf),
        "budget": (jumps.budget, 0, 1),
        "averages": (jumps.averages, 1, math.inf),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            expected = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise ConfigError("is out of range", where=f"nowcast: {name}", expected=expected, got=value)
