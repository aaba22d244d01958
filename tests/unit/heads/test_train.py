import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from wscore.config import convert, read_yaml
from wscore.encoder.chain_outputs import HYPOTHESES
from wscore.encoder.weight_statistics import FeatureTable
from wscore.errors import ConfigError, DataError, ModelError, WscoreWarning
from wscore.heads.dataset import HeadData, read_head_data
from wscore.heads.ensemble import Blend
from wscore.heads.mlp_head import Head
from wscore.heads.targets import encode_targets
from wscore.heads.train import (
    TASKS,
    Fold,
    HeadsConfig,
    PropertyHead,
    batches,
    build_head,
    fit_targets,
    head_loss,
    load_head,
    predict_properties,
    read,
    save_head,
    train_head,
)
from wscore.io import write_json
from wscore.networks.architectures import Architecture
from wscore.training.batches import TensorBatches
from wscore.training.model_folder import load_model, save_model
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[3] / "params.yaml"
SMALL = {
    "patterns": ["has_norm", "act_relu"],
    "accuracy_target": "score",
    "continuous": {"lr": "log", "wd": "log"},
    "discrete": ["act"],
    "features": "latent",
    "members": ["network"],
    "copies": 1,
    "hidden_dim": 16,
    "layers": 1,
    "dropout": 0.0,
    "epochs": 60,
    "batch_size": 32,
    "lr": 0.01,
    "weight_decay": 0.01,
    "patience": 60,
}


def config(**changes) -> HeadsConfig:
    return convert(read_yaml(PARAMS)["heads"] | SMALL | changes, HeadsConfig, where="heads")


def data(count: int = 240) -> HeadData:
    """Networks whose properties are plain functions of their latents; some properties are missing."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(count, 4)).astype(np.float32)
    table = pd.DataFrame(
        {
            "model_id": [f"m{n}" for n in range(count)],
            "run_id": [f"r{n // 2}" for n in range(count)],
            "checkpoint": np.arange(count) % 2,
            "row": np.arange(count),
            "split": np.where(
                np.arange(count) % 10 < 6, "train", np.where(np.arange(count) % 10 < 8, "validation", "test")
            ),
            "has_norm": latents[:, 0] > 0,
            "act": np.where(latents[:, 1] > 0.4, "relu", np.where(latents[:, 1] < -0.4, "gelu", "tanh")),
            "score": 0.5 + 0.2 * latents[:, 2],
            "lr": 10 ** (-2 + latents[:, 3].astype(float)),
            "wd": np.where(latents[:, 0] > 0, 0.0, 10 ** (-3 + 0.5 * latents[:, 1].astype(float))),
        }
    )
    table.loc[::7, ["score", "lr"]] = math.nan
    table.loc[::5, "act"] = None
    return HeadData(latents * 3 + 5, table, "e")


def train(task: str, given: HeadData, **changes) -> PropertyHead:
    return train_head(task, config(**changes), given)[0]


def predicted(task: str, given: HeadData, **changes) -> pd.DataFrame:
    head = train(task, given, **changes)
    return pd.DataFrame(read(head, predict_properties(head, given.part("test"))))


def fold(given: HeadData, task: str, **changes) -> Fold:
    return Fold(given, given.latents, encode_targets(fit_targets(task, config(**changes), given.table), given.table))


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_latents_meet_their_own_metadata_in_any_order(tiny_zoo: Path, tmp_path: Path):
    zoo = Zoo(tiny_zoo)
    order = np.random.default_rng(0).permutation(len(zoo))[:20]
    table = zoo.table.loc[order, ["model_id"]].assign(
        split="train", inside=0.5, latent=[np.full(3, row, np.float32) for row in order]
    )
    table.to_parquet(tmp_path / "representations.parquet")
    write_json(tmp_path / "manifest.json", {"zoo": zoo.identity, "encoder": "e"})
    given = read_head_data(tmp_path, zoo)
    assert given.latents[:, 0].tolist() == given.table["row"].tolist() == order.tolist()
    assert given.table["test_accuracy"].tolist() == zoo.table["test_accuracy"].to_numpy()[order].tolist()
    assert given.latents.dtype == np.float32
    assert given.encoder == "e"


def test_the_shipped_section_loads():
    shipped = convert(read_yaml(PARAMS)["heads"], HeadsConfig, where="heads")
    assert shipped.tasks == tuple(TASKS)


def test_heads_learn_a_trivial_problem():
    given = data()
    test = given.part("test")
    known = test.table["act"].notna().to_numpy()
    labels = predicted("patterns", given)
    assert np.mean(labels["has_norm"].to_numpy() == test.table["has_norm"].to_numpy()) > 0.9
    assert np.mean(labels["act_relu"].to_numpy()[known] == (test.table["act"] == "relu").to_numpy()[known]) > 0.9
    scores = predicted("accuracy", given)["score"].to_numpy()
    truth = 0.5 + 0.2 * (test.latents[:, 2] - 5) / 3
    assert 1 - np.mean((scores - truth) ** 2) / np.var(truth) > 0.95
    found = predicted("hyperparameters", given)
    assert np.corrcoef(np.log10(found["lr"]), test.latents[:, 3])[0, 1] > 0.95
    assert np.mean((found["wd"] == 0).to_numpy() == (test.table["wd"] == 0).to_numpy()) > 0.85
    assert np.mean((found["act"].to_numpy() == test.table["act"].to_numpy())[known]) > 0.8


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_bits(task: str, tmp_path: Path):
    for name in ("a", "b"):
        torch.manual_seed(len(name) + ord(name))  # the caller's generator has no say
        save_head(tmp_path / name, train(task, data(), epochs=3, dropout=0.2))
    save_head(tmp_path / "c", train(task, data(), epochs=3, dropout=0.2, seed=1))
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    assert bits(tmp_path / "a") != bits(tmp_path / "c")


def test_features_in_files_give_the_bits_of_features_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, most in (("memory", 1 << 24), ("files", 0)):
        monkeypatch.setattr("wscore.heads.dataset.HELD", most)
        monkeypatch.setattr("wscore.heads.dataset.ROWS", 100)
        save_head(
            tmp_path / name, train("accuracy", data(), epochs=2, members=["network", "boosting"], boosting_rounds=4)
        )
    assert bits(tmp_path / "memory") == bits(tmp_path / "files")


def test_trees_are_fitted_on_no_more_networks_than_allowed_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wscore.heads.train.BOOSTED", 64)
    options = {"members": ["boosting"], "boosting_rounds": 4}
    with pytest.warns(WscoreWarning, match="at most 64 and 16 of 144 and 48 "):
        few = train("patterns", data(), **options)
    monkeypatch.undo()
    save_head(tmp_path / "few", few)
    save_head(tmp_path / "all", train("patterns", data(), **options))
    assert bits(tmp_path / "few") != bits(tmp_path / "all")


def test_other_splits_and_missing_targets_do_not_reach_the_head(tmp_path: Path):
    """Test rows change nothing, validation rows don't change scales, and what is missing changes nothing."""
    given = data()
    save_head(tmp_path / "a", train("hyperparameters", given, epochs=3))
    changed = given.table.copy()
    test = changed["split"] == "test"
    changed.loc[test, ["lr", "wd"]] = 1e3
    changed.loc[test, "act"] = "swish"
    latents = given.latents.copy()
    latents[test.to_numpy()] = -99.0
    save_head(tmp_path / "b", train("hyperparameters", HeadData(latents, changed, "e"), epochs=3))
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    validation = given.table.copy()
    validation.loc[validation["split"] == "validation", "lr"] *= 50
    assert (
        fit_targets("hyperparameters", config(), given.part("train").table)
        == train("hyperparameters", HeadData(given.latents, validation, "e"), epochs=1).targets
    )


def test_the_input_scaling_is_that_of_the_training_latents():
    given = data()
    model = train("accuracy", given, epochs=1).model.networks[0]
    assert isinstance(model, Head)
    assert model.mean.numpy() == pytest.approx(given.part("train").latents.mean(axis=0), rel=1e-5)
    assert model.std.numpy() == pytest.approx(given.part("train").latents.std(axis=0), rel=1e-5)


def test_values_under_the_mask_change_nothing():
    given = data().part("train")
    targets = fit_targets("hyperparameters", config(), given.table)
    model = build_head(config(), fold(given, "hyperparameters"), targets)
    (latents, values, known), *_ = batches(fold(given, "hyperparameters"), config(), shuffle=False).epoch(1)
    assert not known.all()
    loss = head_loss(targets)
    results = []
    for filling in (0.0, 2.0, math.nan):
        model.zero_grad()
        found = loss(model, (latents, torch.where(known, values, filling), known))
        found["loss"].backward()
        results.append((found, [parameter.grad for parameter in model.parameters()]))
    for found, gradients in results[1:]:
        assert all(torch.equal(found[name], results[0][0][name]) for name in found)
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))  # pyright: ignore


def test_a_row_without_an_accuracy_teaches_the_other_targets():
    given = data().part("train")
    made = batches(fold(given, "hyperparameters"), config(), shuffle=False)
    assert isinstance(made, TensorBatches)
    tensors = made.tensors
    assert len(tensors[0]) == len(given.table)
    assert tensors[2].any(dim=1).all()
    assert not tensors[2].all(dim=1).all()


def test_the_loss_is_the_weighted_mean_over_targets():
    given = data().part("train")
    targets = fit_targets("hyperparameters", config(target_weights={"lr": 3.0, "act": 0.0}), given.table)
    (batch, *_) = batches(fold(given, "hyperparameters"), config(), shuffle=False).epoch(1)
    model = build_head(config(), fold(given, "hyperparameters"), targets)
    found = head_loss(targets)(model, batch)
    expected = (3 * found["loss_lr"] + found["loss_wd"] + 0 * found["loss_act"]) / 3
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_save_and_load(tmp_path: Path):
    head = train("hyperparameters", data(), epochs=2)
    save_head(tmp_path, head)
    loaded = load_head(tmp_path, "hyperparameters")
    assert loaded.targets == head.targets
    assert loaded.task == "hyperparameters"
    some = data().take(np.arange(5))
    for name, values in predict_properties(head, some).items():
        assert np.array_equal(values, predict_properties(loaded, some)[name])
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["encoder"] == loaded.encoder == "e"
    assert saved["targets"][2]["vocabulary"] == ["gelu", "relu", "tanh"]
    assert {"mean", "std", "floor"} <= set(saved["targets"][0])


def test_outputs_are_probabilities():
    head = train("hyperparameters", data(), epochs=1)
    outputs = predict_properties(head, data())
    assert outputs["act"].sum(axis=1) == pytest.approx(1)
    labels = predict_properties(train("patterns", data(), epochs=1), data())["has_norm"]
    assert ((labels > 0) & (labels < 1)).all()


def test_a_folder_of_another_task_or_model_is_refused(tmp_path: Path):
    save_head(tmp_path / "head", train("accuracy", data(), epochs=1))
    with pytest.raises(ModelError, match="no head for this task; expected patterns; got accuracy"):
        load_head(tmp_path / "head", "patterns")
    save_model(tmp_path / "bare", load_model(tmp_path / "head", Blend))
    with pytest.raises(ModelError, match="no head for this task; expected a head; got Blend"):
        load_head(tmp_path / "bare")
    with pytest.raises(ModelError, match="no model here"):
        load_head(tmp_path / "nothing")
    path = tmp_path / "head" / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"scale": "linear"', '"scale": "cubic"'))
    with pytest.raises(ModelError, match=r"config.json.targets\[0\].scale"):
        load_head(tmp_path / "head")
    path.write_text(text.replace('"name": "score"', '"name": "other"'))
    with pytest.raises(ModelError, match="outputs and targets differ"):
        load_head(tmp_path / "head")


def test_latents_of_another_encoder_are_refused():
    other = data()._replace(latents=np.zeros((240, 5), np.float32))
    with pytest.raises(ModelError, match=r"'latent' do not match the head; expected 4 numbers.*got 5, of which 4"):
        predict_properties(train("accuracy", data(), epochs=1), other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "latent+gradients"}, "not a valid choice of features"),
        ({"features": "tokens", "members": ["boosting"]}, "features tokens need network"),
        ({"features": "tokens", "members": ["network", "boosting"]}, "boosting has no input features"),
        ({"mode": "finetune", "features": "statistics"}, "finetune needs latent"),
        ({"accuracy_scale": "cubic"}, "heads.accuracy_scale"),
        ({"coverage": 1.0}, "heads.coverage"),
        ({"tasks": ["patterns", "depth"]}, r"heads.tasks\[1\]"),
        ({"tasks": []}, "heads.tasks"),
        ({"patterns": ["has_norm", "has_norm"]}, "named twice under patterns: has_norm"),
        ({"continuous": {"lr": "log"}, "discrete": ["lr"]}, "named twice under continuous and discrete: lr"),
        ({"continuous": {"lr": "cubic"}}, "heads.continuous"),
        ({"target_weights": {"momentum": 2.0}}, "target_weights names no target: momentum"),
        ({"target_weights": {"lr": -1.0}}, "heads.target_weights"),
        ({"continuous": {}, "discrete": []}, "hyperparameters needs a column"),
        ({"layers": -1}, "heads.layers"),
    ],
)
def test_wrong_parameters_are_named(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_unknown_task():
    with pytest.raises(ConfigError, match="--task: unknown task; expected one of patterns, accuracy, hyperparameters"):
        fit_targets("depth", config(), data().table)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("accuracy", {"accuracy_target": "val_acc"}, "heads.accuracy_target: val_acc: the zoo has no column 'val_acc'"),
        ("accuracy", {"accuracy_target": "act"}, "heads.accuracy_target: act: column is not numeric"),
        ("accuracy", {"accuracy_target": "one"}, r"heads.accuracy_target.*one \(only 1.0\)"),
        ("patterns", {"patterns": ["has_conv"]}, "heads.patterns: the zoo has no column for the label 'has_conv'"),
        ("hyperparameters", {"discrete": ["optimizer"]}, "heads.discrete: the zoo has no column 'optimizer'"),
    ],
)
def test_columns_that_cannot_be_learned_are_named(task: str, changes: dict, message: str):
    given = data()
    given.table["one"] = 1.0
    with pytest.raises(DataError, match=message):
        train(task, given, **changes)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused(split: str):
    given = data()
    kept = (given.table["split"] != split).to_numpy()
    with pytest.raises(DataError, match=r"there is no (training|validation) network"):
        train("accuracy", HeadData(given.latents[kept], given.table[kept], "e"))


def data_of_known_architectures() -> HeadData:
    """Networks whose accuracy is an output under one hypothesis, which their architecture decides."""
    plain = data(400)
    rng = np.random.default_rng(1)
    outputs = rng.uniform(size=(400, len(HYPOTHESES))).astype(np.float32)
    pairs = [("relu", "max"), ("tanh", "avg")] * 200
    texts = [
        Architecture(
            family="cnn", input=(1, 8, 8), classes=10, widths=(4, 4), activation=activation, pooling=pooling
        ).to_json()
        for activation, pooling in pairs
    ]
    true = [HYPOTHESES.index(("plain", *pair)) for pair in pairs]
    names = tuple(f"chain.hits.{'.'.join(hypothesis)}" for hypothesis in HYPOTHESES)
    table = plain.table.assign(architecture=texts, score=outputs[np.arange(400), true])
    return plain._replace(table=table, blocks={"probes": FeatureTable(outputs, names)})


def test_a_head_for_the_accuracy_reads_networks_with_and_without_architecture(tmp_path: Path):
    networks = data_of_known_architectures()
    head, _ = train_head("accuracy", config(features="probes", members=["boosting"]), networks)
    save_head(tmp_path / "head", head)
    loaded, test = load_head(tmp_path / "head"), networks.part("test")
    errors = {}
    for informed, rows in ((False, test), (True, test.informed())):
        table = read(loaded, predict_properties(loaded, rows), informed=informed)
        errors[informed] = np.abs(table["score"] - test.table["score"].to_numpy()).mean()
        low, high = table["score_low"], table["score_high"]
        assert ((low <= test.table["score"]) & (test.table["score"] <= high)).mean() > 0.75
    assert errors[True] < 0.5 * errors[False]
    assert loaded.informed == head.informed != head.intervals


def test_only_the_accuracy_is_predicted_with_architectures():
    networks = data_of_known_architectures()
    small = {"features": "latent+probes", "epochs": 1, "members": ["network"]}
    assert not train_head("patterns", config(**small), networks)[0].informed
    unknown = networks._replace(table=networks.table.assign(architecture=None))
    assert not train_head("accuracy", config(**small), unknown)[0].informed
    assert train_head("accuracy", config(**small), networks)[0].informed
