"""Pictures of forecasts: what is drawn where, and what is said of what lies outside."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wscore.forecasting.evaluation import plots as forecast
from wscore.forecasting.evaluation.plots import draw_bands, draw_layers, draw_predictor_training, draw_skill, split_name


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Keep the figures instead of writing them."""
    kept: list[Figure] = []
    monkeypatch.setattr(forecast, "save", lambda canvas, _: kept.append(canvas))
    return kept


def summary(splits: int, skills: dict[str, float], horizons: tuple[int, ...] = (1, 2, 5)) -> pd.DataFrame:
    rows = [
        {"split": f"split {number}", "horizon": horizon, "method": method, "skill": skill}
        for number in range(splits)
        for horizon in horizons
        for method, skill in skills.items()
    ]
    return pd.DataFrame(rows)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_many_splits_are_drawn_in_rows_with_one_legend(drawn: list[Figure]) -> None:
    draw_skill(summary(7, {"ours": 0.5, "copy_last": 0.0}), Path("skill.png"))
    canvas = drawn[0]
    assert canvas.get_figwidth() < 15
    assert sum(axes.axison for axes in canvas.axes) == 7
    assert [text.get_text() for legend in canvas.legends for text in legend.get_texts()] == ["predictor", "copy last"]
    assert all(axes.get_legend() is None for axes in canvas.axes)


def test_the_far_step_is_not_joined_to_the_others(drawn: list[Figure]) -> None:
    draw_skill(summary(1, {"ours": 0.5}), Path("skill.png"))
    (line,) = [line for line in drawn[0].axes[0].get_lines() if line.get_label() == "predictor"]
    assert np.array_equal(np.asarray(line.get_xdata(), float), [1, 2, np.nan, 5], equal_nan=True)


def test_a_predictor_below_the_panel_is_told(drawn: list[Figure]) -> None:
    for skill in (-667.0, -0.9):
        draw_skill(summary(1, {"ours": skill, "lawa": -900.0}), Path("skill.png"))
    assert [texts(canvas.axes[0]) for canvas in drawn] == [["predictor: down to -667"], []]


def test_bands_are_drawn_beside_what_they_aim_at(drawn: list[Figure]) -> None:
    rows = [("temporal", 1, 0.8, 0.82, 1.5), ("temporal", 2, 0.8, 0.7, 1.2), ("unseen_run", 1, 0.8, 0.6, 1.0)]
    table = pd.DataFrame(rows, columns=pd.Index(["split", "horizon", "aimed", "covered", "width"]))
    draw_bands(table, Path("bands.png"))
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in drawn[0].axes[0].get_lines()}
    assert lines["later in the training runs"].tolist() == [0.82, 0.7]
    assert lines["unseen run, same part"].tolist() == [0.6]
    assert set(lines["aimed at"]) == {0.8}


@pytest.mark.parametrize("known", [True, False])
def test_recorded_runs_are_told_apart_by_data_set_and_optimizer(
    known: bool, drawn: list[Figure], tmp_path: Path
) -> None:
    history = tmp_path / "history.csv"
    history.write_text("epoch,train_loss,validation_loss\n1,2,2\n2,1,1\n", encoding="utf-8")
    runs = [("a", "digits", "sgd"), ("b", "digits", "sgd"), ("c", "digits", "adam"), ("d", "mnist", "sgd")]
    value = 0.5 if known else np.nan
    scores = {"train_loss": value, "test_loss": value, "test_accuracy": value}
    rows = [{"run": run, "dataset": data, "optimizer": name, "epoch": 0.0, **scores} for run, data, name in runs]
    draw_predictor_training(pd.DataFrame(rows), history, tmp_path / "training.png")
    names = [text.get_text() for legend in drawn[0].legends for text in legend.get_texts()]
    assert names == ["digits, sgd", "digits, adam", "mnist, sgd"]
    assert texts(drawn[0].axes[0]) == ([] if known else ["no losses recorded"])
    assert texts(drawn[0].axes[1]) == ([] if known else ["no accuracies recorded"])


def test_training_losses_alone_are_drawn(drawn: list[Figure], tmp_path: Path) -> None:
    """A recording of your own may have no others."""
    history = tmp_path / "history.csv"
    history.write_text("epoch,train_loss,validation_loss\n1,2,2\n2,1,1\n", encoding="utf-8")
    row = {
        "run": "a",
        "dataset": "unknown",
        "optimizer": "sgd",
        "epoch": 0.0,
        "test_loss": np.nan,
        "test_accuracy": np.nan,
    }
    draw_predictor_training(pd.DataFrame([{**row, "train_loss": 0.5}]), history, tmp_path / "training.png")
    assert texts(drawn[0].axes[0]) == []
    assert drawn[0].axes[0].get_yscale() == "log"


@pytest.mark.parametrize("far", [None, 10])
def test_tensors_are_drawn_one_and_the_most_steps_ahead(far: int | None, drawn: list[Figure]) -> None:
    rows = [
        {"split": "temporal", "method": "ours", "horizon": horizon, "tensor": "weight", "skill": -7.0}
        for horizon in (1, 2, 3, 4, 5, far)
        if horizon
    ]
    draw_layers(pd.DataFrame(rows), Path("layers.png"))
    assert [text.get_text() for legend in drawn[0].legends for text in legend.get_texts()] == ["1 ahead", "5 ahead"]
    assert [bar.get_width() for bar in drawn[0].axes[0].patches] == [-1, -1]


def test_sets_of_windows_have_names_to_read() -> None:
    assert split_name("unseen_run") == "unseen run, same part"
    assert split_name("unseen_dataset_adam_all") == "unseen data set, adam, all of it"
    assert split_name("temporal_sgd") == "later in the training runs, sgd"
    assert split_name("something") == "something"
