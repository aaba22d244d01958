"""Marks of early, poor and diverged networks, and zoos of an exact count of networks."""

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.io import hash_folder
from wscore.zoo import generate
from wscore.zoo.config import ZooConfig
from wscore.zoo.store import Zoo
from wscore.zoo.summary import zoo_statistics

WILD = {
    "lr": (0.05, 400.0),
    "optimizers": ("sgd",),
    "families": ("mlp",),
    "epochs": (20, 20),
    "widths": {"mlp": ((12,),)},
}  # some of these runs diverge


pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def wild(zoo_config, few_digits, tmp_path_factory):
    """(kept, excluded): zoos of the same 12 runs, with diverged networks and without."""
    folder = tmp_path_factory.mktemp("wild")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("keep", "exclude"):
            config = zoo_config(n_runs=12, diverged=name, max_weight=8.0, **WILD)
            if name == "keep":
                generate.generate_zoo(config, few_digits, folder / name)
            else:
                with pytest.warns(WscoreWarning, match="excluded"):
                    generate.generate_zoo(config, few_digits, folder / name)
    return Zoo(folder / "keep"), Zoo(folder / "exclude")


def test_networks_are_marked_by_what_became_of_their_run(wild):
    table = wild[0].table
    assert set(table["state"]) == {"early", "trained", "poor", "diverged"}
    last = table["checkpoint"] == table.groupby("run_id")["checkpoint"].transform("max")
    fitted = table["train_accuracy"] >= 0.55  # half of the way from one in ten to all
    sound = table["state"] != "diverged"
    assert (table["state"][sound & ~last] == "early").all()
    assert (table["state"][sound & last & fitted] == "trained").all()
    assert (table["state"][sound & last & ~fitted] == "poor").all()
    beyond = np.array([np.abs(vector).max() > 8.0 for _, vector in wild[0].stream()])
    assert (~sound == (beyond | ~np.isfinite(table[["train_loss", "test_loss"]].to_numpy()).all(1))).all()
    found = zoo_statistics(wild[0])
    assert {state: found[f"networks_{state}"] for state in ("early", "trained", "poor", "diverged")} == {
        state: (table["state"] == state).sum() for state in ("early", "trained", "poor", "diverged")
    }


def test_diverged_networks_are_kept_where_asked_and_the_others_are_the_same(wild):
    kept, without = wild
    sound = kept.table["state"] != "diverged"
    assert list(kept.table["model_id"][sound]) == list(without.table["model_id"])
    assert list(without.excluded()["model_id"]) == list(kept.table["model_id"][~sound])
    assert all(np.isfinite(vector).all() for _, vector in kept.stream())
    rows = np.flatnonzero(sound).tolist()
    for row, (_, vector) in zip(rows, without.stream(), strict=True):
        assert np.array_equal(kept.weights([row])[0], vector)


def small(config: ZooConfig, **changes) -> ZooConfig:
    few = {"epochs": (2, 2), "checkpoints": 3, "train_fraction": (0.4, 0.4)}
    return msgspec.structs.replace(config, **{**few, **changes})


def test_exactly_so_many_networks_are_kept(zoo_config, few_digits, monkeypatch):
    asked = small(zoo_config(families=("mlp",)), n_networks=50, checkpoints=2)
    monkeypatch.setattr(generate, "RUNS_PER_PART", 10)
    with pytest.warns(WscoreWarning, match="excluded"):
        generate.generate_zoo(msgspec.structs.replace(asked, lr=(0.05, 400.0), max_weight=8.0), few_digits, Path("zoo"))
    zoo = Zoo(Path("zoo"))
    assert len(zoo) == 50
    assert zoo.table["model_id"].is_unique
    assert zoo.table["run_id"].nunique() > 25  # further runs stand in for networks that diverged
    assert zoo.table["run_id"].is_monotonic_increasing
    known = set(zoo.table["run_id"])
    assert set(zoo.excluded()["model_id"].str.rpartition("-")[0]) <= {f"run-{n:06d}" for n in range(200)}
    assert max(zoo.excluded()["model_id"].str.rpartition("-")[0]) <= max(known)


def test_the_last_run_gives_its_last_checkpoints_and_all_others_are_whole(zoo_config, few_digits):
    generate.generate_zoo(small(zoo_config(), n_networks=50), few_digits, Path("zoo"))
    generate.generate_zoo(small(zoo_config(), n_runs=17), few_digits, Path("whole"))
    zoo, whole = Zoo(Path("zoo")).table, Zoo(Path("whole")).table
    assert len(whole) == 51
    assert list(zoo["model_id"]) == [name for name in whole["model_id"] if name != "run-000016-0"]
    assert not (Path("zoo") / "set_aside.csv").exists()
    pd.testing.assert_frame_equal(zoo.iloc[:48], whole.iloc[:48])


def test_an_interrupted_zoo_of_so_many_networks_goes_on_to_the_same_bytes(zoo_config, few_digits, monkeypatch):
    monkeypatch.setattr(generate, "GROUP", 4)
    config = small(zoo_config(families=("mlp",)), n_networks=50, lr=(0.05, 400.0), max_weight=8.0)
    with pytest.warns(WscoreWarning, match="excluded"):
        generate.generate_zoo(config, few_digits, Path("once"))
    whole, finished = generate.train_shard, []

    def stop(shard, job):
        if shard.runs[0].number >= 17:  # a further run
            raise KeyboardInterrupt
        finished.append(shard.number)
        return whole(shard, job)

    monkeypatch.setattr(generate, "train_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        generate.generate_zoo(config, few_digits, Path("again"))
    again: list[int] = []
    monkeypatch.setattr(generate, "train_shard", lambda shard, job: again.append(shard.number) or whole(shard, job))
    with pytest.warns(WscoreWarning, match="excluded"):
        generate.generate_zoo(config, few_digits, Path("again"))
    assert finished
    assert not set(finished) & set(again)
    assert hash_folder(Path("once")) == hash_folder(Path("again"))


def test_a_zoo_that_can_t_be_filled_is_refused(zoo_config, few_digits, monkeypatch):
    monkeypatch.setattr(generate, "MOST", 2)
    config = small(zoo_config(families=("mlp",)), n_networks=50, max_weight=1e-9)
    with pytest.raises(DataError, match=r"zoo\.n_networks: too many networks diverge; got 0 of 50 networks kept of 34"):
        generate.generate_zoo(config, few_digits, Path("zoo"))
    assert not Path("zoo").exists()


@pytest.mark.parametrize("count", [49, 100_001, 50.5, "many"])
def test_counts_out_of_range_are_refused(count):
    from wscore.config import convert, read_yaml

    plain = read_yaml(Path(__file__).parents[3] / "params.yaml")["zoo"] | {"n_networks": count}
    with pytest.raises(ConfigError, match=r"zoo\.n_networks"):
        convert(plain, ZooConfig, where="zoo")
