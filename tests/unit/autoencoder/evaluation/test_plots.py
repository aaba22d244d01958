import pandas as pd
import pytest
from matplotlib.colors import to_hex

from wscore.autoencoder.evaluation.plots import (
    NAMES,
    bars,
    draw_agreement_by_family,
    draw_errors,
    draw_rebuilt_accuracy,
    method_columns,
    scatter_accuracy,
)
from wscore.plots.style import figure

ACCURACY = pd.DataFrame(
    {
        "model_id": ["a", "b", "c"], "run_id": ["a", "b", "c"], "checkpoint": [0, 0, 0],
        "family": ["mlp", "cnn", "cnn"], "original": [0.9, 0.5, 0.7],
        "ours": [0.8, 0.5, 0.6], "mean_network": [0.1, 0.2, 0.3],
    }
)  # fmt: skip
AGREEMENT = pd.DataFrame({"family": ["all", "mlp"], "networks": [3, 1], "ours": [0.9, 0.8], "pca": [0.5, 0.4]})
ERRORS = pd.DataFrame({"kind": ["all", "linear"], "ours": [0.5, 0.6], "pca": [5.0, 40.0]})


@pytest.mark.parametrize(
    ("draw", "table"), [(draw_rebuilt_accuracy, ACCURACY), (draw_agreement_by_family, AGREEMENT), (draw_errors, ERRORS)]
)
def test_draws_full_and_empty_tables(tmp_path, draw, table):
    draw(table, tmp_path / "full.png")
    draw(table.iloc[:0], tmp_path / "empty.png")
    full, empty = ((tmp_path / f"{name}.png").read_bytes() for name in ("full", "empty"))
    assert full.startswith(b"\x89PNG")
    assert empty.startswith(b"\x89PNG")
    assert full != empty


def test_scatter_shows_every_network_at_its_place():
    with figure() as (_, (axes,)):
        scatter_accuracy(axes, ACCURACY, "ours")
        points = {tuple(map(float, point)) for part in axes.collections for point in part.get_offsets()}
        assert points == {(0.9, 0.8), (0.5, 0.5), (0.7, 0.6)}
        assert {part.get_label() for part in axes.collections} == {"mlp", "cnn"}


def test_bars_have_the_height_of_the_numbers():
    with figure() as (_, (axes,)):
        bars(axes, AGREEMENT, "family")
        assert [bar.get_height() for bar in axes.patches] == [0.9, 0.8, 0.5, 0.4]
        assert len({to_hex(bar.get_facecolor()) for bar in axes.patches}) == 2
        assert [text.get_text() for text in axes.get_xticklabels()] == ["all", "mlp"]


def test_every_method_has_a_column_and_a_name():
    assert method_columns(ACCURACY) == ["ours", "mean_network"]
    assert method_columns(AGREEMENT) == ["ours", "pca"]
    assert set(method_columns(ACCURACY)) <= set(NAMES)
