"""What is wrong with networks, and which belong together."""

import numpy as np
import pandas as pd
import pytest
import torch

from wscore.errors import ConfigError, WscoreWarning
from wscore.networks.layout import layout_of
from wscore.zoo.readers.hygiene import SKETCH, defect, is_fixed_table, join_groups, layer_digests, near_pairs, sketch


def state(seed, **changes):
    torch.manual_seed(seed)
    tensors = {"a.weight": torch.randn(8, 10), "a.bias": torch.randn(8), "b.weight": torch.randn(2, 8)}
    return {**tensors, **changes}


LAYOUT = layout_of(state(0))


def save(folder, states):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in states.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / name)
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v, ""),
        (lambda v: np.where(np.arange(v.size) == 3, np.nan, v), "not_finite"),
        (lambda v: np.where(np.arange(v.size) == 3, -101, v), "large_weights"),
        (np.zeros_like, "constant"),
        (lambda v: np.concatenate([np.ones(80), v[80:88], np.zeros(16)]).astype(np.float32), "constant"),
    ],
)
def test_defects_are_named(change, reason):
    vector = change(LAYOUT.flatten(state(0))).astype(np.float32)
    assert defect(LAYOUT, vector, limit=100.0, constant=True)[0] == reason
    if reason == "constant":
        assert defect(LAYOUT, vector, limit=100.0, constant=False) == ("", "")


def test_sketches_keep_distances():
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(3000).astype(np.float32)
    ratios = []
    for _ in range(200):
        step = rng.standard_normal(3000).astype(np.float32)
        step *= 0.01 * np.linalg.norm(vector) / np.linalg.norm(step)
        ratios.append(np.linalg.norm(sketch(vector + step) - sketch(vector)) / 0.01)
    assert np.mean(np.square(ratios)) == pytest.approx(1, abs=0.1)
    assert np.std(np.square(ratios)) == pytest.approx(np.sqrt(2 / SKETCH), rel=0.4)


def test_all_near_pairs_are_found_and_no_others():
    rng = np.random.default_rng(1)
    base = rng.standard_normal((20, 500)).astype(np.float32)
    vectors = np.concatenate([base, base + 5e-4 * rng.standard_normal(base.shape), 1.01 * base]).astype(np.float32)
    sketches = np.stack([sketch(vector) for vector in vectors])
    found = near_pairs(sketches, lambda row: vectors[row], 1e-3, [0.0] * 60)
    assert [pair[:2] for pair in found] == [(row, row + 20) for row in range(20)]
    assert not near_pairs(sketches, lambda row: vectors[row], 0.0, [0.0] * 60)


@pytest.mark.parametrize(("apart", "near"), [(0.9, True), (1.1, False)])
def test_pairs_are_near_up_to_the_distance(apart, near):
    first = np.random.default_rng(2).standard_normal(500).astype(np.float32)
    step = np.random.default_rng(3).standard_normal(500)
    second = first + apart * 1e-3 * np.linalg.norm(first) * (step / np.linalg.norm(step))
    vectors = np.stack([first, second.astype(np.float32)])
    pairs = near_pairs(np.stack([sketch(vector) for vector in vectors]), lambda row: vectors[row], 1e-3, [0.0, 0.0])
    assert bool(pairs) == near


def test_only_large_layers_that_were_trained_have_a_digest():
    assert [text.split()[1] for text in layer_digests(LAYOUT, LAYOUT.flatten(state(0)))] == ["a.weight"]


@pytest.mark.parametrize("step", [0.01, 0.5, 3.0])
def test_sinusoids_of_any_frequency_are_fixed_tables(step):
    assert is_fixed_table("positions", np.sin(step * np.arange(20)[:, None] + np.arange(4)))


def test_columns_that_grow_are_no_fixed_table():
    assert not is_fixed_table("positions", np.exp(0.5 * np.arange(20)[:, None] + np.arange(4)))


def test_groups_are_connected_components():
    runs = ["d", "b", "c", "a", "e", "b"]
    assert join_groups(runs, [("d", "c"), ("c", "b"), ("x", "e")]) == ["b", "b", "b", "a", "e", "b"]


def test_duplicates_are_excluded_and_relatives_share_a_group(read_zoo, excluded, tmp_path):
    base = state(1)
    near = {name: value * (1 + 1e-5 * torch.randn_like(value)) for name, value in base.items()}
    states = {
        "r1/0.pt": base, "r1/1.pt": state(2), "r2/0.pt": base, "r2/1.pt": state(3), "r3/0.pt": near,
        "r4/0.pt": state(4, **{"a.weight": state(3)["a.weight"]}), "r5/0.pt": state(5),
    }  # fmt: skip
    folder = save(tmp_path / "in", states)
    with pytest.warns(WscoreWarning, match="1 duplicate"):
        zoo = read_zoo("folder", folder)
    assert excluded() == {"r2/0": "duplicate"}
    groups = dict(zip(zoo.table["run_id"], zoo.table["group"], strict=True))
    assert groups == {"r1": "r1", "r2": "r1", "r3": "r1", "r4": "r1", "r5": "r5"}
    alone = {"duplicates": "keep", "near_duplicates": "keep", "lineage": False}
    groups = dict(read_zoo("folder", folder, hygiene=alone).table[["run_id", "group"]].to_numpy().tolist())
    assert groups == {"r1": "r1", "r2": "r1", "r3": "r3", "r4": "r4", "r5": "r5"}
    with pytest.warns(WscoreWarning, match="1 near_duplicate"):
        read_zoo("folder", folder, hygiene={"near_duplicates": "exclude"})
    assert excluded()["r3/0"] == "near_duplicate"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_copy_of_lower_precision_shares_the_split(read_zoo, tmp_path, dtype):
    rounded = {name: tensor.to(dtype) for name, tensor in state(1).items()}
    close = {name: (1 + 2e-3) * tensor for name, tensor in state(1).items()}  # of the same precision: another network
    states = {"full/0.pt": state(1), "rounded/0.pt": rounded, "close/0.pt": close, "other/0.pt": state(2)}
    table = read_zoo("folder", save(tmp_path / "in", states)).table.set_index("run_id")
    assert table["group"]["rounded"] == table["group"]["full"] != table["group"]["other"]
    if dtype == torch.float16:
        assert table["group"]["close"] == "close"


def test_constant_layers_and_small_ones_relate_nobody(read_zoo, tmp_path):
    fresh = {"a.weight": torch.zeros(8, 10), "b.weight": torch.ones(2, 8)}
    states = {f"r{n}/0.pt": state(n, **{"a.weight": fresh["a.weight"], "a.bias": torch.zeros(8)}) for n in range(3)}
    assert len(set(read_zoo("folder", save(tmp_path / "in", states)).table["group"])) == 3


def test_metadata_that_is_asked_for_decides(read_zoo, excluded, tmp_path):
    states = {f"acc_0.{n}.pt": state(n) for n in range(1, 4)} | {"x.pt": state(9)}
    hygiene = {"required": ("accuracy",), "minimum": {"accuracy": 0.2}}
    with pytest.warns(WscoreWarning) as caught:
        zoo = read_zoo(
            "folder", save(tmp_path / "in", states), hygiene=hygiene, reading={"name_pattern": "acc_{accuracy:f}"}
        )
    assert "1 of 4 checkpoints don't match zoo.reading.name_pattern" in str(caught[0].message)
    assert "2 excluded" in str(caught[1].message)
    rows = pd.read_csv(tmp_path / "zoo" / "set_aside.csv").set_index("model_id")
    assert rows.loc["x", "detail"] == "accuracy"
    assert list(zoo.table["accuracy"]) == [0.2, 0.3]
    assert excluded() == {"acc_0.1": "below_minimum", "x": "missing_metadata"}


def test_two_copies_of_one_checkpoint_under_other_names_count_once(read_zoo, excluded, tmp_path):
    folder = save(tmp_path / "in", {"r/1.pt": state(1), "r/1.pth": state(2), "r/01.pt": state(3)})
    with pytest.warns(WscoreWarning, match="2 same_checkpoint"):
        read_zoo("folder", folder, run_pattern=r"(?P<run>r)/(?P<checkpoint>\d+)")
    assert set(excluded()) == {"r/1.pt", "r/1.pth"}


def test_a_least_value_of_texts_is_refused(read_zoo, tmp_path):
    folder = save(tmp_path / "in", {"adam.pt": state(1)})
    reading = {"name_pattern": "{optimizer}"}
    with pytest.raises(
        ConfigError, match=r"zoo\.hygiene\.minimum\.optimizer: is no column of numbers; got adam: 'adam'"
    ):
        read_zoo("folder", folder, hygiene={"minimum": {"optimizer": 0.5}}, reading=reading)
