import pytest

from wscore.errors import DataError
from wscore.io import write_csv
from wscore.plots.style import figure
from wscore.plots.training_curves import draw_curves, draw_histories, find_histories, read_history


def write(path, **columns):
    write_csv(path, {"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], "validation_loss": [3.0, 1.5, 2.0]} | columns)
    return path


def test_finds_and_draws_every_history(tmp_path):
    for name in ("autoencoder", "heads/accuracy", "heads/patterns", "predictor"):
        write(tmp_path / name / "history.csv")
    found = find_histories(tmp_path)
    assert list(found) == ["autoencoder", "heads/accuracy", "heads/patterns", "predictor"]
    draw_histories(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_any_history_says_so(tmp_path):
    draw_histories({}, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("columns", "lines", "scale"),
    [
        ({}, 3, "log"),
        ({"train_loss": [1.0, -1.0, -2.0]}, 3, "linear"),
        ({"validation_loss": [None, None, None]}, 2, "linear"),
        ({"validation_loss": [3.0, None, 2.0]}, 3, "linear"),
    ],
)
def test_curves_and_lowest_point(tmp_path, columns, lines, scale):
    with figure() as (_, (axes,)):
        draw_curves(axes, read_history(write(tmp_path / "history.csv", **columns)), "loss")
        assert len(axes.lines) == lines
        assert axes.get_yscale() == scale
        if lines == 3:
            lowest = min(
                value for value in ({"validation_loss": [3.0, 1.5, 2.0]} | columns)["validation_loss"] if value
            )
            assert axes.lines[-1].get_ydata() == [lowest]


def test_another_metric(tmp_path):
    path = write(tmp_path / "history.csv", train_mse=[1, 2, 3], validation_mse=[1, 2, 3])
    assert list(read_history(path, "mse")["validation_mse"]) == [1, 2, 3]


def test_names_a_missing_file_and_a_missing_column(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_history(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="train_mse"):
        read_history(write(tmp_path / "history.csv"), "mse")


def test_a_training_without_validation_has_one_curve(tmp_path):
    write_csv(tmp_path / "history.csv", {"epoch": [1, 2], "train_loss": [2.0, 1.0]})
    with figure() as (_, (axes,)):
        draw_curves(axes, read_history(tmp_path / "history.csv"), "loss")
        assert [line.get_label() for line in axes.lines] == ["train"]
