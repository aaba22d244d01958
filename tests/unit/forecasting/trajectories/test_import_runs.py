"""Runs from elsewhere: folders of state dicts and recordings."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import wscore
from wscore.config import load_section
from wscore.errors import ConfigError, DataError, WscoreError, WscoreWarning
from wscore.forecasting.trajectories.import_runs import find_files, import_runs, pattern_expression
from wscore.forecasting.trajectories.store import curves, open_trajectories
from wscore.forecasting.trajectories.train_base import BaseConfig, recording_report, recording_summary_line
from wscore.networks.images import Images, load_images
from wscore.networks.lenet import NetworkSpec, accuracy_and_loss, build_network

PARAMS = Path(__file__).parents[4] / "params.yaml"
CONFIG = msgspec.structs.replace(
    load_section(BaseConfig, "base", PARAMS), source="folder", network="mlp", size=8, max_train=30, max_test=20
)
PATTERN = "epoch_{epoch}_batch_{pct}pct_acc_{acc}.pt"


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images(CONFIG.images)


def configured(path: Path, pattern: str | None = None, **changes: object) -> BaseConfig:
    return msgspec.structs.replace(CONFIG, path=str(path), pattern=pattern, **changes)


def states(count: int, width: int = 4) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [nn.Linear(3, width).state_dict() for _ in range(count)]


def save(folder: Path, names: Sequence[str], contents: Sequence[dict[str, torch.Tensor]] | None = None) -> None:
    for name, state in zip(names, contents or states(len(names)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / name)


def names(epochs: range, shares: Sequence[int] = (50, 100)) -> list[str]:
    return [f"epoch_{epoch}_batch_{pct}pct_acc_{90 + epoch}.{pct}.pt" for epoch in epochs for pct in shares]


def test_runs_order_and_accuracy_are_read_off_the_names(tmp_path: Path, images: Images) -> None:
    written = names(range(9, 12))  # 9 before 10 and 11
    contents = states(6)
    for run in ("b", "a"):
        save(tmp_path / "in" / run, written[::-1], contents[::-1])
    manifests = import_runs(configured(tmp_path / "in", PATTERN), images, tmp_path / "out")
    runs = open_trajectories(tmp_path / "out")
    assert [run.name for run in runs] == ["a", "b"] == [manifest.run for manifest in manifests]
    layout = runs[0].layout
    assert np.array_equal(runs[0].weights, np.stack([layout.flatten(state) for state in contents]))
    snapshots = runs[0].manifest.snapshots
    assert snapshots.epoch == (9.5, 10, 10.5, 11, 11.5, 12)
    assert snapshots.test_accuracy == pytest.approx((0.995, 0.991, 1.005, 1.001, 1.015, 1.011), abs=0.0101)
    assert runs[0].manifest.network is None
    assert np.isnan(curves(runs)["test_loss"]).all()
    assert np.isnan(recording_report(manifests)["test_loss"])
    assert recording_summary_line(manifests).startswith(
        "2 runs of unknown (16 weights), 6 snapshots each, test accuracy "
    )


def test_a_network_that_can_be_built_is_scored(tmp_path: Path, images: Images) -> None:
    spec = NetworkSpec(name="mlp", channels=1, size=8, classes=10)
    save(
        tmp_path / "in", [f"step-{n}.pt" for n in (5, 10, 15)], [build_network(spec, n).state_dict() for n in range(3)]
    )
    manifest = import_runs(configured(tmp_path / "in"), images, tmp_path / "out")[0]
    run = open_trajectories(tmp_path / "out")[0]
    found = accuracy_and_loss(spec, torch.from_numpy(np.array(run.weights)), images.x_test, images.y_test)
    assert manifest.network == spec
    assert manifest.snapshots.step == (5, 10, 15)
    assert manifest.snapshots.test_accuracy == pytest.approx(tuple(found.accuracy.tolist()))


def test_files_that_sort_tensors_by_name_are_networks_too(tmp_path: Path, images: Images) -> None:
    spec = NetworkSpec(name="mlp", channels=1, size=8, classes=10)
    (tmp_path / "in").mkdir()
    for number in range(3):
        save_file(
            {name: part.clone() for name, part in state_of(spec, number).items()},
            tmp_path / "in" / f"{number}.safetensors",
        )
    torch.save(state_of(spec, 3), tmp_path / "in" / "3.pt")
    manifest = import_runs(configured(tmp_path / "in"), images, tmp_path / "out")[0]
    assert manifest.network == spec
    run = open_trajectories(tmp_path / "out")[0]
    assert np.array_equal(run.weights, np.stack([run.layout.flatten(state_of(spec, number)) for number in range(4)]))


def state_of(spec: NetworkSpec, seed: int) -> dict[str, torch.Tensor]:
    return build_network(spec, seed).state_dict()


def test_weights_that_are_rounded_coarsely_are_told(tmp_path: Path, images: Images) -> None:
    save(
        tmp_path / "in",
        ["1.pt", "2.pt"],
        [{name: part.bfloat16() for name, part in state.items()} for state in states(2)],
    )
    with pytest.warns(WscoreWarning, match=r"1\.pt: weights are bfloat16, which rounds away small changes") as caught:
        import_runs(configured(tmp_path / "in"), images, tmp_path / "out")
    assert len(caught) == 1


def test_recordings_are_taken_as_they_are(tmp_path: Path, images: Images) -> None:
    for name in ("one", "two"):
        recorder = wscore.record(nn.Linear(3, 4), tmp_path / "in" / name, every=1)
        for _ in range(3):
            recorder.step(test_accuracy=0.5)
    import_runs(configured(tmp_path / "in"), images, tmp_path / "out")
    assert [(run.name, len(run)) for run in open_trajectories(tmp_path / "out")] == [("one", 4), ("two", 4)]


def test_recordings_are_named_by_their_folders(tmp_path: Path, images: Images) -> None:
    for name in ("sgd/run", "adam/run"):
        wscore.record(nn.Linear(3, 4), tmp_path / "in" / name, every=1)
    import_runs(configured(tmp_path / "in"), images, tmp_path / "out")
    assert [run.name for run in open_trajectories(tmp_path / "out")] == ["adam-run", "sgd-run"]


def test_recordings_of_networks_for_other_images_are_refused(tmp_path: Path, images: Images) -> None:
    spec = NetworkSpec(name="mlp", channels=3, size=8, classes=10)
    wscore.record(build_network(spec), tmp_path / "in" / "one", every=1, spec=spec)
    with pytest.raises(
        DataError, match=r"one: expects images of another shape; expected 3 x 8 x 8; got 1 x 8 x 8.*base"
    ):
        import_runs(configured(tmp_path / "in"), images, tmp_path / "out")


@pytest.mark.parametrize(
    ("pattern", "name", "fields"),
    [
        ("{run}-{step}.pt", "deep/wide-net-30.pt", {"run": "wide-net", "step": "30"}),
        ("*{step}.pt", "step-12.pt", {"step": "12"}),
        ("{step}*.pt", "12-last.pt", {"step": "12"}),
        ("{run}/*_{epoch}.pth", "lr0.1/ckpt_of_7.pth", {"run": "lr0.1", "epoch": "7"}),
        ("e{epoch}_b{batch}_l{loss}.pt", "e1_b2_l1.5e-3.pt", {"epoch": "1", "batch": "2", "loss": "1.5e-3"}),
    ],
)
def test_patterns(pattern: str, name: str, fields: dict[str, str]) -> None:
    match = pattern_expression(pattern).search(name)
    assert match
    assert match.groupdict() == fields


def test_files_that_do_not_fit_are_left_out_with_their_count(tmp_path: Path) -> None:
    save(tmp_path, ["epoch_1.pt", "epoch_2.pt", "best.pt"])
    with pytest.warns(WscoreWarning, match=r"1 of 3 files don't match base\.pattern"):
        assert [file.fields["epoch"] for file in find_files(tmp_path, "epoch_{epoch}.pt")] == [1, 2]


def mixed(folder: Path) -> None:
    save(folder, ["1.pt", "2.pt"], [*states(1), *states(1, width=5)])


def mixed_recordings(folder: Path) -> None:
    for name, width in (("a", 4), ("b", 5)):
        wscore.record(nn.Linear(3, width), folder / name, every=1)


def broken_recording(folder: Path) -> None:
    wscore.record(nn.Linear(3, 4), folder / "a", every=1)
    (folder / "a" / "weights.npy").unlink()


def mixed_runs(folder: Path) -> None:
    save(folder / "a", ["1.pt", "2.pt"])
    save(folder / "b", ["1.pt", "2.pt"], states(2, width=5))


def not_finite(folder: Path) -> None:
    save(folder, ["1.pt", "2.pt"], [*states(1), {"weight": torch.full((4, 3), torch.inf), "bias": torch.zeros(4)}])


def saved(*files: str) -> Callable[[Path], None]:
    return lambda folder: save(folder, files)


@pytest.mark.parametrize(
    ("prepare", "pattern", "message"),
    [
        (mixed, None, r"2\.pt: is of another network; expected as .*1\.pt"),
        (mixed_runs, None, r"in/b/1\.pt: is of another network; expected as .*in/a/1\.pt.*separate folders"),
        (mixed_recordings, None, r"in/b: is of another network; expected as .*in/a; put the runs"),
        (broken_recording, None, r"in/a/weights\.npy: no such file"),
        (not_finite, None, r"2\.pt: weight: holds numbers that are not finite; got 12 of 12"),
        (saved("1.pt", "2.pt", "3.pt", "5.pt"), None, r"snapshot is missing; expected one every 1.*between 3\.pt and 5"),
        (saved("a.pt", "b.pt"), None, r"base\.pattern: is required: the names don't give the order"),
        (saved("1-1.pt", "2-2.pt"), None, r"base\.pattern: is required"),
        (saved("7.pt"), "{step}.pt", r"run \w+: has a single snapshot"),
        (saved("a-1/model.pt", "a-2/model.pt"), None, r"run a-1: has a single snapshot; .*separate the runs by \{run\}"),
        (saved("1.pt", "2.pt", "5.pt", "8.pt"), None, r"evenly spaced; expected one every 3; got 1 between 1\.pt and 2"),
        (saved("s-1.pt", "s-2.pt"), "s{step}.pt", r"base\.pattern: matches no file"),
        (saved("1a.pt", "1b.pt", "2a.pt"), "{step}*.pt", r"not evenly spaced; .*got 1a\.pt and 1b\.pt, at the same time"),
        (saved("1.pt"), "{acc}.pt", r"does not give the order of the files; expected one of \{epoch\}"),
        (saved("1.pt"), "{time}.pt", r"base\.pattern: has wrong fields.*\{run\}, \{epoch\}"),
        (saved("1.pt"), "model_{step}.pt", r"base\.pattern: matches no file; expected a match in names like 1\.pt"),
        (lambda folder: folder.mkdir(), None, r"base\.path=.*: holds no training run"),
        (lambda _: None, None, r"base\.path=.*: no such folder"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_leaves_nothing(
    prepare: Callable[[Path], None], pattern: str | None, message: str, tmp_path: Path, images: Images
) -> None:
    prepare(tmp_path / "in")
    with pytest.raises(WscoreError, match=message):
        import_runs(configured(tmp_path / "in", pattern), images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_must_be_named(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base\.path: is missing"):
        import_runs(msgspec.structs.replace(CONFIG, path=None), images, tmp_path / "out")
