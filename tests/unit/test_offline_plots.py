"""The template of `dvc plots show` that needs no network."""

import json
import re
import sys

import pytest

from benchmarks._chromium import Chromium, find_chromium
from wscore.offline_plots import main

SPEC = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": [{"x": 1, "y": 2}]},
        "mark": "point", "encoding": {name: {"field": name, "type": "quantitative"} for name in "xy"}}  # fmt: skip
PLOT = "<div id='plot'></div><script>vegaEmbed('#plot', %s).then(() => { window.drawn = true; });</script>"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("dvc") / "plots.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["offline_plots", "--out", str(path)])
        main()
    return path


def test_the_template_has_the_places_of_dvc_and_loads_nothing(template):
    text = template.read_text(encoding="utf-8")
    assert text.count("{plot_divs}") == 1
    assert "{scripts}" not in text  # DVC's links to libraries
    assert not re.search(r"<(script|link)[^>]*(src|href)=\"(?!data:)", text)


@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")
def test_a_plot_is_drawn_without_the_network(template):
    page = template.with_name("page.html")
    text = template.read_text(encoding="utf-8").replace("{plot_divs}", PLOT % json.dumps(SPEC))
    page.write_text(text.replace("{refresh_tag}", ""), encoding="utf-8")
    with Chromium() as browser:
        browser.open(page)
        browser.wait("window.drawn === true")
        assert browser.evaluate("document.querySelectorAll('#plot svg, #plot canvas').length") > 0
        assert {address for address in browser.requests if not address.startswith("data:")} == {page.as_uri()}
