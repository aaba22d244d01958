import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from wscore.errors import DataError, WscoreWarning
from wscore.io import hash_folder
from wscore.networks.architectures import build
from wscore.networks.inference import scores
from wscore.zoo import generate
from wscore.zoo.sampling import checkpoint_steps
from wscore.zoo.store import Zoo
from wscore.zoo.training import own_images

COLUMNS = [
    "model_id", "run_id", "checkpoint", "layout", "architecture", "family", "dataset", "activation", "pooling",
    "optimizer", "lr", "momentum", "weight_decay", "dropout", "init_scale", "batch_size", "epochs", "train_fraction",
    "step", "epoch", "n_weights", "train_accuracy", "test_accuracy", "train_loss", "test_loss", "generalization_gap",
    "seed_init", "seed_data", "has_conv_layers", "has_batch_norm", "has_residual", "has_dropout", "state",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def made(zoo_config, few_digits, tmp_path_factory):
    """A generated zoo of 16 runs; don't write into it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert generate.generate_zoo(zoo_config(n_runs=16), few_digits, folder / "zoo") == 0
    return folder / "zoo"


def test_rows_are_whole_and_in_order(made, zoo_config, few_digits):
    zoo = Zoo(made)
    assert list(zoo.table.columns) == COLUMNS
    assert len(zoo) == 32
    assert zoo.table["model_id"].is_unique
    assert list(zoo.table["run_id"].unique()) == [f"run-{n:06d}" for n in range(16)]
    assert list(zoo.table["checkpoint"]) == [0, 1] * 16
    assert not zoo.table.isna().any().any()
    runs = {run.run_id: run for shard in generate.plan_shards(zoo_config(n_runs=16), few_digits) for run in shard.runs}
    for row in zoo.table.itertuples():
        run = runs[row.run_id]
        assert row.step == checkpoint_steps(run.steps, 2)[row.checkpoint]
        assert row.epoch == pytest.approx(row.step / run.steps_per_epoch)
        assert (row.seed_init, row.seed_data, row.lr) == (run.seed_init, run.seed_data, run.lr)
        assert row.generalization_gap == pytest.approx(row.train_accuracy - row.test_accuracy, abs=1e-6)
        assert row.has_dropout == (run.dropout > 0)
    assert (zoo.table.groupby("run_id")["epoch"].max() == zoo.table.groupby("run_id")["epochs"].first()).all()
    assert not Path(".cache").exists()


def test_stored_figures_are_those_of_the_stored_weights(made, zoo_config, few_digits):
    zoo = Zoo(made)
    runs = {run.run_id: run for shard in generate.plan_shards(zoo_config(n_runs=16), few_digits) for run in shard.runs}
    for place, row in enumerate(zoo.table.itertuples()):
        network = build(row.architecture).eval()
        network.load_state_dict(zoo.layout(place).unflatten(torch.from_numpy(zoo.weights([place])[0])))
        own = own_images(runs[row.run_id], few_digits.y_train)
        with torch.no_grad():
            test = scores(network(few_digits.x_test)[None], few_digits.y_test)
            train = scores(network(few_digits.x_train[own])[None], few_digits.y_train[own])
        found = [row.test_accuracy, row.test_loss, row.train_accuracy, row.train_loss]
        assert found == pytest.approx([float(value) for value in (*test, *train)], rel=1e-4, abs=1e-5)


def test_running_statistics_are_those_of_the_training(made):
    zoo = Zoo(made)
    for place in np.flatnonzero(zoo.table["has_batch_norm"]).tolist():
        state = zoo.layout(place).unflatten(torch.from_numpy(zoo.weights([place])[0]))
        running = [value for name, value in state.items() if "running" in name]
        assert running
        assert all((value > 0).all() for name, value in state.items() if "running_var" in name)
        assert all((value != 0).any() for value in running)


def test_two_workers_give_the_bytes_of_one(made, zoo_config, few_digits, monkeypatch):
    monkeypatch.setenv("WSCORE_WORKERS", "2")
    generate.generate_zoo(zoo_config(n_runs=16), few_digits, Path("zoo"))
    assert hash_folder(Path("zoo")) == hash_folder(made)


def test_an_interrupted_generation_goes_on_and_gives_the_same_bytes(made, zoo_config, few_digits, monkeypatch):
    trained, train_shard = [], generate.train_shard

    def train_three(shard, job):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(shard.number)
        return train_shard(shard, job)

    monkeypatch.setattr(generate, "train_shard", train_three)
    with pytest.raises(KeyboardInterrupt):
        generate.generate_zoo(zoo_config(n_runs=16), few_digits, Path("zoo"))
    assert not Path("zoo").exists()
    shards = sorted(Path(".cache").rglob("shard-*.parquet"))
    assert len(shards) == 3
    shards[0].write_bytes(shards[0].read_bytes()[:100])  # a shard cut off by a crash is trained again
    first = set(trained)

    def train_more(shard, job):
        trained.append(shard.number)
        return train_shard(shard, job)

    monkeypatch.setattr(generate, "train_shard", train_more)
    generate.generate_zoo(zoo_config(n_runs=16), few_digits, Path("zoo"))
    assert hash_folder(Path("zoo")) == hash_folder(made)
    assert len(set(trained[3:]) & first) == 1
    assert not list(Path(".cache").rglob("*.parquet"))


def test_other_parameters_images_or_code_do_not_take_up_the_shards(zoo_config, few_digits, monkeypatch):
    first = generate.zoo_identity(zoo_config(), few_digits)
    assert generate.zoo_identity(zoo_config(seed=1), few_digits) != first
    assert generate.zoo_identity(zoo_config(), few_digits._replace(y_test=few_digits.y_test.flip(0))) != first
    monkeypatch.setattr(generate, "CODE", generate.CODE[1:])
    assert generate.zoo_identity(zoo_config(), few_digits) != first


def test_diverged_checkpoints_are_excluded_with_their_count(zoo_config, few_digits):
    config = zoo_config(n_runs=8, lr=(1e-3, 1e30), optimizers=("sgd",), families=("mlp",))
    with pytest.warns(WscoreWarning, match=r"of 16 checkpoints were excluded: .*max_weight=100"):
        count = generate.generate_zoo(config, few_digits, Path("zoo"))
    zoo = Zoo(Path("zoo"))
    assert 0 < count < 16
    assert len(zoo) == 16 - count
    assert all(np.isfinite(weights).all() and np.abs(weights).max() <= 100 for _, weights in zoo.stream())


def test_nothing_left_is_an_error_and_leaves_no_zoo(zoo_config, few_digits):
    with pytest.raises(DataError, match=r"every network diverged.*lower `zoo\.lr`"):
        generate.generate_zoo(zoo_config(max_weight=1e-9, n_runs=2), few_digits, Path("zoo"))
    assert not Path("zoo").exists()


def test_large_zoos_end_in_several_files(zoo_config, few_digits, monkeypatch, made):
    monkeypatch.setattr(generate, "RUNS_PER_PART", 5)
    generate.generate_zoo(zoo_config(n_runs=16), few_digits, Path("zoo"))
    zoo, whole = Zoo(Path("zoo")), Zoo(made)
    assert len(zoo.parts) == 4
    assert list(zoo.table["model_id"]) == list(whole.table["model_id"])
    assert np.allclose(zoo.table["test_loss"], whole.table["test_loss"], rtol=0.05)


def test_pandas_and_datasets_read_it(made, tmp_path, monkeypatch):
    from datasets import load_dataset

    table = pd.read_parquet(made / "rows")
    assert len(table) == 32
    assert [len(weights) for weights in table["weights"]] == list(table["n_weights"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = load_dataset(str(made), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.num_rows == 32
    assert rows[3]["model_id"] == table["model_id"][3]
    assert np.array_equal(np.asarray(rows[3]["weights"], np.float32), table["weights"][3])
