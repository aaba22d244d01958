"""Dictionaries trained together are those that each would have become alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from studies.sae_pareto.sweep import Member, train_sweep
from tests.unit.sae.test_train import SMALL, MatrixRows, planted
from wscore.config import load_section, read_yaml
from wscore.errors import ConfigError
from wscore.io import write_json
from wscore.sae.train import SaeConfig

PARAMS = Path(__file__).parents[4] / "params.yaml"


@pytest.fixture
def member(tmp_path: Path):
    def make(name: str, **changes: Any) -> Member:
        path = tmp_path / "params.json"
        write_json(path, {"sae": {**read_yaml(PARAMS)["sae"], **SMALL, "epochs": 3, **changes}})
        return Member(name, load_section(SaeConfig, "sae", path))

    return make


def test_members_do_not_know_of_each_other(member) -> None:
    rows = MatrixRows(planted(300)[0])
    members = [member(name, sparsity=name) for name in ("l1", "hoyer", "topk", "batchtopk", "jumprelu")]
    together = train_sweep(rows, members)
    for one in members:
        alone = train_sweep(rows, [one])[one.name].state_dict()
        for name, tensor in together[one.name].state_dict().items():
            assert torch.equal(tensor, alone[name]), f"{one.name}: {name}"


def test_the_last_weights_are_kept_and_the_threshold_is_calibrated(member) -> None:
    rows = MatrixRows(planted(300)[0])
    model = train_sweep(rows, [member("batchtopk", sparsity="batchtopk", k=2)])["batchtopk"]
    assert (model.encode(rows.values[:240]) > 0).sum() == 2 * 240
    other = train_sweep(rows, [member("batchtopk", sparsity="batchtopk", k=2, epochs=4)])["batchtopk"]
    assert not torch.equal(model.decoder_bias, other.decoder_bias)


def test_members_that_can_not_share_a_loop_are_named(member) -> None:
    rows = MatrixRows(planted(100)[0])
    with pytest.raises(ConfigError, match="batch_size"):
        train_sweep(rows, [member("a"), member("b", batch_size=32)])
    with pytest.raises(ConfigError, match="no member"):
        train_sweep(rows, [])
