import itertools

import matplotlib as mpl
import pytest
from matplotlib.colors import to_rgb

from wscore.plots.style import PALETTE, ROLES, colour, figure, label, save, unavailable


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
    assert colour("ours", 5) == colour("ours") == ROLES["ours"]
    assert [colour("some method", number) for number in range(len(PALETTE))] == list(PALETTE)
    luminance = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(to_rgb, PALETTE[:4]))
    assert len(set(PALETTE)) == len(PALETTE)
    assert min(b - a for a, b in itertools.pairwise(luminance)) > 0.02  # also apart in print
