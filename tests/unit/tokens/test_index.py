import numpy as np
import pandas as pd
import pytest
import torch

from wscore.errors import DataError, WscoreWarning
from wscore.networks.architectures import Architecture
from wscore.networks.layout import layout_of
from wscore.tokens.config import TokensConfig
from wscore.tokens.index import cut_windows, make_index, split_rows
from wscore.tokens.tokenizer import Tokenizer
from wscore.zoo.store import Zoo, write_layouts, write_part

SMALL = layout_of({"fc.weight": torch.zeros(2, 3)})
LARGE = layout_of({"fc.weight": torch.zeros(5, 3)})
CONFIG = {
    "granularity": "neuron", "chunk_size": 3, "max_tokens": 3, "align": "none",
    "normalization": "none",
    "unseen_widths": {}, "validation_fraction": 0.3, "test_fraction": 0.3, "seed": 0,
}  # fmt: skip


def write_zoo(folder, *, runs=8, architectures=("",), **columns):
    """A zoo of runs of two checkpoints; networks of two and of five tokens, and the architectures, in turn."""
    layouts = [(SMALL, LARGE)[run % 2] for run in range(runs) for _ in range(2)]
    rows = [
        {"model_id": f"m{run}-{checkpoint}", "run_id": f"r{run}", "checkpoint": checkpoint}
        | {"architecture": architectures[run % len(architectures)]}
        for run in range(runs)
        for checkpoint in range(2)
    ]
    table = pd.DataFrame(rows).assign(layout=[layout.identity for layout in layouts], **columns)
    write_part(folder / "rows" / "part-00000.parquet", table, [np.zeros(layout.size) for layout in layouts])
    write_layouts(folder, [SMALL, LARGE])
    return Zoo(folder)


def perceptron(width):
    return Architecture(
        family="mlp", input=(1, 2, 2), classes=2, widths=(width,), activation="relu", pooling="none"
    ).to_json()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_zoo(tmp_path_factory.mktemp("items") / "zoo")


def index(zoo, **change):
    config = TokensConfig(**CONFIG | change)
    tokenizer = Tokenizer.fit(config.granularity, config.chunk_size, zoo.layouts.values())
    return make_index(zoo, tokenizer, config, split_rows(zoo, config))


@pytest.mark.parametrize(
    ("tokens", "longest", "expected"),
    [
        (5, 5, [(0, 5)]),
        (5, 100, [(0, 5)]),
        (6, 5, [(0, 3), (3, 3)]),
        (7, 3, [(0, 2), (2, 2), (4, 3)]),
        (3, 1, [(0, 1), (1, 1), (2, 1)]),
    ],
)
def test_windows_by_hand(tokens, longest, expected):
    assert cut_windows(tokens, longest) == expected


def test_long_networks_have_several_items(zoo):
    table = index(zoo)
    assert table["model_id"].tolist()[:5] == ["m0-0", "m0-1", "m1-0", "m1-0", "m1-1"]
    assert table["window"].tolist()[:6] == [0, 0, 0, 1, 0, 1]
    assert table["start"].tolist()[:6] == [0, 0, 0, 2, 0, 2]
    assert table["length"].tolist()[:6] == [2, 2, 2, 3, 2, 3]
    assert table["offset"].tolist()[:6] == [0, 2, 4, 6, 9, 11]
    assert table["row"].tolist()[:6] == [0, 1, 2, 2, 3, 3]


def test_a_run_is_in_one_split(zoo):
    table = index(zoo)
    assert (table.groupby("run_id")["split"].nunique() == 1).all()
    assert set(table["split"]) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.001, 0.3), "no run falls in the validation split.*8 runs"),
        ((0.3, 0.001), r"tokens.test_fraction = 0.001: no run falls in the test split"),
        (
            (0.5, 0.499),
            "tokens.validation_fraction = 0.5, tokens.test_fraction = 0.499: no run falls in the train split",
        ),
    ],
)
def test_an_empty_split_is_refused_with_its_fraction(zoo, fractions, message):
    with pytest.raises(DataError, match=message):
        index(zoo, validation_fraction=fractions[0], test_fraction=fractions[1])


def test_unseen_widths_are_a_split_and_the_fractions_count_the_rest(tmp_path):
    zoo = write_zoo(tmp_path / "zoo", runs=60, architectures=[perceptron(3), perceptron(4), perceptron(5), ""])
    config = {"validation_fraction": 0.2, "test_fraction": 0.3}
    runs = index(zoo, unseen_widths={"mlp": [[4], [7]]}, **config).groupby("run_id")["split"].agg(["first", "nunique"])
    assert (runs["nunique"] == 1).all()
    unseen = {f"r{number}" for number in range(1, 60, 4)}
    assert set(runs.index[runs["first"] == "unseen"]) == unseen
    assert runs["first"].value_counts().to_dict() == {"train": 23, "unseen": 15, "test": 13, "validation": 9}
    without = index(zoo, **config).groupby("run_id")["split"].first()
    assert without.value_counts().to_dict() == {"train": 30, "test": 18, "validation": 12}


def test_runs_related_to_unseen_ones_are_unseen(tmp_path):
    groups = np.repeat([f"g{run // 2}" for run in range(60)], 2)
    zoo = write_zoo(tmp_path / "zoo", runs=60, architectures=[perceptron(3)] * 59 + [perceptron(4)], group=groups)
    table = index(zoo, unseen_widths={"mlp": [[4]]})
    assert set(table.loc[table["split"] == "unseen", "run_id"]) == {"r58", "r59"}


def test_few_test_runs_are_warned_of(tmp_path):
    with pytest.warns(WscoreWarning, match="only 9 runs in the test split"):
        index(write_zoo(tmp_path / "few", runs=30))
    index(write_zoo(tmp_path / "enough", runs=32))


def test_a_zoo_of_unseen_widths_alone_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no run falls in the train split.*unseen_widths"):
        index(write_zoo(tmp_path / "zoo", architectures=[perceptron(3)]), unseen_widths={"mlp": [[3]]})
