"""The study of sparsity against fidelity, on a dozen tiny networks."""

import json
from pathlib import Path

import pandas as pd
import pytest

from studies.sae_pareto.sae_pareto import main
from wscore.config import read_yaml

ROOT = Path(__file__).parents[2]
CHANGES = {
    "sae_pareto": {
        "runs": 48, "width": 4, "run_epochs": 1, "latent_dim": 8, "epochs": 1, "batch_size": 64, "k": [2], "l1": [0.1],
        "kl": [], "hoyer": [],
    },
    "zoo": {}, "data": {"max_train": 100}, "tokens": {}, "sae": {},
    "evaluate": {"probe_images": 30},
}  # fmt: skip


def test_curves_hold_every_sparsity_beside_pca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml") | read_yaml(ROOT / "studies/sae_pareto/params.yaml")
    Path("params.yaml").write_text(json.dumps({name: {**params[name], **own} for name, own in CHANGES.items()}))
    main(["--zoo", "zoo", "--tokens", "tokens", "--out", "results"])
    table = pd.read_csv("results/pareto.csv")
    assert set(table["sparsity"]) == {"l1", "topk", "batchtopk", "jumprelu", "pca"}
    assert table[["l0", "fvu", "accuracy", "agreement"]].notna().all(axis=None)
    assert float(table.loc[table["sparsity"] == "topk", "l0"].iloc[0]) <= 2
    assert list(pd.read_csv("results/fvu.csv")["l0"]) == [4, 8, 16, 32, 64]
    assert Path("results/pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_list_of_data_sets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_yaml(ROOT / "params.yaml") | read_yaml(ROOT / "studies/sae_pareto/params.yaml")
    changes = {**CHANGES, "data": {"dataset": ["digits", "mnist"]}}
    Path("params.yaml").write_text(json.dumps({name: {**params[name], **own} for name, own in changes.items()}))
    with pytest.raises(SystemExit) as stop:
        main(["--zoo", "zoo", "--tokens", "tokens", "--out", "results"])
    assert "data.dataset: is a list; expected one data set" in str(stop.value)
    assert not Path("results").exists()
