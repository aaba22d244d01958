"""Explanations find what was planted, and nothing where there is nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, norm, spearmanr
from sklearn.metrics import roc_auc_score

from wscore.sae.evaluation.explain import Property, Sample, match_properties, properties, rank_score

RUNS = 120


def make_sample(random: np.random.Generator, *, signal: float) -> Sample:
    """Return runs with latent 0 following `bn`, latent 1 falling with `lr` within each layout, and eighteen of noise."""
    bn, lr, layout = random.integers(0, 2, RUNS), random.random(RUNS), random.integers(0, 3, RUNS)
    activations = random.random((RUNS, 20))
    activations[:, 0] += signal * bn
    activations[:, 1] -= signal * lr - 5 * layout  # the layout hides it
    table = pd.DataFrame({
        "model_id": [f"m{i}" for i in range(RUNS)], "run_id": [f"r{i}" for i in range(RUNS)], "bn": bn.astype(bool),
        "lr": lr, "layout": layout.astype(str), "optimizer": random.choice(["sgd", "adam"], RUNS), "seed_init": 1.0,
    })  # fmt: skip
    return Sample(activations, table, layout)


def test_planted_relations_are_found_and_shuffled_ones_are_not() -> None:
    random = np.random.default_rng(0)
    train, test = (make_sample(random, signal=1.5) for _ in range(2))
    table = match_properties(train, test, np.arange(20), "same_shapes").set_index("latent")
    assert (table.loc[0, "property"], table.loc[1, "property"]) == ("bn", "lr")
    assert table.loc[0, "score"] > 0.9
    assert table.loc[1, "score"] < -0.7
    assert table.loc[[0, 1], "discovered"].all()
    assert table["discovered"].sum() <= 3
    shuffled = [
        match_properties(
            train.shuffled("same_shapes", random),
            test.shuffled("same_shapes", random),
            np.arange(20),
            "same_shapes",
        )
        for _ in range(5)
    ]
    assert np.mean([one["discovered"].sum() for one in shuffled]) < 0.5


def test_shapes_hide_what_is_compared_within_them() -> None:
    random = np.random.default_rng(1)
    sample = make_sample(random, signal=1.5)
    lr = next(one for one in properties(sample.table) if one.name == "lr")
    alike, within = (rank_score(sample.activations, lr, strata) for strata in (np.zeros(RUNS, int), sample.strata))
    assert abs(alike.effect[1]) < 0.5 < abs(within.effect[1])


def test_shuffling_keeps_properties_within_their_shapes() -> None:
    sample = make_sample(np.random.default_rng(2), signal=0.0)
    moved = sample.shuffled("same_shapes", np.random.default_rng(0))
    assert (moved.table["layout"].to_numpy() == sample.table["layout"].to_numpy()).all()
    assert (moved.table["model_id"].to_numpy() != sample.table["model_id"].to_numpy()).mean() > 0.8


@pytest.mark.parametrize("ties", [False, True])
def test_effects_are_auroc_and_spearman(ties: bool) -> None:
    random = np.random.default_rng(3)
    activations = random.random((60, 4))
    if ties:
        activations = np.maximum(activations.round(1) - 0.5, 0)  # mostly zeros, as codes are
    label, number = random.integers(0, 2, 60).astype(float), random.random(60).round(1)
    strata = np.zeros(60, int)
    binary = rank_score(activations, Property("label", True, label), strata)
    ranked = rank_score(activations, Property("number", False, number), strata)
    for latent in range(4):
        assert binary.effect[latent] == pytest.approx(roc_auc_score(label, activations[:, latent]))
        assert ranked.effect[latent] == pytest.approx(spearmanr(number, activations[:, latent]).statistic)
        test = mannwhitneyu(
            activations[label == 1, latent], activations[label == 0, latent], method="asymptotic", use_continuity=False
        )
        assert 2 * norm.sf(abs(binary.z[latent])) == pytest.approx(test.pvalue, rel=1e-6)


def test_unknown_values_are_left_out_and_constant_latents_tell_nothing() -> None:
    activations = np.stack([np.arange(40.0), np.zeros(40)], axis=1)
    values = np.where(np.arange(40) < 20, np.nan, np.arange(40) % 2)
    found = rank_score(activations, Property("half", True, values), np.zeros(40, int))
    assert found.effect[0] == pytest.approx(roc_auc_score(values[20:], activations[20:, 0]))
    assert (found.effect[1], found.z[1]) == (0.5, 0.0)


def test_properties_leave_out_identities_seeds_and_what_hardly_varies() -> None:
    table = make_sample(np.random.default_rng(4), signal=0.0).table.assign(rare=[True] + [False] * (RUNS - 1))
    assert {one.name for one in properties(table)} == {"bn", "lr", "optimizer_sgd", "optimizer_adam"}
