"""Networks of others built again by functions that params.yaml names, and whole state dicts with masks and indices."""

import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from wscore.autoencoder.decode_weights import subjects
from wscore.autoencoder.evaluation.evaluate import draw_probe_images
from wscore.autoencoder.training.train import AeConfig, train_autoencoder
from wscore.config import load_section
from wscore.errors import ConfigError, WscoreWarning
from wscore.evaluation.config import EvaluateConfig
from wscore.io import read_json
from wscore.networks.datasets import DataConfig, Tasks, load_tasks
from wscore.networks.factories import build_foreign
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo import buffers as constants
from wscore.zoo.config import ZooConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.store import Zoo
from wscore.zoo.summary import zoo_statistics

PARAMS = Path(__file__).parents[3] / "params.yaml"
MODULE = """
import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, width=4, bend="relu"):
        super().__init__()
        self.register_buffer("index", torch.arange(63, -1, -1))
        self.register_buffer("mask", torch.ones(8, 8, dtype=torch.bool).tril())
        self.body = nn.Linear(64, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 10)
        self.bend = getattr(torch, bend)

    def forward(self, images):
        x = (images * self.mask).flatten(1)[:, self.index]
        return self.head(self.bend(self.norm(self.body(x))))


class Branching(Mixer):
    def forward(self, images):
        return super().forward(images) if float(self.head.bias.sum()) < 1e9 else None


def wide():
    return Mixer(width=5)


def broken():
    raise ValueError("no weights for you")


def number():
    return 3


def pair():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


constant = 3
"""


@pytest.fixture
def others(tmp_path, monkeypatch):
    """The module `othernets` of somebody else, and a folder of 12 of its networks with a table of metadata."""
    for name in ("othernets", "othertrap", "otherbroken"):
        sys.modules.pop(name, None)
    build_foreign.cache_clear()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "othernets.py").write_text(MODULE)
    (tmp_path / "src" / "othertrap.py").write_text("from pathlib import Path\nPath('run').touch()\n")
    (tmp_path / "src" / "otherbroken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.chdir(tmp_path)
    from othernets import Mixer

    rows = []
    for number in range(12):
        torch.manual_seed(number)
        network = Mixer(width=3 + number % 2, bend=("relu", "tanh")[number % 2])
        folder = tmp_path / "in" / f"run{number}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), folder / f"{number}.pt")
        rows.append({
            "file": f"run{number}/{number}.pt", "architecture": "mixer", "width": float(3 + number % 2),
            "bend": ("relu", "tanh")[number % 2], "dataset": "digits",
        })  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "in" / "metadata.csv", index=False)
    return tmp_path / "in"


def data(**factories: str) -> DataConfig:
    plain = load_section(DataConfig, "data", PARAMS)
    return msgspec.structs.replace(plain, max_train=60, max_test=40, factories=factories)


def read(folder: Path, images: DataConfig, **reading) -> Zoo:
    config = load_section(ZooConfig, "zoo", PARAMS)
    reading = msgspec.structs.replace(config.reading, **{"factory_columns": ("width", "bend"), **reading})
    config = msgspec.structs.replace(config, source="folder", path=str(folder), reading=reading)
    fetch_zoo(config, images, Path("zoo"))
    return Zoo(Path("zoo"))


def network_of(name: str, number: int) -> nn.Module:
    network = getattr(sys.modules["othernets"], name)(width=3 + number % 2, bend=("relu", "tanh")[number % 2])
    network.load_state_dict(torch.load(Path("in") / f"run{number}" / f"{number}.pt", weights_only=True))
    return network.eval()


@pytest.mark.parametrize("name", ["Mixer", "Branching"])
def test_networks_of_a_named_factory_are_run(others, name):
    images = data(mixer=f"othernets:{name}")
    zoo, tasks = read(others, images), load_tasks(images)
    assert zoo_statistics(zoo)["networks_buildable"] == 12
    assert set(zoo.table["architecture"]) == {""}
    assert set(zoo.table["architecture_name"]) == {"mixer"}
    arguments = set(zoo.table["factory"])
    assert arguments == {
        json.dumps({"name": "mixer", "arguments": {"width": w, "bend": b}}, separators=(",", ":"), sort_keys=True)
        for w, b in ((3, "relu"), (4, "tanh"))
    }
    shown = draw_probe_images(tasks, load_section(EvaluateConfig, "evaluate", PARAMS))
    for row, kind in enumerate(shown.kinds(zoo.table)):
        number = int(zoo.table["model_id"].iloc[row].rpartition("/")[2])
        with torch.no_grad():
            expected = network_of(name, number)(shown.questions["digits"].images)
        found = shown.logits(kind, zoo.layout(row), zoo.weights([row]))
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


def test_the_behaviour_loss_and_the_agreement_of_networks_of_a_factory(others, tmp_path):
    images = data(mixer="othernets:Mixer")
    zoo, tasks = read(others, images), load_tasks(images)
    cache = cached(zoo)
    config = msgspec.structs.replace(
        load_section(AeConfig, "ae", PARAMS), latent_dim=3, hidden_dim=8, layers=1, epochs=2,
    )  # fmt: skip
    trained = train_autoencoder(cache, config, zoo=zoo, images=tasks)
    rows = pd.DataFrame(trained.history.rows)
    assert np.isfinite(rows["validation_disagreement"]).all()
    assert np.isfinite(rows["train_behaviour"].iloc[-1])  # off in the first epoch, see ae.behaviour.warmup
    group = subjects(cache, zoo, np.arange(len(cache)), tasks)[0]
    weights = torch.from_numpy(zoo.weights(group.rows)).requires_grad_()
    group.answer(weights, tasks.images[0].x_train[None, :5]).square().sum().backward()
    moved = {name: float(weights.grad[:, span].abs().sum()) for name, span in group.layout.slices().items()}
    assert all(value > 0 for value in moved.values()), moved  # running statistics of norms too


def cached(zoo: Zoo) -> TokenCache:
    tokens = msgspec.structs.replace(
        load_section(TokensConfig, "tokens", PARAMS), align="none", test_fraction=0.3, validation_fraction=0.3
    )
    build_cache(zoo, tokens, Path("tokens"))
    return TokenCache(Path("tokens"))


def test_one_factory_for_all_networks(others):
    pd.read_csv(others / "metadata.csv").drop(columns="architecture").to_csv(others / "metadata.csv", index=False)
    zoo = read(others, data(any="othernets:Mixer"), factory="any")
    assert zoo_statistics(zoo)["networks_buildable"] == 12
    assert "architecture_name" not in zoo.table


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("othernets:wide", "othernets:wide fails"),  # takes no arguments
        ("othernets:broken", "othernets:broken fails"),
    ],
)
def test_factories_that_fail_are_named_with_the_network(others, target, reason):
    with pytest.warns(WscoreWarning, match=rf"12 networks can't be built again, see rebuilding\.csv.*{reason}"):
        zoo = read(others, data(mixer=target))
    table = pd.read_csv("zoo/rebuilding.csv")
    assert table["built"].tolist() == [False, False]
    assert zoo_statistics(zoo)["networks_buildable"] == 0


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("othernets:wide", r"body\.weight has the shape \(., 64\), that of the network \(5, 64\)"),
        ("othernets:number", "othernets:number returns no network.*expected nn.Module; got int"),
        ("othernets:pair", "the network has no body.weight"),
    ],
)
def test_weights_that_do_not_fit_are_told_by_name_and_reason(others, target, reason):
    with pytest.warns(WscoreWarning, match=rf"the first is run[0-9]+/[0-9]+: .*{reason}"):
        zoo = read(others, data(mixer=target), factory_columns=())
    tasks = load_tasks(data(mixer=target))
    found = subjects(cached(zoo), zoo, np.arange(len(zoo)), tasks)
    assert all(group.way.answer is None for group in found)
    with pytest.raises(Exception, match="cannot be built and run") as stop:
        train_autoencoder(cached(zoo), load_section(AeConfig, "ae", PARAMS), zoo=zoo, images=tasks)
    assert "ae.behaviour" in str(stop.value)


def test_logits_of_too_few_classes_are_no_answer(others):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).state_dict(), others / "a.pt")
    for path in others.glob("run*/*.pt"):
        path.unlink()
    (others / "metadata.csv").unlink()
    images = data(mixer="othernets:pair")
    zoo = read(others, images, factory="mixer", factory_columns=())
    (kind,) = draw_probe_images(load_tasks(images), load_section(EvaluateConfig, "evaluate", PARAMS)).kinds(zoo.table)
    reason = load_tasks(images).way(kind, zoo.layout(0)).reason
    assert reason == "returns (2, 2) for 2 images of digits, not logits of 10 classes"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere:Net", r"data\.factories\.mixer: cannot be imported; got nowhere:Net: ModuleNotFoundError.*nowhere"),
        ("othernets:nothing", r"data\.factories\.mixer: cannot be imported; got othernets:nothing: AttributeError"),
        ("otherbroken:Net", r"cannot be imported; got otherbroken:Net: .*nothing_of_this_name"),
        ("othernets:constant", r"data\.factories\.mixer: is not a function"),
    ],
)
def test_imports_that_fail_name_key_and_module(others, target, message):
    with pytest.raises(ConfigError, match=message):
        read(others, data(mixer=target))
    assert not Path("zoo").exists()


def test_nothing_is_imported_that_params_do_not_name(others):
    table = pd.read_csv(others / "metadata.csv").drop(columns="architecture")
    named = ["othertrap:anything", '{"name": "othertrap:anything"}', '{"name": "othertrap"}', "__import__('othertrap')"]
    table["factory"] = (named * 3)[: len(table)]
    table.to_csv(others / "metadata.csv", index=False)
    with pytest.warns(WscoreWarning, match="data.factories does not list"):
        zoo = read(others, data(mixer="othernets:Mixer"))
    tasks = Tasks(load_tasks(data()).images, {"mixer": "othernets:Mixer"})
    assert all(group.way.answer is None for group in subjects(cached(zoo), zoo, np.arange(len(zoo)), tasks))
    assert "othertrap" not in sys.modules
    assert not list(Path.cwd().rglob("run"))


def test_the_key_of_one_factory_must_be_known(others):
    with pytest.raises(ConfigError, match=r"zoo\.reading\.factory: unknown factory; expected mixer; got mixr"):
        read(others, data(mixer="othernets:Mixer"), factory="mixr")


@pytest.mark.parametrize("target", ["othernets", "othernets.Mixer", "os:system; x", ":f", "a b:c"])
def test_targets_are_module_and_function(target):
    from wscore.config import convert, read_yaml

    plain = read_yaml(PARAMS)["data"] | {"factories": {"mixer": target}}
    with pytest.raises(ConfigError, match=r"data\.factories"):
        convert(plain, DataConfig, where="data")


def test_masks_and_indices_are_kept_beside_the_weights_and_state_dicts_are_whole(others):
    zoo = read(others, data())
    listed = read_json(Path("zoo/constants.json"))
    assert [entry["networks"] for entry in listed["kept"].values()] == [12]
    (entry,) = listed["kept"].values()
    assert entry["tensors"] == {"index": ["int64", [64]], "mask": ["bool", [8, 8]]}
    assert listed["not_kept"]["networks"] == 0
    assert zoo_statistics(zoo)["networks_with_constants"] == 12
    for row in range(len(zoo)):
        number = int(zoo.table["model_id"].iloc[row].rpartition("/")[2])
        original, again = network_of("Mixer", number).state_dict(), zoo.state_dict(row)
        assert set(again) == set(original)
        assert all(
            torch.equal(again[name], value) and again[name].dtype == value.dtype for name, value in original.items()
        )
        assert not {"index", "mask"} & {spec.name for spec in zoo.layout(row).tensors}


def test_constants_of_a_zoo_that_is_read_again_are_the_same(others):
    zoo = read(others, data())
    config = msgspec.structs.replace(load_section(ZooConfig, "zoo", PARAMS), source="hub", path="zoo")
    fetch_zoo(config, data(), Path("again"))
    again = Zoo(Path("again"))
    assert list(again.table["constants"]) == list(zoo.table["constants"])
    assert all(torch.equal(again.constants(0)[name], value) for name, value in zoo.constants(0).items())


def test_constants_that_are_too_many_are_counted_as_not_kept(others, monkeypatch):
    for number, path in enumerate(sorted(others.glob("run*/*.pt"))):
        state = torch.load(path, weights_only=True)
        torch.save(state | {"index": state["index"].roll(number)}, path)
    monkeypatch.setattr(constants, "MOST", 5)
    zoo = read(others, data())
    listed = read_json(Path("zoo/constants.json"))
    assert len(listed["kept"]) == 5
    assert (listed["not_kept"]["sets"], listed["not_kept"]["networks"]) == (7, 7)
    assert "5 different sets" in listed["not_kept"]["reason"]
    assert sum(bool(zoo.constants(row)) for row in range(len(zoo))) == 5


def test_constants_that_are_too_large_are_counted_as_not_kept(others, monkeypatch):
    monkeypatch.setattr(constants, "LARGEST", 100)
    zoo = read(others, data())
    assert read_json(Path("zoo/constants.json"))["not_kept"]["networks"] == 12
    assert not zoo.constants(0)
