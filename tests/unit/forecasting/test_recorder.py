"""Recordings of loops that the package knows nothing about."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wscore
from wscore.errors import DataError, TrainingError
from wscore.forecasting.snapshots import Trajectory
from wscore.io import hash_folder


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def loop(
    model: nn.Module, folder: Path, steps: range, *, every: int = 2, resume: bool = False, fail: int | None = None
) -> list[np.ndarray]:
    """Train on data of each step's own, as a user would; return the weights after every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with wscore.record(model, folder, every=every, optimizer=optimizer, steps_per_epoch=4, resume=resume) as recorder:
        for number in steps:
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number == fail:
                raise KeyboardInterrupt
            recorder.step(train_loss=loss)
            seen.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy())
    return seen


def test_snapshots_are_the_weights_of_every_other_step(tmp_path: Path) -> None:
    model = network()
    first = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy()
    seen = loop(model, tmp_path / "run", range(9))
    run = Trajectory(tmp_path / "run")
    assert np.array_equal(run.weights, np.stack([first, *seen[1::2]]))
    snapshots = run.manifest.snapshots
    assert snapshots.step == (0, 2, 4, 6, 8)
    assert snapshots.epoch == (0, 0.5, 1, 1.5, 2)
    assert snapshots.lr == (0.1,) * 5
    assert snapshots.train_loss[0] is None
    assert all(loss is not None for loss in snapshots.train_loss[1:])
    assert (run.name, run.manifest.optimizer, run.manifest.network) == ("run", "sgd", None)


def test_stopped_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    loop(network(), tmp_path / "whole" / "run", range(10))
    model = network()
    with pytest.raises(KeyboardInterrupt):
        loop(model, tmp_path / "stopped" / "run", range(10), fail=5)
    path = tmp_path / "stopped" / "run" / "weights.npy"
    assert len(Trajectory(path.parent)) == 3  # 0, 2, 4: whole although it was stopped
    path.write_bytes(path.read_bytes() + b"half a row")
    model = network()
    loop_silently(model, range(4))
    loop(model, path.parent, range(4, 10), resume=True)
    assert hash_folder(path.parent) == hash_folder(tmp_path / "whole" / "run")


def loop_silently(model: nn.Module, steps: range) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_wrapped_networks_keep_their_names(tmp_path: Path) -> None:
    wscore.record(nn.DataParallel(network()), tmp_path / "run", every=1)
    assert Trajectory(tmp_path / "run").layout.tensors[0].name == "0.weight"


def test_bad_input_is_named(tmp_path: Path) -> None:
    recorder = wscore.record(network(), tmp_path / "run", every=1)
    with pytest.raises(DataError, match=r"run: holds a recording already.*resume=True"):
        wscore.record(network(), tmp_path / "run", every=1)
    with pytest.raises(DataError, match="run: is a recording of another network"):
        wscore.record(nn.Linear(2, 2), tmp_path / "run", every=1, resume=True)
    with pytest.raises(DataError, match="every: is too small; expected 1 or more; got 0"):
        wscore.record(network(), tmp_path / "other", every=0)
    with torch.no_grad():
        recorder.network[0].weight[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"run, step 1: weights are not finite"):
        recorder.step()
    assert len(Trajectory(tmp_path / "run")) == 1
