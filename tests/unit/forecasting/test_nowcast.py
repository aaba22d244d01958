"""Jumps in a training: kept where they pay, taken back where they don't, and never more steps lost than allowed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wscore
from wscore.errors import ConfigError, ModelError, TrainingError
from wscore.forecasting.models.predictors import GramPredictor, GramPredictorConfig, Steps, steps_of
from wscore.forecasting.nowcast import Nowcast, falls_fast, fit_trend
from wscore.networks.layout import Layout
from wscore.training.model_folder import save_model

CONFIG = GramPredictorConfig(
    sequence_length=3,
    horizons=(1, 2, 3),
    model_dim=8,
    layers=1,
    heads=2,
    dropout=0.0,
    lagged_snapshots=(),
    rank_splits=(3, 20),
    ensemble_size=1,
)


class Rule:
    """Forecasts by a function of history and steps ahead."""

    def __init__(self, rule: Callable[[Tensor, int], Tensor]) -> None:
        self.rule = rule

    def predict(self, history: Tensor, layout: Layout, horizons: Steps) -> Tensor:
        assert history.shape[1] == layout.size
        return torch.stack([self.rule(history, step) for step in steps_of(horizons)])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


def train(
    steps: int, *, model: nn.Module, optimizer: torch.optim.Optimizer, jumps: Nowcast | None = None
) -> list[float]:
    """Fit fixed targets, full batch; return the losses."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    y = torch.stack([x[:, 0] - x[:, 1], x[:, 2] * 0.5], dim=1)
    losses = []
    for _ in range(steps):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if jumps is not None:
            jumps.step(loss)
    return losses


def setting(
    rule: Callable[[Tensor, int], Tensor], **options: float
) -> tuple[nn.Module, torch.optim.Optimizer, Nowcast]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    return (
        model,
        optimizer,
        wscore.nowcast(model, optimizer, every=12, predictor=Rule(rule), **{"start": 0, "recovery": 6, **options}),
    )


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value.clone() for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
    return [value.clone() for value in model.state_dict().values()] + moments


def test_a_good_forecast_saves_steps() -> None:
    plain = network()
    losses = train(120, model=plain, optimizer=torch.optim.Adam(plain.parameters(), lr=0.002))
    model, optimizer, jumps = setting(lambda history, k: history[-1] + k * (history[-1] - history[-2]))
    faster = train(120, model=model, optimizer=optimizer, jumps=jumps)
    assert all(jump.accepted for jump in jumps.jumps)
    assert len(jumps.jumps) == 9  # every 12 steps
    reached = next(number for number, loss in enumerate(faster) if loss <= losses[-1])
    assert reached < 80


def test_a_bad_forecast_is_taken_back_with_all_that_followed() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1] + 10.0)
    reference = network()
    twin = torch.optim.Adam(reference.parameters(), lr=0.002)
    train(12, model=reference, optimizer=twin)
    train(18, model=model, optimizer=optimizer, jumps=jumps)  # after 12 it jumps, after 18 that is judged
    assert [jump.accepted for jump in jumps.jumps] == [False]
    assert all(torch.equal(a, b) for a, b in zip(state(model, optimizer), state(reference, twin), strict=True))
    assert (jumps.lost, jumps.steps) == (6, 18)


def test_a_jump_that_was_not_judged_is_taken_back_at_the_end() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1] + 10.0)
    train(15, model=model, optimizer=optimizer, jumps=jumps)
    jumps.finish()
    jumps.finish()
    reference = network()
    twin = torch.optim.Adam(reference.parameters(), lr=0.002)
    train(12, model=reference, optimizer=twin)
    assert all(torch.equal(a, b) for a, b in zip(state(model, optimizer), state(reference, twin), strict=True))
    assert jumps.lost == 3


def test_no_more_steps_are_lost_than_the_budget_allows() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1] + 10.0, budget=0.1)
    train(400, model=model, optimizer=optimizer, jumps=jumps)
    assert not any(jump.accepted for jump in jumps.jumps)
    assert 30 < jumps.lost <= 0.1 * 400 + 6
    assert jumps.lost == 6 * len(jumps.jumps)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_forecasts_that_are_not_finite_are_left_alone(value: float) -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1] * value)
    train(60, model=model, optimizer=optimizer, jumps=jumps)
    reference = network()
    train(60, model=reference, optimizer=torch.optim.Adam(reference.parameters(), lr=0.002))
    assert jumps.jumps == []
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))


def test_a_jump_into_divergence_is_taken_back() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1] * 1e30)
    train(60, model=model, optimizer=optimizer, jumps=jumps)
    assert jumps.jumps
    assert not any(jump.accepted for jump in jumps.jumps)
    assert all(bool(torch.isfinite(one).all()) for one in model.state_dict().values())


def test_an_untrained_predictor_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts as copy-last, so that every jump leads where the training already is, bit for bit."""
    save_model(tmp_path / "models" / "predictor", GramPredictor(CONFIG))
    monkeypatch.chdir(tmp_path)
    model, reference = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    jumps = wscore.nowcast(model, optimizer, every=12, horizon=3, start=20, recovery=6, tolerance=100.0)
    train(50, model=model, optimizer=optimizer, jumps=jumps)
    train(50, model=reference, optimizer=torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9))
    assert [jump.step for jump in jumps.jumps] == [20, 32, 44]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))


def test_the_average_is_that_of_the_last_snapshots_and_leaves_the_training_alone() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1], averages=3)
    with jumps.averaged():
        assert jumps.steps == 0  # nothing to average yet
    seen: list[dict[str, Tensor]] = []
    for step in range(1, 29):
        train(1, model=model, optimizer=optimizer, jumps=jumps)
        if step % 4 == 0:  # 12 // 3
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
    before = state(model, optimizer)
    with jumps.averaged():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                assert torch.allclose(value, torch.stack([one[name] for one in seen[-3:]]).mean(0), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(state(model, optimizer), before, strict=True))
    assert [jump.step for jump in jumps.jumps] == [12]  # the one after 24 steps is not judged yet


def test_what_a_jump_that_is_taken_back_left_is_not_averaged() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1] + 10.0)
    train(18, model=model, optimizer=optimizer, jumps=jumps)
    assert [jump.accepted for jump in jumps.jumps] == [False]
    reference = network()
    twin = torch.optim.Adam(reference.parameters(), lr=0.002)
    seen = []
    for _ in range(3):
        train(4, model=reference, optimizer=twin)
        seen.append({name: value.clone() for name, value in reference.named_parameters()})
    with jumps.averaged():
        for name, value in model.named_parameters():
            assert torch.allclose(value, torch.stack([one[name] for one in seen]).mean(0), atol=1e-6)


class Recipe:
    """A training with what its name says, on fixed batches; with the same name always the same bits."""

    def __init__(self, name: str, rule: Callable[[Tensor, int], Tensor] | None = None) -> None:
        self.name, self.model = name, Buffered()
        if name == "frozen":
            self.model.first.weight.requires_grad_(False)
        if name == "bfloat16":
            self.model.to(torch.bfloat16)
        groups = [
            {"params": [one for one in self.model.first.parameters() if one.requires_grad]},
            {"params": list(self.model.last.parameters()), "lr": 0.002, "weight_decay": 0.1},
        ]
        self.optimizer = torch.optim.Adam(groups if name == "groups" else self.model.parameters(), lr=0.01)
        cosine = name == "schedule"
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=60) if cosine else None
        options = {"every": 12, "start": 0, "recovery": 6, "tolerance": 100.0}
        self.jumps = wscore.nowcast(self.model, self.optimizer, predictor=Rule(rule), **options) if rule else None
        self.batches = torch.Generator().manual_seed(1)

    def train(self, steps: int) -> "Recipe":
        """Train and return it."""
        for _ in range(steps):
            x = torch.randn(16, 4, generator=self.batches).to(self.model.scale.dtype)
            loss = (self.model(x) - x[:, :2]).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            if self.name == "clipping":
                nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            if self.jumps is not None:
                self.jumps.step(loss)
        return self

    def state(self) -> list[Tensor]:
        """Return all numbers that training changes."""
        return [*state(self.model, self.optimizer), self.model.count.clone()]


class Buffered(nn.Module):
    """Two layers with running statistics, a buffer that is saved, and one of fractions that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.scale: Tensor
        self.count: Tensor
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.last(torch.tanh(self.norm(self.first(x)))) * self.scale


RECIPES = ("buffers", "schedule", "clipping", "groups", "frozen", "bfloat16")


@pytest.mark.parametrize("name", RECIPES)
def test_jumps_to_where_it_is_leave_a_training_as_it_is(name: str) -> None:
    jumping = Recipe(name, lambda history, _: history[-1])
    jumping.train(30)
    with jumping.jumps.averaged():
        assert all(bool(torch.isfinite(one).all()) for one in jumping.model.state_dict().values())
    jumping.train(10)
    assert [jump.accepted for jump in jumping.jumps.jumps] == [True, True]  # of 12 and 24
    plain = Recipe(name).train(40)
    assert all(torch.equal(a, b) for a, b in zip(jumping.state(), plain.state(), strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_a_jump_that_is_taken_back_leaves_nothing_behind_but_the_schedule(name: str) -> None:
    jumping = Recipe(name, lambda history, _: history[-1] + 1e4).train(18)
    assert [jump.accepted for jump in jumping.jumps.jumps] == [False]
    before, plain = Recipe(name).train(12), Recipe(name).train(18)
    assert all(torch.equal(a, b) for a, b in zip(jumping.state(), before.state(), strict=True))
    rates = [[group["lr"] for group in one.optimizer.param_groups] for one in (jumping, plain, before)]
    assert rates[0] == rates[1]
    assert (rates[1] != rates[2]) == (name == "schedule")


def test_without_an_end_the_weights_after_the_last_jump_are_kept() -> None:
    model, _, jumps = setting(lambda history, _: history[-1] + 10.0)
    train(12, model=model, optimizer=jumps.optimizer, jumps=jumps)
    landed = float(next(model.parameters()).detach().abs().min())
    assert landed > 5
    jumps.finish()
    assert float(next(model.parameters()).detach().abs().min()) < 5


def test_a_loss_that_is_not_finite_while_a_jump_is_judged_takes_it_back() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1])
    train(12, model=model, optimizer=optimizer, jumps=jumps)
    for _ in range(6):
        jumps.step(float("nan"))
    assert [jump.accepted for jump in jumps.jumps] == [False]


def test_an_optimizer_that_was_replaced_is_noticed() -> None:
    model, _, jumps = setting(lambda history, _: history[-1])
    train(12, model=model, optimizer=jumps.optimizer, jumps=jumps)
    other = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(TrainingError, match="step 24: the optimizer makes no steps; give the optimizer that trains"):
        train(12, model=model, optimizer=other, jumps=jumps)


def test_the_optimizer_may_be_wrapped() -> None:
    """As by Hugging Face's `Accelerator`."""
    wrapped = pytest.importorskip("nowcast").Nowcast(cpu=True)
    model = network()
    model, optimizer = wrapped.prepare(model, torch.optim.Adam(model.parameters(), lr=0.002))
    rule = Rule(lambda history, _: history[-1] + 10.0)
    jumps = wscore.nowcast(model, optimizer, every=12, predictor=rule, start=0, recovery=6)
    train(18, model=model, optimizer=optimizer, jumps=jumps)
    reference = network()
    train(12, model=reference, optimizer=torch.optim.Adam(reference.parameters(), lr=0.002))
    assert [jump.accepted for jump in jumps.jumps] == [False]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))


def test_wrong_losses_and_optimizers_are_named() -> None:
    model = network()
    rule = Rule(lambda history, _: history[-1])
    for other in (torch.optim.SGD(network().parameters()), torch.optim.SGD([nn.Parameter(torch.ones(1))])):
        with pytest.raises(ConfigError, match="optimizer: has none of the parameters; expected one that trains"):
            wscore.nowcast(model, other, predictor=rule)
    jumps = wscore.nowcast(model, torch.optim.SGD(model.parameters()), predictor=rule)
    with pytest.raises(TrainingError, match=r"step 1: the loss is not one number; got shape \(3,\); give its mean"):
        jumps.step(torch.ones(3))
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="has none of the parameters"):
        wscore.nowcast(model, torch.optim.SGD(model.parameters()), predictor=rule)


def test_a_jump_waits_while_the_losses_fall_fast() -> None:
    model, optimizer, jumps = setting(lambda history, _: history[-1])
    train(1, model=model, optimizer=optimizer)
    for step in range(1, 49):
        optimizer.step()
        jumps.step(2.0 ** -min(step / 6, 4))  # in 12 steps to 0.4, then, up to step 28, to 0.53 from third to third
    assert [jump.step for jump in jumps.jumps] == [28, 40]


@pytest.mark.parametrize(
    ("losses", "fast"),
    [
        ([4.0, 4.0, 3.0, 3.0, 1.9, 1.9], True),
        ([4.0, 4.0, 3.0, 3.0, 2.1, 2.1], False),
        ([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], False),
        ([-1.0, -1.0, -2.0, -2.0, -3.0, -3.0], False),
        ([1.0, 1.0, 0.0, 0.0, -1.0, -1.0], False),
        ([1.0, 1.0, 1.0, 1.0, 1.0, float("nan")], False),
    ],
)
def test_losses_fall_fast_when_less_than_half_is_left(losses: list[float], fast: bool) -> None:
    assert falls_fast(losses) == fast


def test_the_trend_is_the_least_squares_curve() -> None:
    losses, steps = [3.0, 2.5, 2.6, 1.9, 1.4, 1.5], np.log(np.arange(5, 11) / 10)
    slope, level = np.polyfit(steps, losses, 1)
    trend = fit_trend(losses, 10)
    assert (trend.fall, trend.level) == pytest.approx((-slope, level))
    rest = np.array(losses) - level - slope * steps
    assert trend.error == pytest.approx(np.sqrt((rest**2).sum() / 4))
    promised = level + slope * np.log(14 / 10)
    leverage = (np.log(14 / 10) - steps.mean()) ** 2 / ((steps - steps.mean()) ** 2).sum()
    assert trend.ahead(4.0, 3) == pytest.approx((promised, trend.error * np.sqrt(1 / 6 + leverage + 1 / 3)))
    rising = fit_trend(losses[::-1], 10)
    assert rising.ahead(4.0, 3)[0] == pytest.approx(np.mean(losses))


def test_bad_input_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ModelError, match=r"models/predictor: no weight predictor here.*`dvc repro train_predictor`"):
        wscore.nowcast(model, optimizer)
    gram = GramPredictor(CONFIG)
    for options, message in (
        ({"every": 2}, "every: is out of range; expected 3 or more; got 2"),
        ({"horizon": 0}, r"horizon: is out of range; expected a trained horizon, one of \[1, 2, 3\]; got 0"),
        ({"horizon": 4}, r"horizon: is out of range; expected a trained horizon, one of \[1, 2, 3\]; got 4"),
        ({"horizon": 1, "recovery": 50}, "recovery: is out of range; expected 1 to 39; got 50"),
        ({"horizon": 1, "averages": 0}, "averages: is out of range; expected 1 or more; got 0"),
        ({"horizon": 1, "budget": 2.0}, "budget: is out of range; expected 0 to 1; got 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            wscore.nowcast(model, optimizer, predictor=gram, **options)
    assert wscore.nowcast(model, optimizer, predictor=gram).horizon == 3
    jumps = wscore.nowcast(model, optimizer, every=4, horizon=1, start=0, recovery=1, predictor=gram)
    jumps.step(1.0)
    jumps.step(1.0)
    jumps.step(float("nan"))
    with pytest.raises(TrainingError, match="step 4: the loss is not finite; lower the learning rate"):
        jumps.step(1.0)


def test_vectors_of_a_power_iteration_are_not_averaged() -> None:
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(16, 8))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    still = Rule(lambda history, _: history[-1])
    jumps = wscore.nowcast(layer, optimizer, predictor=still, every=12, horizon=1, snapshots=3, start=10**9, recovery=6)
    for _ in range(40):
        layer(torch.rand(4, 16)).square().mean().backward()
        optimizer.step()
        jumps.step(1.0)
    with jumps.averaged():
        assert all(float(vector.norm()) == pytest.approx(1, abs=1e-5) for vector in layer.buffers())
