from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wscore.errors import DataError
from wscore.forecasting.trajectories.store import Trajectory, curves, identities, open_trajectories
from wscore.io import read_json, write_json

Recorded = Callable[..., Trajectory]


def walk(number: int, size: int) -> np.ndarray:
    return np.full(size, float(number))


def test_what_is_written_is_read_through_a_memory_map(recorded: Recorded) -> None:
    run = recorded(3, walk, count=5)
    assert isinstance(run.weights, np.memmap)
    assert run.weights.dtype == np.float32
    assert (len(run), run.name, run.layout.size) == (5, "seed-3", run.weights.shape[1])
    assert np.array_equal(run.weights[:, 0], np.arange(5.0))
    assert not run.weights.flags.writeable


def test_runs_come_in_the_order_of_their_seeds(recorded: Recorded, tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        recorded(seed, walk)
    assert [run.manifest.seed for run in open_trajectories(tmp_path)] == [0, 2, 10]


def test_curves_have_a_row_per_run_and_snapshot(recorded: Recorded) -> None:
    table = curves([recorded(0, walk, count=3), recorded(1, walk, count=4)])
    scores = ["lr", "train_loss", "test_loss", "test_accuracy"]
    assert list(table.columns) == ["run", "dataset", "optimizer", "step", "epoch", *scores]
    assert table["run"].tolist() == ["seed-0"] * 3 + ["seed-1"] * 4


def test_the_identity_follows_every_weight(recorded: Recorded) -> None:
    first = identities([recorded(0, walk)])
    assert identities([recorded(0, walk)]) == first
    assert identities([recorded(0, lambda n, size: walk(n, size) + (n == 7))]) != first


def spoil(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoiled(folder: Path) -> None:
        content = read_json(folder / "manifest.json")
        change(content)
        write_json(folder / "manifest.json", content)

    return spoiled


def overwrite(array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "weights.npy", array)


def steps(*values: int) -> Callable[[dict], object]:
    return lambda content: content["snapshots"].update(step=list(values))


BROKEN = {
    "no weights": (lambda folder: (folder / "weights.npy").unlink(), r"weights\.npy: no such file; run `dvc repro"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json: no such file"),
    "cut off": (lambda folder: (folder / "weights.npy").write_bytes(b"\x93NUMPY"), "not a readable array"),
    "archive": (lambda folder: (folder / "weights.npy").write_bytes(b"PK\x03\x04"), "not a readable array"),
    "torn header": (
        lambda folder: (folder / "weights.npy").write_bytes(b"\x93NUMPY\x01\x00\x0a\x00{'descr': ("),
        "not a readable array",
    ),
    "pickled": (lambda folder: np.save(folder / "weights.npy", np.array([{}])), "not a readable array"),
    "other type": (overwrite(np.zeros((4, 26))), r"weights\.npy: does not fit its manifest; expected float32"),
    "other length": (overwrite(np.zeros((3, 26), np.float32)), "does not fit its manifest"),
    "unknown format": (
        spoil(lambda content: content.update(format=2)),
        r"manifest\.json: is not a trajectory manifest",
    ),
    "missing key": (spoil(lambda content: content.pop("layout")), "layout"),
    "column too short": (spoil(lambda content: content["snapshots"]["lr"].pop()), "differ in length"),
    "out of order": (spoil(steps(0, 2, 1, 3)), r"snapshots\.step: snapshots are not in order"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trajectory_is_named(name: str, recorded: Recorded, tmp_path: Path) -> None:
    spoil_it, message = BROKEN[name]
    folder = recorded(0, walk, count=4).folder
    spoil_it(folder)
    with pytest.raises(DataError, match=message) as caught:
        open_trajectories(tmp_path)
    assert "seed-0" in str(caught.value)


def test_rows_behind_those_of_the_manifest_are_of_a_recording_that_goes_on(recorded: Recorded) -> None:
    run = recorded(0, walk, count=4)
    weights = np.array(run.weights)
    overwrite(np.concatenate([weights, np.full_like(weights, np.nan)]))(run.folder)
    assert np.array_equal(Trajectory(run.folder).weights, weights)


def test_a_snapshot_that_is_not_finite_is_numbered(recorded: Recorded) -> None:
    with pytest.raises(DataError, match=r"weights\.npy: snapshot 17 is not finite"):
        recorded(0, lambda n, size: np.where(np.arange(size) == 3, np.inf if n == 17 else 1.0, 1.0))


def test_runs_of_different_networks_do_not_mix(recorded: Recorded, tmp_path: Path) -> None:
    recorded(0, walk)
    other = recorded(1, walk)
    spoil(lambda content: content["layout"]["tensors"][0].update(name="other"))(other.folder)
    with pytest.raises(DataError, match=r"seed-1.*is of another network"):
        open_trajectories(tmp_path)
