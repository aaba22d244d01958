import numpy as np
import pandas as pd
import pytest
import torch

from wscore.errors import DataError
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
    "validation_fraction": 0.3, "test_fraction": 0.3, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Eight runs of two checkpoints, networks of two and of five tokens in turn."""
    folder = tmp_path_factory.mktemp("items") / "zoo"
    layouts = [(SMALL, LARGE)[run % 2] for run in range(8) for _ in range(2)]
    rows = [
        {"model_id": f"m{run}-{checkpoint}", "run_id": f"r{run}", "checkpoint": checkpoint, "architecture": ""}
        for run in range(8)
        for checkpoint in range(2)
    ]
    table = pd.DataFrame(rows).assign(layout=[layout.identity for layout in layouts])
    write_part(folder / "rows" / "part-00000.parquet", table, [np.zeros(layout.size) for layout in layouts])
    write_layouts(folder, [SMALL, LARGE])
    return Zoo(folder)


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
