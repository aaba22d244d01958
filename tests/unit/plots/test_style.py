import itertools

import matplotlib as mpl
import pytest
from matplotlib.colors import to_rgb

from wscore.autoencoder.evaluation import codec_plots
from wscore.autoencoder.evaluation.plots import NAMES
from wscore.forecasting.evaluation.plots import SHOWN as FORECASTS
from wscore.heads.evaluation.plots import SHOWN as HEADS
from wscore.plots.style import HUES, METHODS, PALETTE, ROLES, colour, figure, label, ranked_bars, save, unavailable

SPARSE = ("dictionary", "kind_pca", "top_entries")
PICTURES = (
    tuple(codec_plots.NAMES),
    HEADS,
    FORECASTS,
    tuple(name for name in NAMES if name not in SPARSE),
    (*SPARSE, "pca", "mean_network"),
)


def brightness(name):
    red, green, blue = to_rgb(name)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def draw(path, value=1.0):
    with figure(rows=2, columns=2, title="all") as (canvas, axes):
        axes[0].plot([0, value])
        label(axes[0], title="one", x="x", y="y")
        unavailable(axes[3], "nothing here: run the stage that makes it, and then come back to this very panel")
        save(canvas, path)


def test_writes_a_png_and_the_same_one_again(tmp_path):
    draw(tmp_path / "new" / "a.png")
    draw(tmp_path / "b.png")
    draw(tmp_path / "c.png", value=2.0)
    content = (tmp_path / "new" / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == (tmp_path / "b.png").read_bytes()
    assert content != (tmp_path / "c.png").read_bytes()
    assert b"Matplotlib" not in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "c.png", "new"]


def test_the_style_ends_with_the_figure(tmp_path):
    before = dict(mpl.rcParams)
    draw(tmp_path / "a.png")
    assert dict(mpl.rcParams) == before


def test_a_failed_figure_leaves_nothing(tmp_path):
    with figure() as (canvas, (axes,)):
        axes.set_title("$\\nosuchcommand$")
        with pytest.raises(ValueError, match="nosuchcommand"):
            save(canvas, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_colours_are_fixed_and_differ():
    assert colour("ours", 5) == colour("ours") == HUES["ours"][0]
    assert [colour("some method", number) for number in range(len(PALETTE))] == list(PALETTE)
    luminance = sorted(map(brightness, PALETTE[:4]))
    assert len(set(PALETTE)) == len(PALETTE)
    assert min(b - a for a, b in itertools.pairwise(luminance)) > 0.02  # also apart in print


@pytest.mark.parametrize("hue", list(HUES))
def test_shades_of_a_hue_are_apart_in_print(hue):
    assert min(b - a for a, b in itertools.pairwise(map(brightness, HUES[hue]))) > 0.1


@pytest.mark.parametrize("methods", PICTURES, ids=lambda names: names[0])
def test_no_two_methods_of_a_picture_share_a_colour_and_there_are_few(methods):
    assert len({colour(name) for name in methods}) == len(methods) <= 9
    assert set(methods) <= {*METHODS, *ROLES}


def test_bars_are_sorted_and_labelled_beside_the_name_of_the_method():
    with figure() as (_, (axes,)):
        ranked_bars(axes, {"pca": -2.0, "ours": 0.5, "mean": 0.1}, {"ours": "head"}, lowest=-1.0)
        assert [bar.get_width() for bar in axes.patches] == [-1.0, 0.1, 0.5]
        assert [text.get_text() for text in axes.texts] == ["-2.00", "0.10", "0.50"]
        assert [text.get_text() for text in axes.get_yticklabels()] == ["pca", "mean", "head"]
        assert all(text.xy[0] >= 0 for text in axes.texts)


def test_long_titles_of_narrow_figures_are_broken():
    with figure(title="a title that is wider than one panel of the figure", panel=(2.0, 2.0)) as (canvas, _):
        assert "\n" in canvas.get_suptitle()
