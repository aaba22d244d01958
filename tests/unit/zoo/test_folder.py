import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.zoo.architectures import Architecture, build
from wscore.zoo.folder import read_folder
from wscore.zoo.store import Zoo

MLP = Architecture(family="mlp", input=(1, 2, 2), classes=2, widths=(3,), activation="relu", pooling="none")


def state(seed=0):
    torch.manual_seed(seed)
    return build(MLP).state_dict()


def read(zoo_config, folder, out, pattern=None):
    read_folder(zoo_config(source="folder", path=str(folder), run_pattern=pattern), out)
    return Zoo(out)


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in content.items()})
    else:
        torch.save(content, path)


def test_state_dicts_of_every_format_are_read(zoo_config, tmp_path):
    names = ("a/epoch_10.pt", "a/epoch_2.pth", "b/x.safetensors", "b/c/y.npz", "top.pt")
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, state(seed))
    save(tmp_path / "in" / ".hidden" / "z.pt", state())
    (tmp_path / "in" / "notes.txt").write_text("not a checkpoint")
    zoo = read(zoo_config, tmp_path / "in", tmp_path / "zoo")
    table = zoo.table.set_index("model_id")
    assert set(table.index) == {"a/epoch_10", "a/epoch_2", "b/x", "b/c/y", "top"}
    assert table.loc["a/epoch_2", ["run_id", "checkpoint"]].tolist() == ["a", 0]
    assert table.loc["a/epoch_10", ["run_id", "checkpoint"]].tolist() == ["a", 1]
    assert table.loc["b/c/y", "run_id"] == "b/c"
    assert table.loc["top", "run_id"] == "top"
    assert set(table["architecture"]) == {""}
    for seed, name in enumerate(names):
        row = list(zoo.table["model_id"]).index(name.rpartition(".")[0])
        back = zoo.layout(row).unflatten(torch.from_numpy(zoo.weights([row])[0]))
        assert all(torch.equal(back[key], value) for key, value in state(seed).items())


def test_a_pattern_names_run_and_checkpoint_and_the_rest_is_counted(zoo_config, tmp_path):
    for name in ("lr0.1/ep03.pt", "lr0.1/ep12.pt", "lr0.2/ep03.pt", "lr0.2/best.pt"):
        save(tmp_path / "in" / name, state())
    with pytest.warns(WscoreWarning, match=r"1 of 4 checkpoints don't fit zoo\.run_pattern"):
        zoo = read(zoo_config, tmp_path / "in", tmp_path / "zoo", r"(?P<run>lr[\d.]+)/ep(?P<checkpoint>\d+)")
    assert list(zoo.table["run_id"]) == ["lr0.1", "lr0.1", "lr0.2"]
    assert list(zoo.table["checkpoint"]) == [3, 12, 3]


def test_metadata_is_joined_by_path_or_name(zoo_config, tmp_path):
    for name in ("a/one.pt", "a/two.pt", "b/two.pt"):
        save(tmp_path / "in" / name, state())
    text = '"' + MLP.to_json().replace('"', '""') + '"'
    rows = f"file,test_accuracy,optimizer,architecture\none.pt,0.5,adam,{text}\nb/two.pt,0.7,sgd,\ngone.pt,1,x,\n"
    (tmp_path / "in" / "metadata.csv").write_text(rows)
    with pytest.warns(WscoreWarning) as caught:
        zoo = read(zoo_config, tmp_path / "in", tmp_path / "zoo")
    assert sorted(str(item.message).rpartition(": ")[2] for item in caught) == [
        "1 checkpoints without a row",
        "1 rows without a file",
    ]
    table = zoo.table.set_index("model_id")
    assert table.loc["a/one", "test_accuracy"] == 0.5
    assert np.isnan(table.loc["a/two", "test_accuracy"])
    assert table.loc["b/two", "optimizer"] == "sgd"
    network = build(table.loc["a/one", "architecture"])
    network.load_state_dict(zoo.layout(0).unflatten(torch.from_numpy(zoo.weights([0])[0])))


def test_wrapped_states_normalised_networks_and_other_precisions_are_read(zoo_config, tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    save(tmp_path / "in" / "r" / "a.pt", {"epoch": 3, "state_dict": network.half().state_dict(), "lr": 0.1})
    save(tmp_path / "in" / "r" / "b.pt", {"model_state_dict": nn.Linear(2, 3).double().state_dict()})
    zoo = read(zoo_config, tmp_path / "in", tmp_path / "zoo")
    assert list(zoo.table["has_batch_norm"]) == [True, False]
    assert list(zoo.table["has_conv_layers"]) == [True, False]
    assert list(zoo.table["n_weights"]) == [28, 9]
    assert zoo.layout(0).counters == {"1.num_batches_tracked": ()}


def test_many_files_end_in_several_parts(zoo_config, tmp_path, monkeypatch):
    monkeypatch.setattr("wscore.zoo.folder.FILES_PER_PART", 2)
    for number in range(5):
        save(tmp_path / "in" / "run" / f"{number}.pt", state(number))
    zoo = read(zoo_config, tmp_path / "in", tmp_path / "zoo")
    assert len(zoo.parts) == 3
    assert list(zoo.table["checkpoint"]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"w": torch.tensor([1.0, torch.nan, torch.inf])},
            r"bad\.pt: w: holds numbers that are not finite; got 2 of 3",
        ),
        ({"w": torch.ones(2, dtype=torch.complex64)}, r"bad\.pt: w: holds something else than real tensors"),
        ({"w": torch.ones(2), "epoch": 3}, r"bad\.pt: epoch: holds something else than real tensors; got int"),
        ({"w": torch.ones(2, dtype=torch.long)}, r"bad\.pt: holds no weights"),
        ({}, r"bad\.pt: holds no state dict"),
        ([torch.ones(2)], r"bad\.pt: holds no state dict; expected tensors by name; got list"),
        (nn.Linear(1, 1), r"bad\.pt: is not a readable checkpoint"),
    ],
)
def test_what_is_no_state_dict_is_named(zoo_config, tmp_path, content, message):
    save(tmp_path / "in" / "good.pt", state())
    save(tmp_path / "in" / "bad.pt", content)
    with pytest.raises(DataError, match=message):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("name", ["bad.pt", "bad.pth", "bad.safetensors", "bad.npz"])
@pytest.mark.parametrize("cut", [0, 20, 300])
def test_cut_off_files_are_named(zoo_config, tmp_path, name, cut):
    save(tmp_path / "in" / name, state())
    path = tmp_path / "in" / name
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"{name}: is not a readable"):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo")


def test_no_folder_no_files_and_no_match_are_named(zoo_config, tmp_path):
    with pytest.raises(ConfigError, match=r"zoo\.path: is missing"):
        read_folder(zoo_config(source="folder"), tmp_path / "zoo")
    with pytest.raises(DataError, match=r"zoo\.path=.*nowhere: no such folder"):
        read(zoo_config, tmp_path / "nowhere", tmp_path / "zoo")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"no checkpoints here; expected files \*\.pt"):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo")
    save(tmp_path / "in" / "a.pt", state())
    with pytest.raises(DataError, match=r"zoo\.run_pattern: fits no checkpoint; expected a match in paths like a\.pt"):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo", r"(?P<run>x)")
    with pytest.raises(ConfigError, match=r"zoo\.run_pattern: is no regular expression"):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo", r"(?P<run>")
    with pytest.raises(ConfigError, match="has no group `run`"):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo", r"(.+)")
    save(tmp_path / "in" / "a1.pt", state())
    save(tmp_path / "in" / "a01.pt", state())
    with pytest.raises(DataError, match=r"run a, checkpoint 1: two files are the same checkpoint.*a01\.pt, a1\.pt"):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo", r"(?P<run>a)(?P<checkpoint>\d+)?")
    with pytest.raises(DataError, match=r"group `checkpoint` of zoo\.run_pattern is no number; got 01\.pt"):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo", r"(?P<run>a)(?P<checkpoint>.+)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\na.pt,1\n", "has no column `file`"),
        ("file,layout\na.pt,1\n", "told from the files"),
        ("file,x\na.pt,1\na.pt,2\n", "names a file twice"),
        ("", "is not a readable table"),
        ("file,architecture\na.pt,resnet\n", "is no description of an architecture"),
    ],
)
def test_bad_metadata_is_named(zoo_config, tmp_path, text, message):
    save(tmp_path / "in" / "a.pt", state())
    (tmp_path / "in" / "metadata.csv").write_text(text)
    with warnings.catch_warnings(), pytest.raises(DataError, match=message):
        read(zoo_config, tmp_path / "in", tmp_path / "zoo")
