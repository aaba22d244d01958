"""The study of the codec on a tiny zoo: every method on the same networks at the same bytes, and unseen widths beside them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from studies.codec import codec_study
from studies.codec.evaluate_codec import main
from studies.codec.fetch_other_widths import main as fetch
from studies.codec.plots import FREE, NAMES
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.config import load_section, read_yaml
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
RATIOS = (6.0, 9.0)
CHANGES = {
    "codec_study": {
        "ratios": RATIOS, "runs": 4, "validation_runs": 4, "learning_rates": [0.05, 0.1], "other_runs": 2, "samples": 20,
        "other_widths": {"mlp": [[7]], "cnn": [[3, 4]]},
        "search": {"steps": 2, "batch": 8},
    },
    "data": {},
    "tokens": {"validation_fraction": 0.4, "test_fraction": 0.3},
    "zoo": {"epochs": [1, 1], "checkpoints": 1},
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml") | read_yaml(ROOT / "studies/codec/params.yaml")
    Path("params.yaml").write_text(json.dumps({name: {**params[name], **own} for name, own in CHANGES.items()}))
    zoo = Zoo(tiny_zoo)
    tasks = load_tasks(load_section(DataConfig, "data"))
    WeightCodec.fit(populations_of(zoo, np.arange(len(zoo)), tasks), images=8).save(Path("codec"))
    return tiny_zoo


def run(zoo: Path, other: Path) -> None:
    main(["--zoo", str(zoo), "--codec", "codec", "--other", str(other), "--out", "results"])


def test_every_method_is_compared_on_the_same_networks_at_the_same_bytes(workspace: Path) -> None:
    run(workspace, workspace)
    rows, table = pd.read_csv("results/networks.csv"), pd.read_csv("results/table.csv")
    assert set(table["method"]) == set(NAMES)
    for (ratio, method), part in rows.groupby(["ratio", "method"]):
        assert part["run_id"].is_unique
        assert set(part["model_id"]) == set(rows["model_id"])
        if method not in FREE:
            assert (part["bytes"] <= 4 * part["weights"] / ratio).all(), method
    means = table.set_index(["ratio", "method"])["agreement"]
    assert means[RATIOS[0], "int8"] > 0.9 > means[RATIOS[0], "mean_network"]
    assert set(pd.read_csv("results/unseen_widths.csv")["method"]) == {"single_pass", "plain"}
    facts = json.loads(Path("results/facts.json").read_text())
    assert facts["decoder_bytes"] == sum(path.stat().st_size for path in Path("codec").iterdir())
    text = Path("results/table.md").read_text()
    assert all(f"| {name} |" in text for name in NAMES.values())
    assert Path("results/agreement.png").read_bytes().startswith(b"\x89PNG")


def test_networks_that_are_done_are_not_coded_again_after_an_interruption(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def counted(make: Callable[..., Any], stop: int) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append("group")
            return make(*args)

        return counting

    records = codec_study._records
    monkeypatch.setattr(codec_study, "_records", counted(records, 100))
    run(workspace, workspace)
    groups, whole = len(done), Path("results/networks.csv").read_text()
    shutil.rmtree("results")
    done.clear()
    monkeypatch.setattr(codec_study, "_records", counted(records, 1))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(workspace, workspace)
    assert not Path("results").exists()
    monkeypatch.setattr(codec_study, "_records", counted(records, 100))
    run(workspace, workspace)
    assert len(done) == groups > 1
    assert Path("results/networks.csv").read_text() == whole


@pytest.mark.slow
def test_networks_of_other_widths_are_trained_as_those_of_the_zoo(workspace: Path) -> None:
    fetch(["--out", "other"])
    zoo = Zoo(Path("other"))
    assert {json.loads(text)["family"] for text in zoo.table["architecture"]} == {"mlp", "cnn"}
    assert zoo.table["run_id"].nunique() == 2
