"""Folders of checkpoints and trials: which files, runs, numbers and columns come out."""

import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.networks.architectures import Architecture, build
from wscore.zoo.readers.folder import plan_folder
from wscore.zoo.store import Zoo

MLP = Architecture(family="mlp", input=(1, 2, 2), classes=2, widths=(3,), activation="relu", pooling="none")


def state(seed=0):
    torch.manual_seed(seed)
    return build(MLP).state_dict()


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in content.items()})
    else:
        torch.save(content, path)


def test_state_dicts_of_every_format_are_read(read_zoo, tmp_path):
    names = ("a/epoch_10.pt", "a/epoch_2.pth", "b/x.safetensors", "b/c/y.npz", "top.ckpt", "d/e.pth.tar", "d/m.bin")
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, state(seed))
    save(tmp_path / "in" / ".hidden" / "z.pt", state())
    (tmp_path / "in" / "notes.txt").write_text("not a checkpoint")
    zoo = read_zoo("folder", tmp_path / "in")
    table = zoo.table.set_index("model_id")
    assert set(table.index) == {"a/epoch_10", "a/epoch_2", "b/x", "b/c/y", "top", "d/e", "d/m"}
    assert table.loc["a/epoch_2", ["run_id", "checkpoint"]].tolist() == ["a", 0]
    assert table.loc["a/epoch_10", ["run_id", "checkpoint"]].tolist() == ["a", 1]
    assert table.loc["b/c/y", "run_id"] == "b/c"
    assert table.loc["top", "run_id"] == "top"
    assert set(table["architecture"]) == {""}
    for seed, name in enumerate(names):
        row = list(zoo.table["model_id"]).index(name.replace(".tar", "").rpartition(".")[0])
        back = zoo.layout(row).unflatten(torch.from_numpy(zoo.weights([row])[0]))
        assert all(torch.equal(back[key], value) for key, value in state(seed).items())
    assert json.loads((tmp_path / "zoo" / "source.json").read_text())["source"] == "folder"


def test_a_pattern_names_run_and_checkpoint_and_the_rest_is_listed(read_zoo, excluded, tmp_path):
    for seed, name in enumerate(("lr0.1/ep03.pt", "lr0.1/ep12.pt", "lr0.2/ep03.pt", "lr0.2/best.pt")):
        save(tmp_path / "in" / name, state(seed))
    with pytest.warns(WscoreWarning) as caught:
        zoo = read_zoo("folder", tmp_path / "in", run_pattern=r"(?P<run>lr[\d.]+)/ep(?P<checkpoint>\d+)")
    assert "1 of 4 checkpoints don't fit zoo.run_pattern" in str(caught[0].message)
    assert list(zoo.table["run_id"]) == ["lr0.1", "lr0.1", "lr0.2"]
    assert list(zoo.table["checkpoint"]) == [3, 12, 3]
    assert excluded() == {"lr0.2/best.pt": "no_match"}


def test_file_names_tell_columns(read_zoo, tmp_path):
    for seed, name in enumerate(("r1/epoch_2_acc_0.5.pt", "r1/epoch_10_acc_0.75.pt", "r2/epoch_1_acc_.5e-1.pt")):
        save(tmp_path / "in" / name, state(seed))
    reading = {"name_pattern": "epoch_{epoch:d}_acc_{accuracy:f}", "checkpoint_column": "epoch"}
    table = read_zoo("folder", tmp_path / "in", reading=reading).table
    assert list(table["epoch"]) == list(table["checkpoint"]) == [2, 10, 1]
    assert list(table["accuracy"]) == [0.5, 0.75, 0.05]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_metadata_is_joined_by_path_or_name(read_zoo, excluded, tmp_path, kind):
    for seed, name in enumerate(("a/one.pt", "a/two.pt", "b/two.pt")):
        save(tmp_path / "in" / name, state(seed))
    rows = [
        {"file": "one.pt", "test_accuracy": 0.5, "optimizer": "adam", "architecture": MLP.to_json()},
        {"file": "b/two", "test_accuracy": 0.7, "optimizer": "sgd"},
        {"file": "gone.pt", "test_accuracy": 1.0, "optimizer": "x"},
    ]
    table = pd.DataFrame(rows)
    path = tmp_path / "in" / f"metadata.{kind}"
    write = {
        "csv": lambda: table.to_csv(path, index=False),
        "json": lambda: path.write_text(json.dumps({row["file"]: row for row in rows})),
        "jsonl": lambda: path.write_text("\n".join(map(json.dumps, rows))),
        "parquet": lambda: table.to_parquet(path),
    }
    write[kind]()
    with pytest.warns(WscoreWarning) as caught:
        zoo = read_zoo("folder", tmp_path / "in")
    assert "1 checkpoints without a row" in str(caught[0].message)
    assert excluded() == {"gone.pt": "file_missing"}
    table = zoo.table.set_index("model_id")
    assert table.loc["a/one", "test_accuracy"] == 0.5
    assert np.isnan(table.loc["a/two", "test_accuracy"])
    assert table.loc["b/two", "optimizer"] == "sgd"
    network = build(table.loc["a/one", "architecture"])
    network.load_state_dict(zoo.layout(0).unflatten(torch.from_numpy(zoo.weights([0])[0])))


def test_runs_and_order_come_from_metadata(read_zoo, tmp_path):
    rows = []
    for seed, (run, epoch) in enumerate((("x", 2.5), ("y", 1), ("x", 0.5), ("x", 1.5))):
        save(tmp_path / "in" / f"{seed}.pt", state(seed))
        rows.append({"file": f"{seed}.pt", "trial": run, "epoch": epoch})
    pd.DataFrame(rows).to_csv(tmp_path / "in" / "metadata.csv", index=False)
    table = read_zoo("folder", tmp_path / "in", reading={"run_column": "trial", "checkpoint_column": "epoch"}).table
    assert list(table["run_id"]) == ["x", "y", "x", "x"]
    assert list(table["checkpoint"]) == [2, 1, 0, 1]  # ranks where the numbers of a run are not whole


def test_what_stands_beside_the_weights_becomes_metadata(read_zoo, tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    save(tmp_path / "in" / "r" / "a.pt", {"epoch": 3, "state_dict": network.half().state_dict(), "lr": 0.1})
    save(tmp_path / "in" / "r" / "b.pt", {"model_state_dict": nn.Linear(2, 3).double().state_dict(), "epoch": 4})
    table = (zoo := read_zoo("folder", tmp_path / "in")).table
    assert list(table["has_batch_norm"]) == list(table["has_conv_layers"]) == [True, False]
    assert list(table["n_weights"]) == [28, 9]
    assert list(table["epoch"]) == [3, 4]
    assert list(table["dtype"]) == ["float16", "float64"]
    assert zoo.layout(0).counters == {"1.num_batches_tracked": ()}


def test_many_files_end_in_several_parts_whatever_the_workers(read_zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("wscore.zoo.readers.folder.FILES_PER_SHARD", 2)
    monkeypatch.setattr("wscore.zoo.readers.ingest.ROWS_PER_PART", 3)
    for number in range(5):
        save(tmp_path / "in" / "run" / f"{number}.pt", state(number))
    zoo = read_zoo("folder", tmp_path / "in")
    assert len(zoo.parts) == 2
    assert list(zoo.table["checkpoint"]) == [0, 1, 2, 3, 4]
    monkeypatch.setenv("WSCORE_WORKERS", "2")
    assert read_zoo("folder", tmp_path / "in").identity == zoo.identity


def test_an_interrupted_reading_goes_on(read_zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("wscore.zoo.readers.folder.FILES_PER_SHARD", 1)
    for number in range(3):
        save(tmp_path / "in" / f"{number}.pt", state(number))
    from wscore.zoo.readers import ingest as intake

    usual, done = intake.read_shard, []

    def stop_after_two(job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(usual(job))
        return done[-1]

    monkeypatch.setattr(intake, "read_shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        read_zoo("folder", tmp_path / "in")
    assert not (tmp_path / "zoo").exists()
    again = []
    monkeypatch.setattr(intake, "read_shard", lambda job: again.append(job) or usual(job))
    assert len(read_zoo("folder", tmp_path / "in")) == 3
    assert len(again) == 1
    assert not list((tmp_path / ".cache" / "zoo").iterdir())


def test_a_full_disk_leaves_nothing_behind(read_zoo, tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.pt", state())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        read_zoo("folder", tmp_path / "in")
    assert not (tmp_path / "zoo").exists()


def test_links_out_of_the_folder_are_not_followed(read_zoo, excluded, tmp_path):
    save(tmp_path / "in" / "a.pt", state(1))
    save(tmp_path / "secret.pt", state(2))
    (tmp_path / "in" / "b.pt").symlink_to(tmp_path / "secret.pt")
    with pytest.warns(WscoreWarning, match="1 outside"):
        assert len(read_zoo("folder", tmp_path / "in")) == 1
    assert excluded() == {"b.pt": "outside"}


def test_no_folder_no_files_and_no_match_are_named(read_zoo, zoo_config, tmp_path):
    with pytest.raises(ConfigError, match=r"zoo\.path: is missing"):
        plan_folder(zoo_config(source="folder"))
    with pytest.raises(DataError, match=r"zoo\.path=.*nowhere: no such folder"):
        read_zoo("folder", tmp_path / "nowhere")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"no checkpoints here; expected files \*\.pt"):
        read_zoo("folder", tmp_path / "in")
    save(tmp_path / "in" / "a.pt", state())
    with pytest.raises(DataError, match=r"zoo\.run_pattern: fits no checkpoint; expected a match in paths like a\.pt"):
        read_zoo("folder", tmp_path / "in", run_pattern=r"(?P<run>x)")
    with pytest.raises(ConfigError, match=r"zoo\.run_pattern: is no regular expression"):
        read_zoo("folder", tmp_path / "in", run_pattern=r"(?P<run>")
    with pytest.raises(ConfigError, match="has no group `run`"):
        read_zoo("folder", tmp_path / "in", run_pattern=r"(.+)")
    with pytest.raises(ConfigError, match="name_pattern: names no column"):
        read_zoo("folder", tmp_path / "in", reading={"name_pattern": "epoch"})
    save(tmp_path / "in" / "a1.pt", state())
    with pytest.raises(DataError, match="checkpoint of a run is no number"):
        read_zoo("folder", tmp_path / "in", run_pattern=r"(?P<run>a)(?P<checkpoint>.+)")
    (tmp_path / "in" / "a.pt").write_bytes(b"")
    (tmp_path / "in" / "a1.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no network is left; got .*1 unreadable.*the first is a1\.pt"):
        read_zoo("folder", tmp_path / "in")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\na.pt,1\n", "has no column `file`"),
        ("file,layout\na.pt,1\n", "read from the files"),
        ("file,x\na.pt,1\na.pt,2\n", "names a file twice"),
        ("", "is not a readable table"),
        ("file,architecture\na.pt,{}\n", "lacks fields"),
    ],
)
def test_bad_metadata_is_named(read_zoo, tmp_path, text, message):
    save(tmp_path / "in" / "a.pt", state())
    (tmp_path / "in" / "metadata.csv").write_text(text)
    with warnings.catch_warnings(), pytest.raises(DataError, match=message):
        read_zoo("folder", tmp_path / "in")
    assert not (tmp_path / "zoo").exists()


def trial(folder, name, *, checkpoints=2, lr=0.1):
    """One trial as Ray Tune leaves it: parameters, one line of results per iteration, directories of checkpoints."""
    inner = folder / name
    inner.mkdir(parents=True)
    config = {"lr": lr, "optim::optimizer": "adam", "seed": 3, "model": {"channels": 1}}
    (inner / "params.json").write_text(json.dumps(config))
    lines = []
    for number in range(checkpoints):
        lines.append({"training_iteration": number, "test_acc": number / 10, "config": config, "hostname": "h"})
        (inner / f"checkpoint_{number:06d}").mkdir()
        torch.save(state(7 * sum(map(ord, name)) + number), inner / f"checkpoint_{number:06d}" / "checkpoints")
    (inner / "result.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"training_iteration": 9, "te')
    (inner / "progress.csv").write_text("a\n")


def test_trials_of_ray_tune_are_read(read_zoo, tmp_path):
    trial(tmp_path / "in", "NN_tune_trainable_00000_seed=1", checkpoints=3)
    trial(tmp_path / "in", "NN_tune_trainable_00001_seed=2", lr=0.2)
    table = read_zoo("ray_tune", tmp_path / "in").table
    assert list(table["checkpoint"]) == [0, 1, 2, 0, 1]
    assert list(table["lr"]) == [0.1, 0.1, 0.1, 0.2, 0.2]
    assert list(table["test_acc"]) == [0, 0.1, 0.2, 0, 0.1]
    assert set(table["optim_optimizer"]) == {"adam"}
    assert set(table["model_channels"]) == {1}
    assert len(set(table["run_id"])) == 2
    assert "hostname" not in table


def test_a_trial_without_parameters_is_listed(read_zoo, excluded, tmp_path):
    trial(tmp_path / "in", "good")
    trial(tmp_path / "in", "torn", checkpoints=1)
    (tmp_path / "in" / "torn" / "params.json").write_text('{"lr": ')
    with pytest.warns(WscoreWarning, match="1 unreadable"):
        assert set(read_zoo("ray_tune", tmp_path / "in").table["run_id"]) == {"good"}
    assert excluded() == {"torn/checkpoint_000000/checkpoints": "unreadable"}
    with pytest.raises(DataError, match="no trials of Ray Tune here"):
        read_zoo("ray_tune", tmp_path / "in" / "good" / "checkpoint_000000")
    assert isinstance(Zoo(tmp_path / "zoo"), Zoo)


def test_files_that_differ_in_their_extension_are_two_networks(read_zoo, tmp_path):
    for seed, name in enumerate(("a.pt", "a.npz", "b.pth.tar", "c.pt")):
        save(tmp_path / "in" / name, state(seed))
    assert list(read_zoo("folder", tmp_path / "in").table["model_id"]) == ["a.npz", "a.pt", "b", "c"]


def test_a_pipe_is_listed_and_not_waited_for(read_zoo, excluded, tmp_path):
    save(tmp_path / "in" / "a.pt", state())
    os.mkfifo(tmp_path / "in" / "b.pt")
    with pytest.warns(WscoreWarning, match="1 unreadable"):
        assert len(read_zoo("folder", tmp_path / "in")) == 1
    assert excluded() == {"b.pt": "unreadable"}


def test_run_and_order_come_from_what_stands_beside_the_weights(read_zoo, tmp_path):
    for seed, (name, run, epoch) in enumerate((("a/x", "A", 5), ("a/y", "A", 4), ("b/z", "B", 1))):
        save(tmp_path / "in" / f"{name}.pt", {"state_dict": state(seed), "epoch": epoch, "trial": run})
    reading = {"run_column": "trial", "checkpoint_column": "epoch"}
    table = read_zoo("folder", tmp_path / "in", reading=reading).table
    assert list(table["run_id"]) == ["A", "A", "B"]
    assert list(table["checkpoint"]) == [5, 4, 1]


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ({"run_column": "trail"}, r"zoo\.reading\.run_column=trail: no network has this column; expected one of epoch"),
        ({"checkpoint_column": "step"}, r"zoo\.reading\.checkpoint_column=step: no network has this column"),
        ({"factory_columns": ("width",)}, r"zoo\.reading\.factory_columns\[0\]=width: no network has this column"),
        (
            {"name_pattern": "step{step:d}"},
            r"name_pattern: fits no checkpoint; expected a match in paths like epoch_03\.pt",
        ),
    ],
)
def test_columns_and_patterns_that_fit_nothing_are_named(read_zoo, tmp_path, reading, message):
    save(tmp_path / "in" / "epoch_03.pt", state())
    with pytest.raises((ConfigError, DataError), match=message):
        read_zoo("folder", tmp_path / "in", reading={"name_pattern": "epoch_{epoch:02d}", **reading})
    assert not (tmp_path / "zoo").exists()


def test_names_of_digits_are_names(read_zoo, tmp_path):
    save(tmp_path / "in" / "0001.pt", state())
    (tmp_path / "in" / "metadata.csv").write_text("file,acc\n0001,0.5\n")
    assert list(read_zoo("folder", tmp_path / "in").table["acc"]) == [0.5]
    (tmp_path / "in" / "metadata.csv").write_text("file,acc\n0001,0.5\n0001.pt,0.6\n")
    with pytest.raises(DataError, match="names a file twice"):
        read_zoo("folder", tmp_path / "in")


def test_paths_in_a_table_may_be_those_of_another_system(read_zoo, tmp_path):
    for number in range(3):
        save(tmp_path / "in" / "r" / f"{number}.pt", state(number))
    rows = f"\ufefffile,acc\r\nr\\0.pt,0.5\r\n./r/1.pt,0.6\r\n{tmp_path}/in/r/2.pt,0.7\r\n"
    (tmp_path / "in" / "metadata.csv").write_bytes(rows.encode())
    assert list(read_zoo("folder", tmp_path / "in").table["acc"]) == [0.5, 0.6, 0.7]


def test_a_trial_without_checkpoints_is_listed(read_zoo, excluded, tmp_path):
    trial(tmp_path / "in", "good")
    trial(tmp_path / "in", "bare", checkpoints=0)
    trial(tmp_path / "in", "odd", checkpoints=1)
    (tmp_path / "in" / "odd" / "result.json").write_text('{"training_iteration": "x"}\n')
    with pytest.warns(WscoreWarning, match="2 excluded"):
        read_zoo("ray_tune", tmp_path / "in")
    assert excluded() == {"bare": "file_missing", "odd/checkpoint_000000/checkpoints": "unreadable"}
