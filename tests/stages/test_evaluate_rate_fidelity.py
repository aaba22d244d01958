"""The curve of the codec over ratios on a tiny zoo; an interrupted study goes on where it stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from studies.rate_fidelity import evaluate_rate_fidelity as study
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.autoencoder.evaluation.codec_plots import NAMES
from wscore.config import load_section, read_yaml
from wscore.io import write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
RATIOS = [5, 8, 12]
CHANGES = {
    "data": {},
    "tokens": {"validation_fraction": 0.3, "test_fraction": 0.3},
    "evaluate_codec": {"ratios": [8], "probe_images": 50, "search_steps": 3, "bootstrap_samples": 20},
    "rate_fidelity": {"ratios": RATIOS, "networks": 2, "validation_networks": 1, "learning_rates": [0.05, 0.2]},
}


@pytest.fixture(scope="module")
def finished(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters, tokens, a codec and the results of the study; don't write into it."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = read_yaml(ROOT / "params.yaml") | read_yaml(ROOT / "studies/rate_fidelity/params.yaml")
        write_json(Path("params.yaml"), {name: {**params[name], **own} for name, own in CHANGES.items()})
        zoo = Zoo(tiny_zoo)
        build_cache(zoo, load_section(TokensConfig, "tokens"), Path("tokens"))
        rows = np.unique(TokenCache(Path("tokens")).indices("train"))
        tasks = load_tasks(load_section(DataConfig, "data"))
        WeightCodec.fit(populations_of(zoo, rows, tasks), images=8).save(Path("codec"))
        run(tiny_zoo)
    return folder


def run(zoo: Path) -> None:
    study.main(["--zoo", str(zoo), "--tokens", "tokens", "--codec", "codec", "--out", "results"])


def test_every_ratio_has_every_method_and_rates_are_chosen_on_validation_runs(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    rates = pd.read_csv("results/rates.csv")
    assert set(rates["ratio"]) == set(RATIOS)
    assert set(rates["method"]) == set(NAMES)
    scores = pd.read_csv("results/learning_rates.csv")
    assert set(scores["learning_rate"]) == {0.05, 0.2}
    splits = pd.read_parquet("tokens/index.parquet").set_index("model_id")["split"]
    assert set(splits[pd.read_csv("results/networks.csv")["model_id"]]) == {"test"}
    assert set(pd.read_csv("results/bd_rate.csv")["method"]) == {"own_search", "curvature", "plain"}
    assert Path("results/curve.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_study_goes_on_where_it_stopped(
    finished: Path, tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "tokens", "codec"):
        Path(name).symlink_to(finished / name)
    evaluate, done = study.evaluate_codec, []

    def counting(stop: int) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(json.dumps(options))
            return evaluate(*arguments, **options)

        return counted

    monkeypatch.setattr(study, "evaluate_codec", counting(1))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tiny_zoo)
    assert not Path("results").exists()
    monkeypatch.setattr(study, "evaluate_codec", counting(10))
    run(tiny_zoo)
    assert len(done) == 3  # two learning rates, then the test split
    assert Path("results/networks.csv").read_bytes() == (finished / "results/networks.csv").read_bytes()
