"""The stage that evaluates the codec, on a tiny zoo: every method on the same networks, in files of the ratios asked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.evaluate_codec import main
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.autoencoder.evaluation.codec_plots import FREE, NAMES
from wscore.config import load_section, read_yaml
from wscore.errors import WscoreWarning
from wscore.io import hash_folder, read_json, write_json
from wscore.networks.datasets import DataConfig, load_tasks
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
CHANGES = {
    "ae": {"compression": 6},
    "data": {},
    "tokens": {"validation_fraction": 0.2, "test_fraction": 0.4},
    "evaluate_codec": {
        "ratios": [9, 6], "max_networks": 4, "max_unseen": 3, "probe_images": 50, "search_steps": 3, "bootstrap_samples": 20,
    },
}  # fmt: skip


class HeldOutWidths(TokenCache):
    """A cache whose validation split counts as widths that no fit saw."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.table = self.table.replace({"split": {"validation": "unseen"}})


@pytest.fixture(scope="module")
def finished(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters, tokens, a codec and its evaluation `out`; don't write into it."""
    folder = tmp_path_factory.mktemp("codec")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("stages.evaluate_codec.TokenCache", HeldOutWidths)
        params = read_yaml(ROOT / "params.yaml")
        write_json(Path("params.yaml"), {name: {**params[name], **own} for name, own in CHANGES.items()})
        zoo = Zoo(tiny_zoo)
        build_cache(zoo, load_section(TokensConfig, "tokens"), Path("tokens"))
        rows = np.unique(TokenCache(Path("tokens")).indices("train"))
        tasks = load_tasks(load_section(DataConfig, "data"))
        WeightCodec.fit(populations_of(zoo, rows, tasks), images=8).save(Path("codec"))
        run(tiny_zoo)
    return folder


@pytest.fixture
def workspace(finished: Path, tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The zoo; the current folder has parameters, tokens and codec."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.evaluate_codec.TokenCache", HeldOutWidths)
    shutil.copy(finished / "params.yaml", tmp_path)
    for name in ("tokens", "codec"):
        (tmp_path / name).symlink_to(finished / name)
    return tiny_zoo


def run(zoo: Path) -> dict:
    main(["--zoo", str(zoo), "--tokens", "tokens", "--codec", "codec", "--metrics", "out.json", "--plots", "out"])
    return read_json(Path("out.json"))["codec_test"]


def test_every_method_is_compared_on_the_same_networks_at_the_same_bytes(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    report = read_json(Path("out.json"))["codec_test"]
    rows = pd.read_csv("out/networks.csv").query("split == 'test'")
    assert set(rows["method"]) == set(NAMES)
    for (ratio, method), part in rows.groupby(["ratio", "method"]):
        assert set(part["model_id"]) == set(rows["model_id"])
        assert part["model_id"].is_unique
        if method not in FREE:
            assert (part["bytes"] <= 4 * part["weights"] / ratio).all(), method
    assert report["6x"]["int8"]["agreement"] > 0.9 > report["6x"]["mean_network"]["agreement"]
    assert report["6x"]["mean_network"]["r2"] == pytest.approx(0, abs=1e-6)
    assert report["headline"] == 9
    assert read_json(Path("out.json"))["codec_test_of"] == {"codec": hash_folder(Path("codec"))}
    assert report["decoder_bytes"] == sum(path.stat().st_size for path in Path("codec").iterdir())
    assert report["9x"]["search"]["compression_ratio"] == pytest.approx(9, rel=0.03)
    assert {"agreement_low", "agreement_high", "kl", "rank_correlation"} <= set(report["9x"]["single_pass"])
    assert set(report["families"]) == set(rows["family"])
    for name in ("rates", "agreement", "families", "unseen"):
        assert Path(f"out/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_results_do_not_depend_on_the_number_of_workers(
    workspace: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCORE_WORKERS", "2")
    assert run(workspace) == read_json(finished / "out.json")["codec_test"]
    assert Path("out/networks.csv").read_bytes() == (finished / "out/networks.csv").read_bytes()


def test_networks_of_unseen_widths_have_rows_of_their_own(finished: Path) -> None:
    unseen = read_json(finished / "out.json")["codec_test"]["unseen"]
    assert 0 < unseen["networks"] <= 3
    assert set(unseen["9x"]) == {"single_pass", "own_inputs", "search", "own_search", "curvature", "plain", "pays_from"}
    rows = pd.read_csv(finished / "out/unseen.csv")
    assert set(rows["split"]) == {"test", "unseen"}


def test_networks_that_cannot_be_run_have_sizes_and_errors(workspace: Path) -> None:
    zoo = Path(shutil.copytree(workspace, "zoo"))
    for path in (zoo / "rows").glob("*.parquet"):
        pd.read_parquet(path).assign(architecture="").to_parquet(path, index=False)
    with pytest.warns(WscoreWarning, match="only sizes and errors of their weights"):
        report = run(zoo)
    assert report["networks_not_run"] == report["networks"]
    assert set(report["9x"]) == {"pays_from", "single_pass", "plain", "int8", "int4", "mean_network"}
    assert 0 < report["9x"]["single_pass"]["relative_error"] < report["9x"]["mean_network"]["relative_error"]
    assert "agreement" not in report["9x"]["single_pass"]


def test_a_ratio_that_no_file_reaches_has_no_rows(workspace: Path) -> None:
    params = json.loads(Path("params.yaml").read_text())
    params["evaluate_codec"] |= {"ratios": [9, 5000], "max_networks": 1, "max_unseen": 1}
    write_json(Path("params.yaml"), params)
    assert "5000x" not in run(workspace)


def test_learning_rates_of_other_searches_are_refused(workspace: Path) -> None:
    params = json.loads(Path("params.yaml").read_text())
    params["evaluate_codec"]["learning_rates"] = {"search": 0.1}
    write_json(Path("params.yaml"), params)
    with pytest.raises(SystemExit, match="learning_rates"):
        run(workspace)
