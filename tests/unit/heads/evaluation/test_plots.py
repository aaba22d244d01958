from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wscore.heads.evaluation.controls import CONTROLS
from wscore.heads.evaluation.plots import DRAWINGS, METHODS

rng = np.random.default_rng(0)
RATES = np.array([0.0, 0.5, 1.0])


def points() -> pd.DataFrame:
    true = np.array([0.0, 0.0, 1e-3, 1e-2])
    columns = {name: true * rng.uniform(0.5, 2, 4) for name in METHODS}
    log = pd.DataFrame({"target": "weight_decay", "scale": "log", "true": true, **columns})
    return pd.concat([log, log.assign(target="dropout", scale="linear")], ignore_index=True)


def roc() -> pd.DataFrame:
    curve = {"false_positive_rate": RATES, "true_positive_rate": RATES}
    pairs = [(target, name) for target in "abcde" for name in METHODS]
    return pd.concat([pd.DataFrame({"target": t, "method": m, **curve}) for t, m in pairs], ignore_index=True)


def names() -> pd.DataFrame:
    said = pd.DataFrame({name: ["adam", "adam", "sgd", "lion"] for name in METHODS})
    return said.assign(target="optimizer", true=["adam", "sgd", "sgd", "adamw"])


def scores(main: int = 1) -> pd.DataFrame:
    rows = [(t, m, "f1", rng.uniform(-3, 1), main) for t in ("has_norm", "has_drop") for m in METHODS]
    return pd.DataFrame(rows, columns=["target", "method", "metric", "value", "main"])


def importance() -> pd.DataFrame:
    return pd.DataFrame({"target": ["lr", "lr", "act"], "statistic": ["a", "b", "a"], "share": [0.6, 0.2, 0.9]})


TABLES = {"points": points, "roc": roc, "names": names, "scores": scores, "importance": importance}


def test_every_method_has_a_name():
    assert tuple(METHODS) == ("ours", "informed", *CONTROLS)
    assert set(TABLES) == set(DRAWINGS)


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_table_makes_the_same_picture(name: str, tmp_path: Path):
    table = TABLES[name]()
    for file in ("a.png", "b.png"):
        DRAWINGS[name](table, tmp_path / file)
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nothing_to_judge_is_said(tmp_path: Path):
    DRAWINGS["scores"](scores(main=0), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_zeros_on_a_log_scale_are_drawn(tmp_path: Path):
    table = points().query("target == 'weight_decay'")
    DRAWINGS["points"](table.assign(true=[0.0, 0.0, 0.0, 0.0]), tmp_path / "zeros.png")
    assert (tmp_path / "zeros.png").is_file()
