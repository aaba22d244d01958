"""The study of seeds and splits, on a tiny zoo."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.autoencoder_seeds.autoencoder_seeds import main
from studies.autoencoder_seeds.seeds import HEADLINES, SeedsConfig, headline, spread
from wscore.config import convert, load_section, read_yaml
from wscore.errors import ConfigError
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
CHANGES = {
    "autoencoder_seeds": {"seeds": [0, 3], "splits": [5], "networks": 4},
    "ae": {
        "latent_dim": 4, "hidden_dim": 8, "layers": 1, "heads": 2, "epochs": 1, "batch_size": 8, "arch": "mlp",
    },
    "tokens": {"chunk_size": 40, "validation_fraction": 0.2, "test_fraction": 0.3}, "data": {"max_train": 100},
    "evaluate": {"probe_images": 30, "bootstrap_samples": 0},
}  # fmt: skip


def table() -> pd.DataFrame:
    """Agreements 0.8, 0.9, 1.0 of three seeds on split 7, and 0.8, 0.6 of the first seed on splits 7 and 8."""
    rows = [(0, 7, 0.8), (1, 7, 0.9), (2, 7, 1.0), (0, 8, 0.6)]
    return pd.DataFrame(
        [
            {"seed": seed, "split": split, "method": "ours", **dict.fromkeys(HEADLINES, 0.5), "agreement": agreement}
            for seed, split, agreement in rows
        ]
    )


def test_means_and_deviations_by_hand() -> None:
    found = spread(table(), 7).set_index(["method", "metric"]).loc[("ours", "agreement")]
    assert found["seeds_mean"] == pytest.approx(0.9)
    assert found["seeds_sd"] == pytest.approx(0.1)
    assert found["splits_mean"] == pytest.approx(0.7)
    assert found["splits_sd"] == pytest.approx(0.02**0.5)
    assert (found["seeds"], found["splits"]) == (3, 2)
    assert headline(spread(table(), 7)) == "agreement 0.900, sd 0.1000 over 3 seeds, 0.1414 over 2 splits"
    alone = spread(table()[:3], 7)
    assert alone["splits_sd"].isna().all()
    assert headline(alone) == "agreement 0.900, sd 0.1000 over 3 seeds"


def test_every_seed_and_split_is_trained_and_judged_beside_the_controls(
    tmp_path: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml") | read_yaml(ROOT / "studies/autoencoder_seeds/params.yaml")
    Path("params.yaml").write_text(json.dumps({name: {**params[name], **own} for name, own in CHANGES.items()}))
    build_cache(Zoo(tiny_zoo), load_section(TokensConfig, "tokens"), Path("tokens"))
    main(["--zoo", str(tiny_zoo), "--tokens", "tokens", "--splits", "splits", "--out", "results"])
    runs, found = pd.read_csv("results/runs.csv"), pd.read_csv("results/spread.csv")
    assert set(zip(runs["seed"], runs["split"], strict=True)) == {(0, 0), (3, 0), (0, 5)}
    methods = {"ours", "mean_network", "pca", "layout_pca", "noise"}
    for _, part in runs.groupby(["seed", "split"]):
        assert methods <= set(part["method"])
    assert runs[list(HEADLINES)].notna().all(axis=None)
    ours = runs[runs["method"] == "ours"]
    assert ours["r2"].nunique() == 3  # another seed gives another autoencoder
    fixed = found[(found["method"] == "mean_network") & (found["metric"] == "agreement")]
    assert fixed["seeds_sd"].to_list() == [0]  # the same networks, which nothing was trained for
    assert np.isfinite(found["splits_sd"]).all()
    split = TokenCache(Path("splits/split-5")).table["split"].to_numpy()
    assert not np.array_equal(split, TokenCache(Path("tokens")).table["split"].to_numpy())


@pytest.mark.parametrize("changes", [{"seeds": [1]}, {"seeds": [1, 1]}, {"splits": [2, 2]}, {"networks": 0}])
def test_bad_seeds_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"autoencoder_seeds.*{next(iter(changes))}"):
        convert({"seeds": [0, 1], "splits": [], "networks": 8, **changes}, SeedsConfig, where="autoencoder_seeds")
