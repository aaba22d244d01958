"""The training loop learns, repeats itself bit for bit, stops, restores, accumulates and refuses."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from wscore.errors import ConfigError, TrainingError
from wscore.tracking import NullTracker
from wscore.training.callbacks import Callback, PostStep, Progress, TensorBoard, TrackerLogger
from wscore.training.loop import FitConfig, TensorBatches, fit
from wscore.training.state import TrainingState

CONFIG = FitConfig(
    epochs=4, lr=0.01, weight_decay=0.0, schedule="cosine", warmup=0.0, clip_norm=1.0, accumulate=1, patience=100,
    precision="no", seed=0,
)  # fmt: skip


def config(**changes: Any) -> FitConfig:
    return msgspec.structs.replace(CONFIG, **changes)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 3))


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    difference = model(batch[0]) - batch[1]
    return {"loss": difference.square().mean(), "mae": difference.abs().mean()}


def data(items: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(items, 6, generator=generator), torch.randn(items, 3, generator=generator)


def batches(items: int = 8, size: int = 3, *, seed: int = 1, shuffle: bool = True) -> TensorBatches:
    return TensorBatches(*data(items, seed), batch_size=size, seed=0, shuffle=shuffle)


def train(model: nn.Module, **options: Any):
    options = {
        "train": batches(),
        "validation": batches(shuffle=False),
        "loss": squared_error,
        "config": CONFIG,
        **options,
    }
    return fit(model, **options)


def bits(model: nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


class Spy(Callback):
    """Writes down what it sees."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.events: list[str] = []
        self.weights: list[list[bytes]] = []

    def on_start(self, state: TrainingState) -> None:  # noqa: ARG002
        self.events.append("start")

    def on_step(self, state: TrainingState) -> None:
        self.rates.append(state.optimizer.param_groups[0]["lr"])

    def on_epoch(self, state: TrainingState) -> None:
        self.events.append(f"epoch {state.epoch}")
        self.weights.append(bits(state.model))

    def on_end(self, state: TrainingState) -> None:  # noqa: ARG002
        self.events.append("end")


def test_overfits_eight_samples() -> None:
    model = network()
    history = train(model, config=config(epochs=80, lr=0.02))
    assert history.best["validation_loss"] < 1e-6 < 1e-2 < history.rows[0]["validation_loss"]
    assert squared_error(model, data())["loss"] < 1e-6


@pytest.mark.parametrize("accumulate", [1, 2])
def test_same_seed_same_bits_whatever_the_caller_draws(accumulate: int) -> None:
    first, second, other = network(0.2), network(0.2), network(0.2)
    rows = train(first, config=config(accumulate=accumulate)).rows
    torch.manual_seed(12345)
    assert train(second, config=config(accumulate=accumulate)).rows == rows
    assert bits(first) == bits(second)
    train(other, config=config(accumulate=accumulate, seed=1))
    assert bits(other) != bits(first)


def test_leaves_the_random_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    model = network()
    torch.manual_seed(3)
    train(model)
    assert torch.equal(torch.rand(4), expected)


def test_trains_in_train_mode_and_validates_in_eval_mode_without_gradients() -> None:
    seen: list[tuple[bool, bool]] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        seen.append((model.training, torch.is_grad_enabled()))
        return squared_error(model, batch)

    model = network()
    train(model, loss=loss, config=config(epochs=2))
    assert seen == [(True, True)] * 3 + [(False, False)] * 3 + [(True, True)] * 3 + [(False, False)] * 3
    assert not model.training


def test_validation_noise_is_the_same_in_every_epoch() -> None:
    drawn: list[float] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        if not model.training:
            drawn.append(torch.rand(()).item())
        return squared_error(model, batch)

    train(network(), loss=loss, config=config(epochs=2))
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


def test_early_stopping_stops_and_restores_the_best() -> None:
    validation = iter([5.0, 3.0, 4.0, 3.0, 3.5, 1.0])

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return squared_error(model, batch) if model.training else {"loss": torch.tensor(next(validation))}

    spy, model = Spy(), network()
    history = train(model, loss=loss, validation=batches(size=8), config=config(epochs=50, patience=3), callbacks=[spy])
    assert [row["validation_loss"] for row in history.rows] == [5.0, 3.0, 4.0, 3.0, 3.5]
    assert history.best_epoch == 2
    assert bits(model) == spy.weights[1] != spy.weights[-1]
    assert spy.events == ["start", *(f"epoch {number}" for number in range(1, 6)), "end"]


def test_monitors_another_scalar_or_the_training_loss() -> None:
    assert train(network(), monitor="mae").monitor == "validation_mae"
    history = train(network(), validation=None)
    assert history.monitor == "train_loss"
    assert list(history.columns()) == ["epoch", "step", "lr", "train_loss", "train_mae"]


def test_learning_rate_at_hand_computed_steps() -> None:
    spy = Spy()
    train(
        network(), train=batches(8, 2), config=config(epochs=2, lr=0.8, warmup=0.25, schedule="linear"), callbacks=[spy]
    )
    assert spy.rates == pytest.approx([0.4, 0.8, 0.8, 0.8 * 5 / 6, 0.8 * 4 / 6, 0.8 * 3 / 6, 0.8 * 2 / 6, 0.8 * 1 / 6])


def test_two_half_batches_equal_one_batch() -> None:
    """Also when the last group is one batch and the last batch is short: 14 items are 4 + 4, 4 + 2."""
    halves, whole = network(), network()
    options = {"validation": None, "config": config(accumulate=2, epochs=3)}
    first = train(halves, **options | {"train": batches(14, 4)})
    second = train(whole, **options | {"train": batches(14, 8), "config": config(epochs=3)})
    assert first.rows[-1]["step"] == second.rows[-1]["step"] == 6
    for a, b in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert first.columns()["train_loss"] == pytest.approx(second.columns()["train_loss"], rel=1e-5)


def test_figures_are_means_over_items_not_over_batches() -> None:
    model = network()
    history = train(model, validation=batches(7, 3, shuffle=False), config=config(epochs=1))
    assert history.rows[0]["validation_mae"] == pytest.approx(squared_error(model, data(7))["mae"].item(), rel=1e-6)


def test_gradients_are_clipped_together() -> None:
    norms: list[float] = []

    class Norm(Callback):
        def on_step(self, state: TrainingState) -> None:
            gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
            norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    train(network(), config=config(clip_norm=0.01), callbacks=[Norm()])
    assert max(norms) == pytest.approx(0.01, rel=1e-4)
    norms.clear()
    train(network(), config=config(clip_norm=None), callbacks=[Norm()])
    assert max(norms) > 0.1


@pytest.mark.parametrize(("bad", "where"), [(5, "epoch 2, training batch 2"), (None, "epoch 1, validation batch 1")])
def test_non_finite_loss_names_epoch_and_batch_and_says_what_to_do(bad: int | None, where: str) -> None:
    calls = 0

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        calls += model.training
        poison = calls == bad if model.training else bad is None
        return {"loss": squared_error(model, batch)["loss"] * (math.nan if poison else 1.0)}

    spy = Spy()
    with pytest.raises(TrainingError, match=f"^{where}: the loss is not finite; got nan; lower the learning rate"):
        train(network(), loss=loss, callbacks=[spy])
    assert spy.events[-1] == "end"


def test_non_finite_loss_is_found_in_the_middle_of_a_long_epoch() -> None:
    x, y = data(200)
    x[150] = math.inf
    sequence = TensorBatches(x, y, batch_size=1, shuffle=False)
    with pytest.raises(TrainingError, match="epoch 1, training batch 151"):
        train(network(), train=sequence, config=config(epochs=1))


def test_nothing_to_train_on_or_to_validate_with_is_refused() -> None:
    class Empty:
        def epoch(self, number: int) -> Iterator[Any]:  # noqa: ARG002
            return iter(())

        def __len__(self) -> int:
            return 0

    with pytest.raises(TrainingError, match="nothing to train on"):
        train(network(), train=Empty())
    with pytest.raises(TrainingError, match="epoch 1, validation: there is no batch"):
        train(network(), validation=Empty())


def test_parameter_groups_have_their_own_rates_and_others_stay() -> None:
    model = network()
    first, last = model[0], model[3]
    before = bits(first), last.weight.detach().clone()
    spy = Spy()
    train(
        model,
        config=config(epochs=2, schedule="constant"),
        groups=lambda m: [{"params": m[3].parameters(), "lr_factor": 0.1}],
        callbacks=[spy],
    )
    assert bits(first) == before[0]
    assert not torch.equal(last.weight, before[1])
    assert set(spy.rates) == {0.01 * 0.1}


def test_post_step_changes_the_model_after_every_step() -> None:
    def normalise(model: nn.Module) -> None:
        with torch.no_grad():
            model[0].weight /= model[0].weight.norm(dim=1, keepdim=True)

    model = network()
    train(model, callbacks=[PostStep(normalise)])
    torch.testing.assert_close(model[0].weight.norm(dim=1), torch.ones(32))


def test_tracker_gets_one_row_per_epoch() -> None:
    logged: list[tuple[dict[str, float], int | None]] = []

    class Recorder(NullTracker):
        def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
            logged.append((dict(metrics), step))

    history = train(network(), callbacks=[TrackerLogger(Recorder())])
    assert [step for _, step in logged] == [1, 2, 3, 4, None]
    assert logged[1][0] == {name: value for name, value in history.rows[1].items() if name not in ("epoch", "step")}
    assert logged[-1][0] == {"best_epoch": history.best_epoch}


def test_tensorboard_shows_the_last_training_of_a_folder(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(network(), callbacks=[TensorBoard(tmp_path)])
    history = train(network(), callbacks=[TensorBoard(tmp_path)], config=config(epochs=2))
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("validation/loss")
    assert [event.step for event in events] == [1, 2]
    assert [event.value for event in events] == pytest.approx(history.columns()["validation_loss"])


def test_progress_of_a_short_training_is_silent_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    train(network(), callbacks=[Progress("test")])
    assert capfd.readouterr() == ("", "")


def test_bf16_trains_and_parameters_stay_float32() -> None:
    model = network()
    history = train(model, config=config(precision="bf16", epochs=40))
    assert history.best["validation_loss"] < 0.5 * history.rows[0]["validation_loss"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = network()
    train(exact, config=config(epochs=40))
    assert bits(exact) != bits(model)


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="needs a machine without a GPU"
)
@pytest.mark.parametrize(("changes", "message"), [
    ({"device": "cuda"}, "device: is not on this machine; got cuda; set it to auto in machine.yaml or WSCORE_DEVICE"),
    ({"precision": "fp16"}, "precision: needs a GPU; expected no or bf16 on the CPU; got fp16"),
    ({"precision": "fp16", "device": "auto"}, "precision: needs a GPU"),
])  # fmt: skip
def test_missing_device_or_precision_is_refused(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCORE_DEVICE", changes.pop("device", "cpu"))
    with pytest.raises(ConfigError, match=message):
        train(network(), config=config(**changes))


def test_history_as_csv(tmp_path) -> None:
    history = train(network())
    history.to_csv(tmp_path / "history.csv")
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,lr,train_loss,train_mae,validation_loss,validation_mae"
    assert len(lines) == 5
    assert lines[-1].startswith("4,12,")


def test_fit_config_takes_its_fields_from_a_larger_section() -> None:
    from wscore.config import Section

    class Predictor(Section):
        learning_rate: float
        predictor_epochs: int
        weight_decay: float
        model_dim: int
        seed: int

    section = Predictor(learning_rate=0.1, predictor_epochs=3, weight_decay=0.0, model_dim=8, seed=5)
    rest = {"schedule": "cosine", "warmup": 0.0, "clip_norm": None, "accumulate": 1, "patience": 3, "precision": "no"}
    made = FitConfig.of(section, lr=section.learning_rate, epochs=section.predictor_epochs, **rest)
    assert (made.lr, made.epochs, made.seed) == (0.1, 3, 5)
    with pytest.raises(ConfigError, match=r"Predictor\.epochs: is missing"):
        FitConfig.of(section, lr=0.1, **rest)


def test_as_many_batches_as_lie_between_two_looks_at_the_loss() -> None:
    history = fit(network(), train=batches(32, 1), validation=None, loss=squared_error, config=config(epochs=1))
    assert math.isfinite(history.best["train_loss"])
