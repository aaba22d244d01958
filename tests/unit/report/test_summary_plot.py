import pandas as pd
import pytest

from wscore.io import write_csv
from wscore.plots.style import figure
from wscore.report.summary_plot import (
    PANELS,
    draw_accuracy,
    draw_compressed,
    draw_forecast,
    draw_headline,
    draw_summary,
)

TABLES = {
    "codec_test/rates.csv": {
        "ratio": [10, 10, 20, 20], "method": ["search", "plain"] * 2, "compression_ratio": [10.1, 10.0, 20.2, 20.1],
        "agreement": [0.9, 0.8, 0.7, 0.5], "agreement_low": [0.8, 0.7, 0.6, 0.4], "agreement_high": [1.0, 0.9, 0.8, 0.6],
    },
    "heads_test/accuracy_points.csv": {
        "target": ["test_accuracy"] * 2, "true": [0.2, 0.9], "ours": [0.3, 0.8], "statistics": [0.2, 0.9],
    },
    "predictor_test/summary.csv": {
        "split": ["temporal"] * 4 + ["unseen_run"], "horizon": [1, 1, 2, 2, 1],
        "method": ["ours", "copy_last", "ours", "copy_last", "ours"], "skill": [0.5, 0.0, 0.4, 0.0, -9.0],
    },
}  # fmt: skip


def write(folder, *left_out):
    for name, table in TABLES.items():
        if name not in left_out:
            write_csv(folder / name, table)
    return folder


def panel(draw, name):
    with figure() as (_, (axes,)):
        draw(axes, pd.DataFrame(TABLES[name]))
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


def test_panels_show_the_numbers():
    bars = panel(draw_headline, "codec_test/rates.csv")
    assert [text.get_text() for text in bars.texts] == ["0.50", "0.70"]  # best on top
    lines = panel(draw_compressed, "codec_test/rates.csv").get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[0.9, 0.7], [0.8, 0.5]]
    assert len(panel(draw_accuracy, "heads_test/accuracy_points.csv").collections) == 2
    lines = panel(draw_forecast, "predictor_test/summary.csv").get_lines()
    ours = next(line for line in lines if line.get_label() == "predictor")
    assert list(ours.get_ydata()) == [0.5, 0.4]  # the split that comes first
