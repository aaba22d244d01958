"""Ceilings of forecasts, on a small perceptron and a few real digits, where the answer is known."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.forecast_ceiling import Plan, Training, ceiling_of, coming, continued, lost_of, measure, plan_of
from wscore.errors import DataError
from wscore.forecasting.sequences import test_windows as windows_of
from wscore.forecasting.trajectories.optimizers import OptimizerSpec
from wscore.forecasting.trajectories.store import Trajectory, open_trajectories
from wscore.forecasting.trajectories.train_base import BaseConfig, epoch_batches, record_runs
from wscore.networks.images import Images, load_images

CONFIG = BaseConfig(
    further_datasets=(),
    source="train", path=None, pattern=None, network="mlp", dataset="digits", root=None, revision=None, size=8,
    max_train=96, max_test=50, optimizers=(OptimizerSpec(name="adam", lr=0.003),), schedule="constant",
    weight_decay=0.0, batch_size=16, epochs=8, snapshots_per_epoch=1, snapshot_steps=4, seeds=(3,),
    shift=1, probe_images=10, normalize=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images(CONFIG.images)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recorded(images: Images, **changes: object) -> tuple[BaseConfig, Trajectory]:
    config = msgspec.structs.replace(CONFIG, **changes)
    record_runs(config, images, Path("runs"))
    return config, open_trajectories(Path("runs"))[0]


def plan_for(run: Trajectory, count: int, strides: tuple[int, ...] = (1, 3)) -> Plan:
    windows = {
        stride: windows_of(1, len(run), length=2, horizons=(1, 2), stride=stride, furthest=2) for stride in strides
    }
    return plan_of(windows, (1, 2), count)


def test_replay_repeats_the_run_with_state_of_the_optimiser_and_moves(images: Images) -> None:
    config, run = recorded(images)
    training = Training(config, run, images)
    for number in (3, 7, 12):  # of 12 snapshots, two of them within an epoch
        training.replay(run.manifest.snapshots.step[number])
        np.testing.assert_array_equal(training.vector, run.weights[number])


def test_the_rest_of_an_epoch_is_known_but_for_its_order() -> None:
    batches = coming(10, 4, 3, 4, np.random.default_rng(0))  # 4 images of the second epoch of three batches are left
    first = list(epoch_batches(10, 4, 3, 1))
    found = [next(batches) for _ in range(5)]
    assert [len(batch) for batch in found] == [4, 2, 4, 4, 2]
    assert sorted(torch.cat(found[:2]).tolist()) == sorted(torch.cat(first[1:]).tolist())
    assert sorted(torch.cat(found[2:]).tolist()) == list(range(10))


def test_whole_batches_without_moves_leave_nothing_to_chance(images: Images) -> None:
    sgd = (OptimizerSpec(name="sgd", lr=0.1),)
    config, run = recorded(images, batch_size=96, epochs=12, shift=0, snapshot_steps=1, optimizers=sgd)
    plan = plan_for(run, 1)
    found = measure(config, run, images, plan, 3, Path("kept"))
    ceiling = ceiling_of([lost_of(run, plan, found, 1, 2)])
    assert ceiling.skill == pytest.approx(1, abs=1e-6)
    assert ceiling.itself == pytest.approx(1, abs=1e-6)


def test_the_run_is_like_its_continuations(images: Images) -> None:
    config, run = recorded(images, epochs=30, snapshot_steps=6)
    plan = plan_for(run, 12, strides=(1,))
    found = measure(config, run, images, plan, 4, Path("kept"))
    ceiling = ceiling_of([lost_of(run, plan, found, 1, 2)])
    assert 0.05 < ceiling.skill < 0.95
    assert (1 - ceiling.itself) / (1 - ceiling.skill) == pytest.approx(1, abs=0.35)


def test_variance_and_energy_are_those_of_the_continuations(images: Images) -> None:
    config, run = recorded(images)
    training = Training(config, run, images)
    training.replay(run.manifest.snapshots.step[4])
    found = continued(training, run, 4, [1, 2], 3)
    own = run.weights[6] - run.weights[4].astype(np.float64)
    draws = []
    for number in range(3):
        again = Training(config, run, images)
        again.replay(run.manifest.snapshots.step[4])
        draws.append(again.go_on([8], np.random.default_rng([3, 4, 2, number]))[0] - run.weights[4].astype(np.float64))
    every = np.stack([*draws, own])
    assert found.energy[1] == pytest.approx((every**2).sum(1).mean())
    assert found.variance[1] == pytest.approx(((every - every.mean(0)) ** 2).sum() / 3)
    assert found.surprise[1] == pytest.approx(((own - np.mean(draws, 0)) ** 2).sum() / (4 / 3))


def test_starts_are_shared_by_the_strides_that_have_a_window_there(images: Images) -> None:
    _, run = recorded(images)
    plan = plan_for(run, 4)
    assert len(run) == 13
    assert plan.starts == [2, 4, 7, 9]  # windows of stride 1 end at 1 to 10, of stride 3 at 3 to 6
    assert plan.used(3) == [4]
    assert [plan.lags(start) for start in plan.starts] == [[1, 2], [1, 2, 3, 6], [1, 2], [1, 2]]


def test_an_interrupted_measurement_goes_on(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = recorded(images)
    plan = plan_for(run, 3)
    whole = measure(config, run, images, plan, 2, Path("kept"))
    shutil.copytree("kept", "half")
    lost = Path(f"half/{run.name}-{plan.starts[-1]}-2.json")
    lost.unlink()
    assert measure(config, run, images, plan, 2, Path("half")) == whole
    monkeypatch.setattr(Training, "replay", None)  # all is known: nothing is trained
    assert measure(config, run, images, plan, 2, Path("half")) == whole


def test_refuses_a_run_that_the_training_does_not_repeat(images: Images) -> None:
    config, run = recorded(images)
    other = msgspec.structs.replace(config, batch_size=15)
    with pytest.raises(DataError, match="is not reproduced by the same training"):
        measure(other, run, images, plan_for(run, 2), 2, Path("kept"))
