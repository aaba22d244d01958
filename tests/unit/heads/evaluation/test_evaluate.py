import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from wscore.config import convert, read_yaml
from wscore.encoder.weight_statistics import statistics_table
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.heads.dataset import HeadData
from wscore.heads.ensemble import Blend, BlendConfig
from wscore.heads.evaluation.config import EvaluateHeadsConfig
from wscore.heads.evaluation.controls import ControlInputs, controls_of, shape_numbers
from wscore.heads.evaluation.evaluate import (
    OURS,
    HeadResults,
    control_inputs,
    evaluate,
    heads_report,
    heads_summary_line,
    one_valued,
    resample,
    shape_leaked_names,
    unseen,
    unseen_report,
)
from wscore.heads.evaluation.tables import heads_tables
from wscore.heads.mlp_head import HeadConfig
from wscore.heads.targets import Targets, fit_binary, fit_continuous, fit_discrete
from wscore.heads.train import HeadsConfig, PropertyHead, target_kind
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[4] / "params.yaml"
CONFIG = EvaluateHeadsConfig(ood=None, bootstrap_samples=20, boosting_iterations=10, seed=0)


def data(count: int = 160) -> HeadData:
    """Networks of which one label is in the shapes, one in the latents, and one is the same in the whole test split."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(count, 4)).astype(np.float32)
    split = np.array(["train"] * 6 + ["validation"] * 2 + ["test"] * 2)[np.arange(count) % 10]
    table = pd.DataFrame(
        {
            "model_id": [f"m{n}" for n in range(count)],
            "run_id": [f"r{n // 2}" for n in range(count)],
            "checkpoint": np.arange(count) % 2,
            "row": np.arange(count),
            "split": split,
            "shape": np.arange(count) // 2 % 2,
            "has_norm": np.arange(count) // 2 % 2 == 1,
            "has_drop": latents[:, 0] > 0,
            "has_rare": (split != "test") & (np.arange(count) % 3 == 0),
            "score": 0.5 + 0.1 * latents[:, 1],
            "lr": np.where(latents[:, 2] > 0.8, 0.0, 10 ** (-2 + latents[:, 2].astype(float))),
            "act": np.where(latents[:, 3] > 0, "relu", "tanh"),
        }
    )
    table.loc[::9, "score"] = math.nan
    return HeadData(latents, table, "e")


def rows(given: HeadData) -> ControlInputs:
    shape = given.table["shape"].to_numpy()
    statistics = np.column_stack([given.latents[:, 1:], shape])
    return ControlInputs(
        given.latents,
        statistics,
        given.latents,
        statistics,
        statistics,
        shape,
        given.latents[:, :2],
        given.latents[:, 2:],
        tuple("abcd"),
    )


def tables_of(results: HeadResults) -> dict[str, pd.DataFrame]:
    return heads_tables(results, resample(results, CONFIG))


def targets_of(task: str, train: pd.DataFrame) -> Targets:
    if task == "patterns":
        return fit_binary(["has_norm", "has_drop", "has_rare"], train, balance=True, weights={}, key="p")
    if task == "accuracy":
        return fit_continuous({"score": "linear"}, train, weights={}, key="a")
    return (
        *fit_continuous({"lr": "log"}, train, weights={}, key="c"),
        *fit_discrete(["act", "shape"], train, balance=True, weights={}, key="d"),
    )


def verdict(task: str, given: HeadData | None = None) -> HeadResults:
    """The verdict on an untrained head."""
    given = given or data()
    targets = targets_of(task, given.part("train").table)
    outputs = {target.name: target.width for target in targets}
    torch.manual_seed(0)
    network = HeadConfig(inputs=4, hidden_dim=3, layers=1, dropout=0.0, outputs=outputs, encoder=None, reader=None)
    kinds = {target.name: target_kind(target) for target in targets}
    model = Blend(BlendConfig(kinds=kinds, network=network, copies=1, forests=()))
    names = {"latent": given.names("latent")}
    return evaluate(PropertyHead(task, model, targets, "e", names, {}), given, rows(given), CONFIG)


def numbers(value: object) -> list[float]:
    return [n for item in value.values() for n in numbers(item)] if isinstance(value, dict) else [value]  # pyright: ignore


@pytest.mark.parametrize("task", ["patterns", "accuracy", "hyperparameters"])
def test_a_report_holds_every_method_and_finite_floats_only(task: str):
    found = heads_report(verdict(task), CONFIG)
    assert {OURS, *controls_of(task)} <= set(found)
    assert all(isinstance(value, float) and math.isfinite(value) for value in numbers(found))
    assert (found["networks"], found["runs"]) == (32, 16)


def test_controls_find_what_they_can():
    found = heads_report(verdict("patterns"), CONFIG)
    assert found["shapes"]["has_norm_f1"] == 1
    assert found["shape_leaked"] == {"has_norm": 1, "has_drop": 0, "has_rare": 0}
    assert found["one_valued"] == {"has_rare": 1}
    assert found["linear_probe"]["has_drop_f1"] > 0.8
    assert found["linear_probe"]["macro_f1_not_shape_leaked"] == found["linear_probe"]["has_drop_f1"]
    assert "has_rare_f1" not in found[OURS]
    accuracy = heads_report(verdict("accuracy"), CONFIG)
    assert accuracy["linear_probe"]["r2"] > 0.99
    assert accuracy["statistics"]["r2"] > accuracy["mean"]["r2"] > -0.2
    assert accuracy["mean"]["kendall_tau"] == 0


def test_the_hyperparameter_report_adds_up():
    found = heads_report(verdict("hyperparameters"), CONFIG)
    ours = found["linear_probe"]
    assert ours["continuous_r2"] == ours["lr_r2"]
    assert ours["discrete_accuracy"] == (ours["act_accuracy"] + ours["shape_accuracy"]) / 2
    assert found["shape_leaked"] == {"act": 0, "shape": 1}
    assert found["mean"]["aggregate"] <= 0.05


def test_intervals_enclose_the_headline_and_are_left_out_when_asked():
    found = heads_report(verdict("accuracy"), CONFIG)
    for name in ("r2", "kendall_tau", "mae"):
        low, value, high = (found["statistics"][f"{name}{end}"] for end in ("_low", "", "_high"))
        assert low <= value <= high
    few = EvaluateHeadsConfig(ood=None, bootstrap_samples=0, boosting_iterations=1, seed=0)
    assert not [name for name in heads_report(verdict("accuracy"), few)[OURS] if name.endswith(("_low", "_high"))]


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("patterns", ("macro_f1", "macro_f1_not_shape_leaked")),
        ("accuracy", ("r2", "kendall_tau", "mae")),
        ("hyperparameters", ("aggregate", "continuous_r2", "discrete_accuracy")),
    ],
)
def test_the_bootstrapped_figure_is_the_reported_one(task: str, names: tuple[str, ...]):
    from wscore.heads.evaluation.evaluate import RESAMPLED, SUMMARIES, resampled_scores

    found = verdict(task)
    once = np.ones((1, len(found.table)))
    for method in (OURS, *controls_of(task)):
        outputs = found.outputs[method]
        drawn = RESAMPLED[task](found, outputs, resampled_scores(found, outputs, once), once)
        summary = SUMMARIES[task](found, found.outputs[method])
        assert set(names) <= set(drawn) == set(summary)
        assert {name: float(drawn[name][0]) for name in drawn} == pytest.approx(summary)


def test_missing_targets_are_not_judged():
    found = verdict("accuracy")
    known = found.table["score"].notna().to_numpy()
    assert not known.all()
    wild = {OURS: {"score": np.where(known[:, None], found.outputs[OURS]["score"], 1e6)}}
    assert heads_report(found, CONFIG) == heads_report(found._replace(outputs={**found.outputs, **wild}), CONFIG)


def test_controls_do_not_see_the_truth_of_the_test_networks():
    given = data()
    first = verdict("accuracy", given)
    changed = given.table.copy()
    changed.loc[changed["split"] == "test", "score"] *= -3
    second = verdict("accuracy", HeadData(given.latents, changed, "e"))
    for name in (OURS, *controls_of("accuracy")):
        assert np.array_equal(first.outputs[name]["score"], second.outputs[name]["score"])


def test_raw_metrics_use_the_true_values_even_below_all_training_values():
    given = data()
    test = given.table.index[given.table["split"] == "test"]
    given.table.loc[test, "lr"] = 1e-9
    (table,) = [tables_of(verdict("hyperparameters", given))["points"]]
    assert set(table["true"]) == {1e-9}


def test_names_that_no_training_network_has_are_counted_and_warned_of():
    given = data()
    given.table.loc[given.table.index[given.table["split"] == "test"][:3], "act"] = "gelu"
    found = verdict("hyperparameters", given)
    assert unseen(found) == {"act": 3}
    with pytest.warns(WscoreWarning, match="act: 3 test networks excluded"):
        assert heads_report(found, CONFIG)["unseen"] == {"act": 3}


def test_a_test_split_that_says_nothing():
    given = data()
    test = given.table["split"] == "test"
    given.table.loc[test, ["score", "lr"]] = 0.25
    given.table.loc[test, ["has_norm", "has_drop"]] = True
    given.table.loc[test, "act"] = "relu"
    given.table.loc[test, "shape"] = 1
    for task in ("patterns", "accuracy", "hyperparameters"):
        found = verdict(task, given)
        assert one_valued(found) == {target.name for target in found.targets}
        assert all(math.isfinite(value) for value in numbers(heads_report(found, CONFIG)))
        assert "nothing to evaluate" in heads_summary_line({task: heads_report(found, CONFIG)})
        assert "roc" not in tables_of(found)


def test_a_head_of_another_encoder_is_refused():
    given = data()
    with pytest.raises(ModelError, match="head for accuracy: reads latents of another encoder; expected e; got f"):
        verdict("accuracy", given._replace(encoder="f"))


def test_an_empty_test_split_is_refused():
    given = data()
    kept = (given.table["split"] != "test").to_numpy()
    with pytest.raises(DataError, match="there is no test network"):
        verdict("accuracy", HeadData(given.latents[kept], given.table[kept], "e"))


def test_sentence():
    found = {
        "accuracy": heads_report(verdict("accuracy"), CONFIG),
        "patterns": heads_report(verdict("patterns"), CONFIG),
    }
    ours, rival = (found["accuracy"][name]["r2"] for name in (OURS, "statistics"))
    assert f"accuracy r2 {ours:.3f} ({rival:.3f}), patterns macro_f1" in heads_summary_line(found)
    found["accuracy"][OURS]["r2"] = rival - 0.1
    assert "; BELOW weight statistics: accuracy" in heads_summary_line(found)


@pytest.mark.parametrize("task", ["patterns", "accuracy", "hyperparameters"])
def test_unseen_widths_are_scored_apart_and_change_nothing_else(task: str):
    with_unseen, without = (
        data(200)._replace(
            table=data(200).table.assign(split=lambda table, name=name: table["split"].where(table.index < 160, name))
        )
        for name in ("unseen", "aside")
    )
    found, plain = verdict(task, with_unseen), verdict(task, without)
    report = heads_report(found, CONFIG)
    assert plain.unseen is None
    assert report == heads_report(plain, CONFIG)
    assert unseen_report(plain, report, CONFIG) == {}
    unseen_widths = unseen_report(found, report, CONFIG)
    assert (unseen_widths["networks"], unseen_widths["runs"]) == (40, 20)
    name = {"patterns": "macro_f1", "accuracy": "r2", "hyperparameters": "aggregate"}[task]
    for method in (OURS, *controls_of(task)):
        scores = unseen_widths[method]
        assert scores["loss"] == pytest.approx(report[method][name] - scores[name])
        assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"]
    line = heads_summary_line({task: report}, {task: unseen_widths})
    assert line.endswith(
        f"on unseen widths: {task} {name} {unseen_widths[OURS][name]:.3f} ({unseen_widths['statistics'][name]:.3f})"
    )


def test_describe_follows_the_order_of_the_table(tiny_zoo):
    zoo = Zoo(tiny_zoo)
    table = zoo.table.assign(row=np.arange(len(zoo)), split="train").iloc[::-2]
    given = HeadData(np.arange(len(table), dtype=np.float32)[:, None], table, "e")
    heads = convert(read_yaml(PARAMS)["heads"], HeadsConfig, where="heads")
    found = control_inputs(zoo, given, heads, CONFIG)
    np.testing.assert_allclose(found.statistics, statistics_table(zoo).values[table["row"]], rtol=1e-4, atol=1e-5)
    layouts = table["layout"].to_numpy()
    assert ((found.shapes[:, None] == found.shapes) == (layouts[:, None] == layouts)).all()
    assert len(set(shape_numbers([zoo.layout(row) for row in range(len(zoo))]))) == 4


def test_tables_hold_what_was_judged():
    found = tables_of(verdict("hyperparameters"))
    assert set(found) == {"scores", "points", "names", "importance"}
    points = found["points"]
    assert len(points) == 32
    assert points["true"].to_numpy() == pytest.approx(data().part("test").table["lr"].to_numpy(), rel=1e-5)
    assert {OURS, *controls_of("hyperparameters")} <= set(points.columns)
    assert found["names"].query("target == 'act'")["true"].tolist() == data().part("test").table["act"].tolist()
    mains = found["scores"].query("main == 1 and method == 'mean'")
    assert list(zip(mains["target"], mains["metric"], strict=True)) == [
        ("lr", "r2"), ("act", "accuracy"), ("shape", "accuracy"),
    ]  # fmt: skip
    roc = tables_of(verdict("patterns"))["roc"]
    assert set(roc["target"]) == {"has_norm", "has_drop"}
    assert np.isfinite(roc.drop(columns=["target", "method"]).to_numpy()).all()
    assert shape_leaked_names(verdict("patterns")) == {"has_norm"}
