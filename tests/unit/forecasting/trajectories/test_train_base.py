"""Recording of base trainings, on a small perceptron and a few real digits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from wscore.errors import ConfigError, TrainingError
from wscore.forecasting.trajectories import train_base as base
from wscore.forecasting.trajectories.optimizers import OptimizerSpec, make_optimizer
from wscore.forecasting.trajectories.store import Trajectory, open_trajectories
from wscore.forecasting.trajectories.train_base import (
    BaseConfig,
    FurtherDataset,
    epoch_batches,
    moved,
    record_runs,
    recording_report,
    recording_summary_line,
    snapshot_steps,
)
from wscore.io import hash_folder
from wscore.networks.images import Images, load_images
from wscore.networks.lenet import NETWORKS, accuracy_and_loss, build_network

CONFIG = BaseConfig(
    source="train", path=None, pattern=None, network="mlp", dataset="digits", root=None, revision=None,
    further_datasets=(), size=8, max_train=100, max_test=50, optimizers=(OptimizerSpec(name="momentum", lr=0.05),),
    schedule="constant", weight_decay=1e-4, batch_size=16, epochs=4, snapshots_per_epoch=2,
    snapshot_steps=None, seeds=(0, 5), shift=0, probe_images=40, normalize=None,
)  # fmt: skip


def configured(**changes: object) -> BaseConfig:
    return msgspec.structs.replace(CONFIG, **changes)


def using(*pairs: tuple[str, float]) -> tuple[OptimizerSpec, ...]:
    return tuple(OptimizerSpec(name=name, lr=lr) for name, lr in pairs)


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images(CONFIG.images)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_trajectory_per_seed_that_says_what_it_is(images: Images) -> None:
    manifests = record_runs(CONFIG, images, Path("out"))
    runs = open_trajectories(Path("out"))
    assert [run.name for run in runs] == ["seed-0", "seed-5"] == [manifest.run for manifest in manifests]
    assert [manifest.layout.size for manifest in manifests] == [runs[0].weights.shape[1]] * 2
    snapshots = runs[0].manifest.snapshots
    assert snapshots.step == (0, 4, 7, 10, 14, 18, 21, 24, 28)  # 7 steps an epoch
    assert snapshots.epoch[2::2] == (1.0, 2.0, 3.0, 4.0)
    assert snapshots.train_loss[-1] < snapshots.train_loss[0]
    assert not Path(".cache/base").exists() or not list(Path(".cache/base").iterdir())
    assert not np.array_equal(runs[0].weights[0], runs[1].weights[0])


def test_scores_are_those_of_the_weights_beside_them(images: Images) -> None:
    record_runs(configured(seeds=(3,)), images, Path("out"))
    run = open_trajectories(Path("out"))[0]
    vectors, snapshots = torch.from_numpy(np.array(run.weights)), run.manifest.snapshots
    train = accuracy_and_loss(run.manifest.network, vectors, images.x_train[:40], images.y_train[:40])
    test = accuracy_and_loss(run.manifest.network, vectors, images.x_test[:40], images.y_test[:40])
    whole = accuracy_and_loss(run.manifest.network, vectors[-1:], images.x_test, images.y_test)
    assert np.allclose(snapshots.train_loss, train.loss, atol=1e-5)
    assert np.allclose(snapshots.test_accuracy[:-1], test.accuracy[:-1])
    assert snapshots.test_accuracy[-1] == pytest.approx(whole.accuracy[0].item())  # the last one on all test images


def test_the_snapshots_are_those_of_a_plain_training_loop(images: Images) -> None:
    config = configured(seeds=(2,), epochs=1, optimizers=using(("adamw", 0.05)))
    record_runs(config, images, Path("out"))
    run = open_trajectories(Path("out"))[0]
    network = build_network(run.manifest.network, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=1e-4)
    assert np.array_equal(run.weights[0], run.layout.flatten(network.state_dict()))
    for chosen in epoch_batches(100, 16, seed=2, epoch=0):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images.x_train[chosen]), images.y_train[chosen]).backward()
        optimizer.step()
    assert np.array_equal(run.weights[-1], run.layout.flatten(network.state_dict()))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(optimizer: str, images: Images, monkeypatch) -> None:
    config = configured(optimizers=using((optimizer, 0.01)), schedule="cosine")
    record_runs(config, images, Path("whole"))
    epoch, calls = base._Recording._epoch, []

    def stopped(self, number: int) -> None:
        calls.append(number)
        if len(calls) == 7:  # third epoch of the second run
            raise KeyboardInterrupt
        epoch(self, number)

    monkeypatch.setattr(base._Recording, "_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        record_runs(config, images, Path("resumed"))
    assert not Path("resumed").exists()
    record_runs(config, images, Path("resumed"))
    assert calls[6:] == [2, 2, 3]  # nothing but the missing epochs
    assert hash_folder(Path("whole")) == hash_folder(Path("resumed"))


def test_recordings_of_other_seeds_at_the_same_time_do_not_touch_each_other(images: Images, monkeypatch) -> None:
    record_runs(configured(seeds=(1,)), images, Path("alone"))
    epoch, calls = base._Recording._epoch, []

    def interrupted(self, number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            record_runs(configured(seeds=(2,)), images, Path("other"))
        epoch(self, number)

    monkeypatch.setattr(base._Recording, "_epoch", interrupted)
    record_runs(configured(seeds=(1,)), images, Path("beside"))
    assert hash_folder(Path("alone")) == hash_folder(Path("beside"))
    assert not list(Path(".cache/base").iterdir())


@pytest.mark.slow
def test_killed_in_two_processes_and_resumed_is_bit_for_bit_the_same(images: Images, tmp_path: Path) -> None:
    config = configured(epochs=80, snapshots_per_epoch=1)
    (tmp_path / "killed.py").write_text(
        "import sys; from pathlib import Path; import msgspec\n"
        "from wscore.forecasting.trajectories.train_base import BaseConfig, record_runs\n"
        "from wscore.networks.images import load_images\n"
        "if __name__ == '__main__':\n"
        "    config = msgspec.json.decode(sys.argv[1], type=BaseConfig)\n"
        "    record_runs(config, load_images(config.images), Path('killed'))\n",
        encoding="utf-8",
    )
    root = Path(__file__).parents[4]
    process = subprocess.Popen(
        [sys.executable, "killed.py", msgspec.json.encode(config).decode()],
        env={**os.environ, "PYTHONPATH": str(root), "WSCORE_WORKERS": "2"}, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: any(Path(".cache/base").glob("*/*-seed-*/progress.json")))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not Path("killed").exists()
    record_runs(config, images, Path("killed"))
    record_runs(config, images, Path("whole"))
    assert hash_folder(Path("whole")) == hash_folder(Path("killed"))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_batches_cover_every_image_once_in_an_order_of_seed_and_epoch() -> None:
    orders = [torch.cat(list(epoch_batches(50, 8, seed, epoch))) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[3])
    for order in orders:
        assert sorted(order.tolist()) == list(range(50))


def test_momentum_is_not_plain_descent() -> None:
    network = torch.nn.Linear(2, 2)
    groups = {one.name: make_optimizer(one, network.parameters()) for one in using(("sgd", 0.1), ("momentum", 0.1))}
    assert {name: optimizer.param_groups[0]["momentum"] for name, optimizer in groups.items()} == {
        "sgd": 0,
        "momentum": 0.9,
    }


def test_figures_and_headline(images: Images) -> None:
    manifests = record_runs(configured(epochs=2), images, Path("out"))
    found = recording_report(manifests)
    ends = [run.manifest.snapshots.test_accuracy[-1] for run in open_trajectories(Path("out"))]
    assert found["test_accuracy"] == pytest.approx(np.mean(ends))
    assert found["test_accuracy_worst"] == min(ends)
    assert (found["runs"], found["snapshots"], found["steps"]) == (2, 5, 14)
    assert recording_summary_line(manifests).startswith(
        "2 runs of mlp (3,466 weights), 5 snapshots each, test accuracy 0."
    )


def test_bad_input_is_named(images: Images) -> None:
    with pytest.raises(ConfigError, match=r"base\.snapshots_per_epoch.*at most 7, the steps of an epoch; got 8"):
        record_runs(configured(snapshots_per_epoch=8), images, Path("out"))
    with pytest.raises(ConfigError, match=r"base\.size.*28 or 32; got 8"):
        record_runs(configured(network="lenet5"), images, Path("out"))
    with pytest.raises(ConfigError, match=r"base\.size: images are not square; got 8 x 6"):
        record_runs(CONFIG, images._replace(x_train=images.x_train[..., :6]), Path("out"))
    with pytest.raises(TrainingError, match=r"momentum, seed 0, step \d+: the loss is not finite.*base\.optimizers"):
        record_runs(configured(optimizers=using(("momentum", 90.0)), weight_decay=50.0, epochs=30), images, Path("out"))
    with pytest.raises(ConfigError, match=r"base\.snapshot_steps.*at most 28, the steps of the training; got 29"):
        record_runs(configured(snapshot_steps=29), images, Path("out"))
    assert not Path("out").exists()
    with pytest.raises(msgspec.ValidationError, match="Seeds must differ"):
        msgspec.convert({**msgspec.to_builtins(CONFIG), "seeds": [1, 1]}, BaseConfig)
    twice = [{"name": "sgd", "lr": 0.1}] * 2
    with pytest.raises(msgspec.ValidationError, match="Optimizers must differ"):
        msgspec.convert({**msgspec.to_builtins(CONFIG), "optimizers": twice}, BaseConfig)


def test_snapshots_are_a_whole_epoch_apart_at_the_stride_of_an_epoch() -> None:
    steps = snapshot_steps(configured(batch_size=10, snapshots_per_epoch=3), 100)
    assert steps[::3] == [0, 10, 20, 30, 40]
    assert steps[:4] == [0, 3, 7, 10]


def test_snapshots_every_so_many_steps() -> None:
    assert snapshot_steps(configured(batch_size=10, snapshot_steps=12), 100) == [0, 12, 24, 36]


def test_optimizers_side_by_side_start_alike_and_are_named(images: Images) -> None:
    config = configured(optimizers=using(("sgd", 0.1), ("adam", 0.001), ("sgd", 0.05)), epochs=1, seeds=(0, 1))
    record_runs(config, images, Path("out"))
    runs = {run.name: run for run in open_trajectories(Path("out"))}
    assert sorted(runs) == sorted(f"{name}-seed-{seed}" for name in ("sgd-0.1", "adam", "sgd-0.05") for seed in (0, 1))
    assert runs["adam-seed-0"].manifest.optimizer == "adam"
    assert runs["sgd-0.05-seed-0"].manifest.snapshots.lr == (0.05,) * 3
    assert np.array_equal(runs["sgd-0.1-seed-1"].weights[0], runs["adam-seed-1"].weights[0])
    assert not np.array_equal(runs["sgd-0.1-seed-1"].weights[1], runs["adam-seed-1"].weights[1])
    record_runs(configured(optimizers=using(("adam", 0.001)), epochs=1, seeds=(1,)), images, Path("alone"))
    assert np.array_equal(open_trajectories(Path("alone"))[0].weights, runs["adam-seed-1"].weights)


def test_the_rate_follows_the_schedule(images: Images) -> None:
    record_runs(configured(schedule="linear", snapshots_per_epoch=7, seeds=(0,)), images, Path("out"))
    rates = open_trajectories(Path("out"))[0].manifest.snapshots.lr
    falling = [0.05 * (1 - n / 28) for n in range(28)]
    assert rates == pytest.approx((falling[0], *falling))


def test_images_are_moved_each_by_its_own_pixels() -> None:
    x = torch.arange(1.0, 33).reshape(2, 1, 4, 4)
    found = moved(x, torch.tensor([[1, 0], [0, -2]]))
    assert torch.equal(found[0, 0, 1:], x[0, 0, :3])
    assert torch.equal(found[1, 0, :, :2], x[1, 0, :, 2:])
    assert not found[0, 0, 0].any()
    assert not found[1, 0, :, 2:].any()
    assert torch.equal(moved(x, torch.zeros(2, 2, dtype=torch.long)), x)


def test_moved_images_change_the_training_and_the_seed_still_decides_it(images: Images) -> None:
    for name, shift in (("still", 0), ("moved", 2), ("again", 2)):
        record_runs(configured(shift=shift, epochs=1), images, Path(name))
    hashes = [hash_folder(Path(name)) for name in ("still", "moved", "again")]
    assert hashes[1] == hashes[2] != hashes[0]


@pytest.mark.parametrize("network", sorted(set(NETWORKS) - {"lenet5"}))
def test_every_network_is_recorded_and_learns(network: str, images: Images) -> None:
    config = configured(network=network, seeds=(0,), optimizers=using(("adam", 0.005)), epochs=12)
    record_runs(config, images, Path("out"))
    snapshots = open_trajectories(Path("out"))[0].manifest.snapshots
    assert snapshots.train_loss[-1] < 0.8 * snapshots.train_loss[0]


def test_a_network_of_your_own(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_networks.py").write_text(
        "from torch import nn\n"
        "def line(spec):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(spec.channels * spec.size**2, spec.classes))\n"
        "def nothing(spec):\n"
        "    return spec\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    record_runs(configured(network="own_networks:line", seeds=(0,), epochs=1), images, Path("out"))
    assert open_trajectories(Path("out"))[0].layout.size == 650
    for wrong in ("own_networks:absent", "absent:line"):
        with pytest.raises(ConfigError, match=r"base\.network: cannot be imported; got"):
            record_runs(configured(network=wrong), images, Path("out"))
    with pytest.raises(ConfigError, match=r"base\.network: own_networks:nothing: returns no network"):
        record_runs(configured(network="own_networks:nothing"), images, Path("out"))


def test_further_data_sets_are_recorded_by_the_same_runs(images: Images) -> None:
    """A run does not depend on what is recorded beside it."""
    others = images._replace(name="own/inverse", x_train=1 - images.x_train, x_test=1 - images.x_test)
    config = configured(epochs=1, seeds=(0,), further_datasets=(FurtherDataset(dataset="own/inverse"),))
    manifests = record_runs(config, images, Path("out"), [others])
    assert [(one.run, one.dataset) for one in manifests] == [
        ("seed-0", "digits"),
        ("own-inverse-seed-0", "own/inverse"),
    ]
    first, second = open_trajectories(Path("out"))
    assert (first.manifest, second.manifest) in [tuple(manifests), tuple(manifests[::-1])]
    record_runs(configured(epochs=1, seeds=(0,)), images, Path("alone"))
    record_runs(configured(epochs=1, seeds=(0,), dataset="own/inverse"), others, Path("others"))
    for pair in (("out/seed-0", "alone/seed-0"), ("out/own-inverse-seed-0", "others/seed-0")):
        weights = [Trajectory(Path(folder)).weights for folder in pair]
        assert np.array_equal(*weights)
    assert not list(Path(".cache/base").iterdir())


def test_further_data_sets_that_do_not_fit_are_named(images: Images) -> None:
    config = configured(further_datasets=(FurtherDataset(dataset="coloured"),))
    coloured = images._replace(
        name="coloured", x_train=images.x_train.expand(-1, 3, 8, 8), x_test=images.x_test.expand(-1, 3, 8, 8)
    )
    message = (
        "base.further_datasets: coloured: results in a different network; expected 1 x 8 x 8, 10 classes; got 3 x 8 x 8"
    )
    with pytest.raises(ConfigError, match=message):
        record_runs(config, images, Path("out"), [coloured])
    plain = msgspec.to_builtins(CONFIG)
    with pytest.raises(msgspec.ValidationError, match=r"Data sets must differ in name.*further_datasets"):
        msgspec.convert({**plain, "further_datasets": [{"dataset": "digits"}]}, BaseConfig)
