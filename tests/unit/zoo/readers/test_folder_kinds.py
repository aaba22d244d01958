"""Folders as trainers, hubs and people leave them: shards, steps, copies, pointers, and files that are no checkpoints."""

import io
import json
import os
import shutil
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wscore.errors import DataError, WscoreWarning
from wscore.io import read_json
from wscore.networks.shards import MOST_SHARDS
from wscore.preflight import folder_fingerprint
from wscore.zoo.readers.folder import in_time
from wscore.zoo.readers.hygiene import is_fixed_table
from wscore.zoo.summary import how_runs_are_told, zoo_statistics


def state(seed, outputs=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs)).state_dict()


def shards(folder, seed, *, suffix="safetensors", names=None):
    """A network in two files with their index."""
    folder.mkdir(parents=True)
    content, where = state(seed), {}
    for number, part in enumerate((list(content)[:2], list(content)[2:]), 1):
        file = f"model-{number:05d}-of-00002.{suffix}"
        tensors = {name: content[name] for name in part}
        save_file(tensors, folder / file) if suffix == "safetensors" else torch.save(tensors, folder / file)
        where |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {}, "weight_map": names or where})
    (folder / f"model.{suffix}.index.json").write_text(index)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_one_network(read_zoo, tmp_path, suffix):
    for seed in range(2):
        shards(tmp_path / "in" / f"run{seed}", seed, suffix=suffix)
    zoo = read_zoo("folder", tmp_path / "in")
    assert list(zoo.table["model_id"]) == ["run0/model", "run1/model"]
    back = zoo.layout(1).unflatten(torch.from_numpy(zoo.weights([1])[0]))
    assert all(torch.equal(back[name], tensor) for name, tensor in state(1).items())


def test_shards_that_lack_a_part_or_lead_elsewhere_are_named(read_zoo, excluded, tmp_path):
    torch.save(state(9), tmp_path / "secret.pt")
    for seed, name in enumerate(("torn", "lone", "outside", "bad", "many", "good")):
        shards(tmp_path / "in" / name, seed)
    shards(tmp_path / "in/short", 5, names=dict.fromkeys([*state(5), "4.weight"], "model-00001-of-00002.safetensors"))
    (tmp_path / "in/torn/model-00002-of-00002.safetensors").unlink()
    (tmp_path / "in/lone/model.safetensors.index.json").unlink()
    (tmp_path / "in/outside/model.safetensors.index.json").write_text('{"weight_map": {"w": "../../secret.pt"}}')
    (tmp_path / "in/bad/model.safetensors.index.json").write_text('{"weight_map": [1]}')
    many = {f"t{n}": f"{n}.safetensors" for n in range(MOST_SHARDS + 1)}
    (tmp_path / "in/many/model.safetensors.index.json").write_text(json.dumps({"weight_map": many}))
    with pytest.warns(WscoreWarning, match="excluded"):
        zoo = read_zoo("folder", tmp_path / "in")
    assert list(zoo.table["model_id"]) == ["good/model"]
    reasons = excluded()
    assert reasons["many/model.safetensors.index.json"] == "too_large"
    assert reasons["torn/model.safetensors.index.json"] == "file_missing"
    assert reasons["lone/model-00001-of-00002.safetensors"] == "no_checkpoint"
    assert reasons["short/model.safetensors.index.json"] == "file_missing"
    assert reasons["outside/model.safetensors.index.json"] == "outside"
    assert reasons["bad/model.safetensors.index.json"] == "unreadable"


def test_slices_of_deepspeed_are_no_networks(read_zoo, excluded, tmp_path):
    for name in ("a/mp_rank_00_model_states", "b/mp_rank_00_model_states", "b/mp_rank_01_model_states"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"module": state(len(name) + ord(name[0])), "optimizer": None}, tmp_path / "in" / f"{name}.pt")
    torch.save({"optimizer_state_dict": {}}, tmp_path / "in/a/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.warns(WscoreWarning, match="excluded"):
        zoo = read_zoo("folder", tmp_path / "in")
    assert list(zoo.table["model_id"]) == ["a/mp_rank_00_model_states"]
    assert set(excluded().values()) == {"no_checkpoint"}


def test_the_last_network_of_a_trainer_belongs_to_the_run_of_its_steps(read_zoo, tmp_path):
    for number, name in enumerate(("checkpoint-5/model", "checkpoint-10/model", "model")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(state(number), tmp_path / "in" / f"{name}.safetensors")
    zoo = read_zoo("folder", tmp_path / "in")
    assert zoo.table.set_index("model_id")["checkpoint"].to_dict() == {
        "checkpoint-5/model": 0,
        "checkpoint-10/model": 1,
        "model": 2,
    }
    assert zoo.table["run_id"].nunique() == 1


def test_a_folder_for_each_step_is_a_time_in_its_run(read_zoo, tmp_path):
    for run in range(2):
        for step in (500, 1000, 1500):
            place = tmp_path / "in" / f"run{run}" / f"checkpoint-{step}"
            place.mkdir(parents=True)
            save_file(state(100 * run + step), place / "model.safetensors")
    for epoch in (9, 10):
        (tmp_path / "in" / f"epoch_{epoch}").mkdir()
        for name in ("actor", "critic"):
            torch.save(state(len(name) * 100 + epoch), tmp_path / "in" / f"epoch_{epoch}" / f"{name}.pt")
    zoo = read_zoo("folder", tmp_path / "in")
    table = zoo.table.groupby("run_id")["checkpoint"].apply(list).to_dict()
    assert table == {"run0": [500, 1000, 1500], "run1": [500, 1000, 1500], "actor": [9, 10], "critic": [9, 10]}
    assert how_runs_are_told(zoo) == " by their folders (zoo.run_pattern changes this)"


def test_best_and_last_are_copies_of_the_epochs(read_zoo, excluded, tmp_path):
    (tmp_path / "in" / "run").mkdir(parents=True)
    for epoch in (1, 2, 10):
        torch.save(state(epoch), tmp_path / "in" / "run" / f"epoch_{epoch}.pt")
    shutil.copy(tmp_path / "in/run/epoch_2.pt", tmp_path / "in/run/best.pt")
    torch.save(state(0), tmp_path / "in" / "run" / "init.pt")
    torch.save(state(11), tmp_path / "in" / "run" / "last.pt")
    with pytest.warns(WscoreWarning, match="1 duplicate"):
        table = read_zoo("folder", tmp_path / "in").table.sort_values("checkpoint")
    assert list(table["model_id"]) == ["run/init", "run/epoch_1", "run/epoch_2", "run/epoch_10", "run/last"]
    assert excluded() == {"run/best.pt": "duplicate"} or excluded() == {"run/best": "duplicate"}
    assert sorted(["a/best", "a/10", "a/9", "a/init"], key=in_time) == ["a/init", "a/9", "a/10", "a/best"]


def test_several_networks_of_a_file_share_their_split(read_zoo, tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"netG_A": state(0), "netG_B": state(1), "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "in/e.pt")
    torch.save({"net": state(2), "net_ema": state(3)}, tmp_path / "in/f.pt")
    table = read_zoo("folder", tmp_path / "in").table.set_index("model_id")
    assert list(table.index) == ["e#netG_A", "e#netG_B", "f"]
    assert list(table["state_key"]) == ["netG_A", "netG_B", "net"]
    assert table.loc["f", "left_out"] == "net_ema"
    assert table["group"].nunique() == 2
    assert table.loc["e#netG_A", "epoch"] == 3


def test_every_file_is_opened_or_listed(read_zoo, excluded, tmp_path):
    (tmp_path / "in").mkdir()
    torch.save(state(0), tmp_path / "in" / "A.PT")
    torch.save(state(1), tmp_path / "in" / "weights")
    torch.save(state(2), tmp_path / "in" / "b.th")
    policy = io.BytesIO()
    torch.save(state(3), policy)
    with zipfile.ZipFile(tmp_path / "in" / "agent.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", policy.getvalue())
    for name, text in (("README.md", "x"), ("config.json", "{}"), ("log.csv", "a\n"), ("b.csv", "a\n")):
        (tmp_path / "in" / name).write_text(text)
    for name, text in (
        ("l.pt", "version https://git-lfs.github.com/spec/v1\n"),
        ("h.bin", "<!DOCTYPE html>"),
        ("j.pt", "{}"),
        ("g.bin", "GGUF\x03\0\0\0"),
    ):
        (tmp_path / "in" / name).write_text(text)
    with pytest.warns(WscoreWarning, match="4 no_checkpoint"):
        zoo = read_zoo("folder", tmp_path / "in")
    assert set(zoo.table["model_id"]) == {"A", "weights", "b", "agent"}
    assert set(excluded()) == {"l.pt", "h.bin", "j.pt", "g.bin"}
    summary = zoo_statistics(zoo)
    assert (summary["other_files"], summary["other_files_csv"], summary["other_files_md"]) == (4, 2, 1)
    details = (tmp_path / "zoo" / "set_aside.csv").read_text()
    assert all(word in details for word in ("git lfs pull", "HTML page", "JSON text", "GGUF"))
    assert "runs" in read_json(tmp_path / "zoo" / "source.json")


def test_a_name_that_is_no_text_is_listed(read_zoo, excluded, tmp_path):
    (tmp_path / "in").mkdir()
    torch.save(state(0), tmp_path / "in" / "a.pt")
    shutil.copy(tmp_path / "in" / "a.pt", os.fsencode(tmp_path / "in") + b"/\xff.pt")
    folder_fingerprint(tmp_path / "in")
    with pytest.warns(WscoreWarning, match="1 unreadable"):
        zoo = read_zoo("folder", tmp_path / "in")
    assert list(zoo.table["model_id"]) == ["a"]
    assert excluded() == {r"\udcff.pt": "unreadable"}


def test_names_with_escapes_are_shown_escaped(read_zoo, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x1b[31m\n.pt").write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        read_zoo("folder", tmp_path / "in")
    assert "a\\x1b[31m\\n.pt" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_tables_that_nothing_trains_join_no_runs(read_zoo, tmp_path):
    table = torch.sin(torch.arange(20)[:, None] / torch.arange(1, 9)[None])
    (tmp_path / "in").mkdir()
    for seed in range(4):
        torch.save(
            {"pos": table[None], "freq": 10000.0 ** -torch.linspace(0, 1, 64), **state(seed)},
            tmp_path / f"in/{seed}.pt",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_zoo("folder", tmp_path / "in").table["group"].nunique() == 4
    frozen = state(9)["0.weight"]
    for seed in range(4):
        torch.save({**state(seed), "0.weight": frozen}, tmp_path / f"in/{seed}.pt")
    with pytest.warns(WscoreWarning, match=r"4 runs share their split because `0\.weight` is the same"):
        assert read_zoo("folder", tmp_path / "in").table["group"].nunique() == 1
    assert not is_fixed_table("w", frozen.numpy())
    assert not is_fixed_table("w", torch.rand(64).numpy())


def test_large_running_statistics_are_no_weights(read_zoo, tmp_path):
    (tmp_path / "in").mkdir()
    norm = {"1.weight": torch.ones(4), "1.bias": torch.zeros(4), "1.running_mean": torch.zeros(4)}
    torch.save({**state(0), **norm, "1.running_var": torch.full((4,), 900.0)}, tmp_path / "in/a.pt")
    assert len(read_zoo("folder", tmp_path / "in")) == 1
    torch.save({**state(0), "2.bias": torch.full((4,), 900.0)}, tmp_path / "in/a.pt")
    with pytest.raises(DataError, match=r"900 in 2\.bias; zoo\.max_weight is 100"):
        read_zoo("folder", tmp_path / "in")


def test_embeddings_and_tokens_are_no_convolutions(read_zoo, tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"pos_embed": torch.rand(1, 5, 8), "experts": torch.rand(3, 4, 5), **state(0)}, tmp_path / "in/a.pt")
    torch.save({"stem.weight": torch.rand(4, 3, 5), "stem.bias": torch.rand(4), **state(1)}, tmp_path / "in/b.pt")
    assert list(read_zoo("folder", tmp_path / "in").table["has_conv_layers"]) == [False, True]
