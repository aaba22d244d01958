"""The self-contained page, without a browser."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wscore.errors import DataError
from wscore.report import page as module
from wscore.report.page import Curves, NetworkMap, Page, Picture, Section, Table, write_page

SCRIPT = "<script>alert(1)</script>"
NAMES = (SCRIPT, "</script><b>x", "mlp & cnn")
COLUMNS = {"accuracy": [0.5, None, float("nan")], "family": ["mlp", SCRIPT, None], "dead": [True, False, True]}


def network_map(**changes):
    values = {"names": NAMES, "x": [0.0, 1.0, 2.0], "y": [3.0, 4.0, float("inf")], "columns": COLUMNS, **changes}
    return NetworkMap(**values)


def written(tmp_path, *, headline=(), sections=(), **changes):
    path = tmp_path / "page.html"
    write_page(path, Page(SCRIPT, "a & b", headline, network_map(**changes), sections))
    return path.read_text(encoding="utf-8")


def content(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def picture(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.fixture(autouse=True)
def no_plotly(monkeypatch):
    monkeypatch.setattr(module, "_library", lambda: "var Plotly = {};")


def test_texts_are_escaped_and_read_back_as_they_were(tmp_path):
    table = Table(SCRIPT, [SCRIPT], [[SCRIPT]])
    text = written(tmp_path, headline=[table], sections=[Section(SCRIPT, SCRIPT, [table])])
    assert SCRIPT not in text
    found = content(text)["map"]
    assert found["names"] == list(NAMES)
    assert [found["columns"][1]["labels"][code] for code in found["columns"][1]["codes"]] == ["mlp", SCRIPT, ""]


def test_columns_are_numbers_or_codes_and_what_is_not_finite_is_empty(tmp_path):
    found = content(written(tmp_path))["map"]
    accuracy, _, dead = found["columns"]
    assert accuracy == {"name": "accuracy", "numbers": [0.5, None, None]}
    assert dead == {"name": "dead", "labels": ["no", "yes"], "codes": [1, 0, 1]}
    assert found["y"] == [3.0, 4.0, None]


def test_runs_join_networks_in_order_and_edges_are_kept(tmp_path):
    found = content(written(tmp_path, runs=["a", "b", "a"], edges=[(2, 0)]))["map"]
    assert found["runs"] == [[0, 2]]
    assert found["edges"] == [[2, 0]]


def test_numbers_are_right_aligned_and_texts_are_not(tmp_path):
    table = Table("", ["a"], [[0.5], ["text"], [True], [None]])
    cells = re.findall(r"<td.*?</td>", written(tmp_path, headline=[table]))
    assert cells == ['<td class="number">0.5</td>', '<td class="word">text</td>', "<td>yes</td>", "<td></td>"]


def test_filters_become_tiles_of_one_picture(tmp_path):
    filters = [np.array([[-1.0, 0.0, 1.0]]), None, np.array([[2.0, np.nan], [0.0, -2.0]])]
    tiles = content(written(tmp_path, filters=filters))["map"]["tiles"]
    sheet = np.asarray(picture(tiles.pop("uri")).convert("RGBA"))
    assert tiles == {"width": 3, "height": 2, "across": 1, "known": [1, 0, 1]}
    assert sheet[0, :, 0].tolist() == [0, 128, 255]
    assert sheet[4:6, :2, 3].tolist() == [[255, 0], [255, 255]]
    assert sheet[5, 1, 0] == 0


def test_curves_lie_in_the_data_and_get_a_place_each(tmp_path):
    curves = [Curves(name, "epoch", "loss", {"train": ([1, 2], [0.5, float("nan")])}) for name in ("a", "b")]
    text = written(tmp_path, sections=[Section("one", curves=curves[:1]), Section("two", curves=curves[1:])])
    assert [item["title"] for item in content(text)["curves"]] == ["a", "b"]
    assert content(text)["curves"][0]["lines"] == [{"name": "train", "x": [1, 2], "y": [0.5, None]}]
    assert text.count('class="chart"') == 2


def test_pictures_are_inside_the_page(tmp_path):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    image.save(tmp_path / "a.png")
    (tmp_path / "b.svg").write_text("<svg/>", encoding="utf-8")
    pictures = [Picture(name, tmp_path / name) for name in ("a.png", "b.svg")]
    png, svg = re.findall(r'<img src="(data:.*?)"', written(tmp_path, sections=[Section("s", pictures=pictures)]))
    assert np.array_equal(np.asarray(picture(png).convert("L")), np.asarray(image))
    assert base64.b64decode(svg.partition(",")[2]) == b"<svg/>"


def test_only_scripts_of_known_hashes_run_and_nothing_is_loaded(tmp_path):
    text = written(tmp_path)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [0.0]}, "lengths differ in the map of networks"),
        ({"columns": {"accuracy": [1]}}, "lengths differ in the map of networks"),
        ({"edges": [(0, 3)]}, "an edge of the map names no network"),
        ({"sections": [Section("s", pictures=[Picture("p", Path("missing.png"))])]}, "missing.png: is no picture"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        written(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_a_page_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_PAGE", 1000)
    with pytest.raises(DataError, match="too large; expected at most 1,000"):
        written(tmp_path)


def test_a_page_without_a_map_or_headline_is_a_page(tmp_path):
    write_page(tmp_path / "page.html", Page("title", "", [], None, []))
    assert "<h1>title</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")
