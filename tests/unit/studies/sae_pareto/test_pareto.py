"""The study of sparsity against fidelity: its members, and how curves are compared."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.sae_pareto.pareto import ParetoConfig, at_levels, pareto_members, pareto_zoo, sentence
from wscore.config import load_section
from wscore.sae.train import SaeConfig
from wscore.zoo.config import ZooConfig

PARAMS = Path(__file__).parents[4] / "params.yaml"
OWN = PARAMS.parent / "studies/sae_pareto/params.yaml"


def test_every_sparsity_has_members_of_equal_size() -> None:
    config = load_section(ParetoConfig, "sae_pareto", OWN)
    members = pareto_members(load_section(SaeConfig, "sae", PARAMS), config)
    assert {one.config.sparsity for one in members} == {"l1", "kl", "hoyer", "topk", "batchtopk", "jumprelu"}
    assert len({one.name for one in members}) == len(members)
    assert {one.config.latent_dim for one in members} == {config.latent_dim}
    assert sorted(one.config.k for one in members if one.config.sparsity == "topk") == sorted(config.k)
    assert sorted(one.config.penalty_weight for one in members if one.config.sparsity == "l1") == sorted(config.l1)


def test_the_networks_differ_in_their_seed_alone() -> None:
    made = pareto_zoo(
        load_section(ZooConfig, "zoo", PARAMS),
        load_section(ParetoConfig, "sae_pareto", OWN),
    )
    assert made.families == ("mlp",)
    assert all(len(set(pair)) == 1 for pair in (made.lr, made.init_scale, made.train_fraction, made.epochs))
    assert len(made.optimizers) == len(made.activations) == made.checkpoints == 1


def test_curves_are_compared_at_equal_l0() -> None:
    table = pd.DataFrame({
        "sparsity": ["topk", "topk", "l1", "l1"], "l0": [4.0, 16.0, 30.0, 10.0], "fvu": [0.2, 0.1, 0.2, 0.6],
    })  # fmt: skip
    found = at_levels(table, "fvu").set_index("l0")
    assert found.loc[8, "topk"] == pytest.approx(0.15)
    assert np.isnan(found.loc[8, "l1"])
    assert 0.2 < found.loc[16, "l1"] < 0.6
    assert "topk at L0 4 (FVU 0.200)" in sentence(table)
