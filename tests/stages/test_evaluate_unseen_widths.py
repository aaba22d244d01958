"""What not having seen a width costs, on a tiny zoo."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.rate_fidelity import evaluate_unseen_widths as study
from studies.rate_fidelity.unseen_widths import ALL, halves, losses
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.autoencoder.evaluation.evaluate_codec import UNSEEN, rows_of_split
from wscore.config import load_section, read_yaml
from wscore.io import write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
CHANGES = {
    "evaluate_codec": {"ratios": [6], "probe_images": 50, "bootstrap_samples": 20},
    "tokens": {"validation_fraction": 0.2, "test_fraction": 0.2, "unseen_widths": {"mlp": [[7]]}},
}


@pytest.fixture(scope="module")
def workspace(make_tiny_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters, a zoo with an unseen width, its tokens and a codec; don't write into it."""
    folder = tmp_path_factory.mktemp("unseen")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = read_yaml(ROOT / "params.yaml")
        sections = {name: {**params[name], **CHANGES.get(name, {})} for name in ("data", "tokens", "evaluate_codec")}
        write_json(Path("params.yaml"), sections | {"ae": {"compression": 4}})
        zoo = Zoo(make_tiny_zoo(Path("zoo"), families=("mlp",), runs=14, widths=({"mlp": (5,)}, {"mlp": (7,)})))
        build_cache(zoo, load_section(TokensConfig, "tokens"), Path("tokens"))
        tasks = load_tasks(load_section(DataConfig, "data"))
        train = rows_of_split(TokenCache(Path("tokens")), "train")
        WeightCodec.fit(populations_of(zoo, train, tasks), images=8).save(Path("codec"))
    return folder


def test_every_network_of_unseen_widths_is_compared_at_every_ratio(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(workspace)
    out = tmp_path / "results"
    study.main(["--zoo", "zoo", "--tokens", "tokens", "--codec", "codec", "--out", str(out)])
    table = pd.read_csv(out / "losses.csv")
    total = table[table["layout"] == ALL]
    assert list(total["ratio"]) == [4, 6]
    assert set(total["networks"]) == {len(rows_of_split(TokenCache(workspace / "tokens"), UNSEEN))}
    assert set(table["layout"]) == {ALL, "mlp 7"}
    assert set(table["networks"]) == set(total["networks"])
    assert np.allclose(table["loss"], table["agreement_seen"] - table["agreement_unseen"])


def test_no_network_is_coded_by_a_codec_that_saw_its_run(workspace: Path) -> None:
    zoo, cache = Zoo(workspace / "zoo"), TokenCache(workspace / "tokens")
    train, unseen = rows_of_split(cache, "train"), rows_of_split(cache, UNSEEN)
    runs, tested = zoo.table["run_id"].to_numpy(str), []
    for half in halves(zoo, train, unseen, seed=0):
        assert not set(runs[half.fitted]) & set(runs[half.tested])
        assert set(half.fitted) & set(unseen)
        assert set(half.fitted) <= set(train) | set(unseen)
        tested += half.tested.tolist()
    assert sorted(tested) == sorted(unseen.tolist())


def test_a_codec_that_keeps_a_tenth_more_loses_nothing() -> None:
    unseen = pd.DataFrame({
        "model_id": ["a", "b", "c"], "run_id": ["r", "r", "s"], "layout": "mlp 8", "ratio": 10.0, "agreement": [0.5, 0.7, 0.9],
    })  # fmt: skip
    table = losses(unseen, unseen.assign(agreement=unseen["agreement"] - 0.1), samples=20, seed=0)
    assert table["loss"].tolist() == pytest.approx([-0.1, -0.1])
    assert table["loss_high"].tolist() == pytest.approx([-0.1, -0.1])
