"""Recordings of loops that the package knows nothing about."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wscore
from wscore.errors import DataError, TrainingError, WscoreWarning
from wscore.forecasting.trajectories.store import Trajectory
from wscore.io import hash_folder


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def loop(
    model: nn.Module,
    folder: Path,
    steps: range,
    *,
    every: int = 2,
    resume: bool = False,
    fail: int | None = None,
    at: int | None = None,
) -> list[np.ndarray]:
    """Train on data of each step's own, as a user would; return the weights after every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    recorder = wscore.record(model, folder, every=every, optimizer=optimizer, steps_per_epoch=4, resume=resume, at=at)
    with recorder:
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
    with pytest.raises(DataError, match=r"run: already holds a recording.*resume=True"):
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


def test_a_recording_goes_on_from_a_checkpoint_before_its_last_snapshot(tmp_path: Path) -> None:
    loop(network(), tmp_path / "whole" / "run", range(10))
    folder = tmp_path / "stopped" / "run"
    loop(network(), folder, range(9))
    model = network()
    loop_silently(model, range(5))  # the checkpoint is of step 5, the last snapshot of step 8
    loop(model, folder, range(5, 10), resume=True, at=5)
    assert hash_folder(folder) == hash_folder(tmp_path / "whole" / "run")


@pytest.mark.parametrize("stage", ["rows", "header"])
def test_killed_between_weights_and_manifest(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written without its manifest does not count, and is written again."""
    loop(network(), tmp_path / "whole" / "run", range(10))
    folder, model = tmp_path / "stopped" / "run", network()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    recorder = wscore.record(model, folder, every=2, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    recorder.step()
    monkeypatch.setattr(recorder._file, "_write_header", killed) if stage == "rows" else None
    monkeypatch.setattr(recorder, "_write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        recorder.step()
    assert len(Trajectory(folder)) == 1
    loop(model, folder, range(10), resume=True)
    assert np.array_equal(Trajectory(folder).weights, Trajectory(tmp_path / "whole" / "run").weights)


def test_a_recording_that_is_not_gone_on_with_rightly_is_refused_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = network()
    loop(model, folder, range(9))
    before = hash_folder(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for message, changes in {
        r"run, every: differs from the recording; expected 2; got 3": {"every": 3},
        r"run, optimizer: differs from the recording; expected sgd; got adam": {
            "optimizer": torch.optim.Adam(model.parameters())
        },
        r"run, at: is beyond the recording; expected 0 to 9; got 10": {"at": 10},
        r"run: the weights are not those of step 4; load the weights": {"at": 4},
    }.items():
        with pytest.raises(DataError, match=message):
            wscore.record(model, folder, **{"every": 2, "optimizer": optimizer, "resume": True, **changes})
    with pytest.raises(DataError, match="run: the weights are not those of step 8"):
        wscore.record(network(), folder, every=2, optimizer=optimizer, resume=True)
    assert hash_folder(folder) == before
    with pytest.raises(DataError, match="other: holds no recording to resume; got at=3"):
        wscore.record(model, tmp_path / "other", every=2, resume=True, at=3)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights.npy").write_bytes(b"of another program")
    with pytest.raises(DataError, match=r"weights\.npy: does not belong to a recording; choose another folder"):
        wscore.record(network(), tmp_path / "run", every=1)
    with pytest.raises(DataError, match=r"weights\.npy: is no folder"):
        wscore.record(network(), tmp_path / "run" / "weights.npy", every=1)
    assert (tmp_path / "run" / "weights.npy").read_bytes() == b"of another program"


def test_weights_that_are_rounded_coarsely_are_told(tmp_path: Path) -> None:
    with pytest.warns(WscoreWarning, match="run: weights are bfloat16, which rounds away small changes"):
        wscore.record(network().bfloat16(), tmp_path / "run", every=1)
    wscore.record(network().half(), tmp_path / "half", every=1)
    wscore.record(network().double(), tmp_path / "double", every=1)


def test_two_recorders_at_one_folder_do_not_mix_their_snapshots(tmp_path: Path) -> None:
    model = network()
    first = wscore.record(model, tmp_path / "run", every=1)
    second = wscore.record(model, tmp_path / "run", every=1, resume=True)
    second.step()
    with pytest.raises(
        DataError, match=r"weights\.npy: was changed by another process; give each recorder a separate folder"
    ):
        first.step()
    assert len(Trajectory(tmp_path / "run")) == 2
    second.step()
    assert len(Trajectory(tmp_path / "run")) == 3


class Operator(nn.Module):
    """A layer with complex weights, a mask and a table of indices."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))
        self.out = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("table", torch.arange(6).reshape(2, 3))
        self.register_buffer("flag", torch.tensor(True))


def test_complex_weights_masks_and_tables_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, states = Operator(), []
    with wscore.record(network, tmp_path / "run", every=1) as recorder:
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        with torch.no_grad():
            network.spectral.mul_(2j)
            network.mask.logical_not_()
        recorder.step()
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    run = Trajectory(tmp_path / "run")
    assert run.layout.size == 2 * 4 * 3 + 4 * 2 + 2
    for index, state in enumerate(states):
        found = run.state_dict(index)
        assert found.keys() == state.keys()
        expected = {**state, "mask": states[-1]["mask"]}
        assert all(
            torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items()
        )
    network.load_state_dict(run.state_dict(0))
    with pytest.raises(DataError, match="the weights are not those of step 1"):
        wscore.record(network, tmp_path / "run", every=1, resume=True)
    network.load_state_dict(run.state_dict(1))
    with wscore.record(network, tmp_path / "run", every=1, resume=True) as recorder:
        recorder.step()
    assert len(Trajectory(tmp_path / "run")) == 3


def test_parameters_beside_a_child_called_module_are_recorded(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.ones(3))

    wscore.record(Scaled(), tmp_path / "run", every=1)
    run = Trajectory(tmp_path / "run")
    assert [spec.name for spec in run.layout.tensors] == ["scale", "module.weight", "module.bias"]
