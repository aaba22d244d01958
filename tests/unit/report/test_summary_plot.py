import pandas as pd
import pytest

from wscore.io import write_csv
from wscore.plots.style import figure
from wscore.report.summary_plot import PANELS, draw_panel, draw_summary

SCORES = {
    "target": ["a"] * 3 + ["b"] * 2, "method": ["ours", "statistics", "mean", "ours", "statistics"],
    "metric": ["r2"] * 5, "value": [0.9, 0.5, 0.0, 0.7, 0.9], "main": [1] * 5,
}  # fmt: skip
TABLES = {
    "codec_test/rates.csv": {
        "ratio": [10, 10, 20, 20, 20], "method": ["search", "plain", "search", "plain", "int8"],
        "compression_ratio": [10.1, 10.0, 20.2, 20.1, 3.9], "agreement": [0.9, 0.8, 0.7, 0.5, 1.0],
    },
    "heads_test/accuracy_scores.csv": SCORES,
    "heads_test/hyperparameters_scores.csv": SCORES,
    "predictor_test/summary.csv": {
        "split": ["temporal"] * 4 + ["unseen_run"] * 3, "horizon": [1, 1, 2, 2, 1, 1, 1],
        "method": ["ours", "copy_last", "ours", "copy_last", "ours", "copy_last", "truth"],
        "skill": [0.5, 0.0, 0.4, 0.0, -9.0, 0.0, 1.0],
    },
    "sae_test/agreement.csv": {"family": ["all", "mlp"], "networks": [9, 3], "dictionary": [0.6, 0.1], "pca": [0.5, 1.0]},
    "autoencoder_test/agreement.csv": {"family": ["all"], "networks": [9], "ours": [0.6], "pca": [0.7]},
}  # fmt: skip
SHOWN = {
    "codec_test/rates.csv": ["0.50", "0.70", "1.00"],  # at the middle ratio, best on top
    "heads_test/accuracy_scores.csv": ["0.70", "0.80"],  # means over targets, without methods that are 0 by definition
    "predictor_test/summary.csv": ["-9.00", "0.00"],  # on the unseen run, without the true future
    "sae_test/agreement.csv": ["0.50", "0.60"],  # over all families
}
TITLES = {
    "codec_test/rates.csv": "Compress networks: rank 1 of 2",  # int8 is larger
    "predictor_test/summary.csv": "Forecast weights: rank 2 of 2",
    "autoencoder_test/agreement.csv": "Autoencoder: rank 2 of 2",
}


def write(folder, *left_out):
    for name, table in TABLES.items():
        if name not in left_out:
            write_csv(folder / name, table)
    return folder


def panel(name):
    found = next(panel for panel in PANELS if panel.file == name)
    with figure() as (_, (axes,)):
        draw_panel(axes, found, found.read(pd.DataFrame(TABLES[name])))
        return axes


def test_every_panel_has_its_table():
    assert {panel.file for panel in PANELS} == set(TABLES)


def test_draws_the_summary(tmp_path):
    draw_summary(write(tmp_path), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", list(TABLES))
def test_a_missing_file_changes_its_panel_only(tmp_path, monkeypatch, name):
    named = []
    monkeypatch.setattr("wscore.report.summary_plot.unavailable", lambda _, reason: named.append(reason))
    draw_summary(write(tmp_path, name), tmp_path / "a.png")
    assert len(named) == sum(panel.file == name for panel in PANELS)
    assert all(name in reason and "dvc repro evaluate_" in reason for reason in named)


@pytest.mark.parametrize("name", list(SHOWN))
def test_panels_show_the_numbers_best_on_top(name):
    assert [text.get_text() for text in panel(name).texts] == SHOWN[name]


@pytest.mark.parametrize("name", list(TITLES))
def test_titles_rank_ours_among_methods_of_equal_size(name):
    assert panel(name).get_title() == TITLES[name]


def test_panels_come_from_the_one_that_is_won_to_the_one_that_is_lost(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("wscore.report.summary_plot.draw_panel", lambda _, panel, __: drawn.append(panel.title))
    draw_summary(write(tmp_path, "sae_test/agreement.csv"), tmp_path / "a.png")
    assert drawn == [
        "Compress networks",
        "Predict accuracy",
        "Predict training",
        "Forecast weights",
        "Autoencoder",
        "Sparse codes",
    ]
