"""The self-contained page in headless Chromium."""

import numpy as np
import pytest

from benchmarks._chromium import Chromium, find_chromium
from wscore.report.page import Curves, NetworkMap, Page, Section, Table, write_page

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")
HOSTILE = "<script>window.hacked = 1</script>"
IMAGE = "</script><img src=x onerror='window.hacked = 2'>"
LISTED = "[...document.querySelectorAll('#chosen tbody tr')].map((row) => row.cells[0].textContent)"
SEARCH = "(element('search').value = %r, search().then(() => 0))"
DRAWN = "performance.getEntriesByName('map').length > 0"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    names = [HOSTILE, IMAGE, *(f"net-{number}" for number in range(8))]
    columns = {"family": [HOSTILE, IMAGE] * 5, "accuracy": np.linspace(0, 1, 10).tolist()}
    numbers = np.arange(10.0)
    filters = [np.ones((3, 3)), *[None] * 9]
    network_map = NetworkMap(names, numbers, numbers % 3, columns, ["a", "b"] * 5, [(0, 1)], filters)
    curves = Curves(HOSTILE, HOSTILE, "loss", {IMAGE: ([1, 2], [2.0, 1.0])})
    page = Page(
        HOSTILE, IMAGE, [Table(IMAGE, [HOSTILE] * 12, [[IMAGE] * 12])], network_map, [Section("s", curves=[curves])]
    )
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_page(file, page)
    return file


@pytest.fixture(scope="module")
def browser(path):
    with Chromium(width=390, dark=True) as opened:
        opened.open(path)
        opened.wait(DRAWN)
        yield opened


def test_markup_in_names_stays_text_and_nothing_is_complained_of_or_loaded(browser, path):
    browser.evaluate(SEARCH % "")
    assert browser.evaluate("window.hacked ?? 0") == 0
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert browser.console == []
    assert browser.requests[0] == path.as_uri()
    assert [address for address in browser.requests[1:] if not address.startswith(("data:", "blob:"))] == []


def test_a_search_lists_the_networks_and_describes_the_first(browser):
    browser.evaluate(SEARCH % "SCRIPT")
    assert browser.evaluate(LISTED) == [HOSTILE, IMAGE]
    assert browser.evaluate("element('details').querySelector('h3').textContent") == HOSTILE
    assert browser.evaluate("Boolean(element('details').querySelector('.tile'))")
    browser.evaluate(SEARCH % "net-7")
    assert browser.evaluate(LISTED) == ["net-7"]


def test_a_number_in_the_list_is_right_aligned(browser):
    browser.evaluate(SEARCH % "net-7")
    assert browser.evaluate("getComputedStyle(document.querySelector('#chosen .number')).textAlign") == "right"


def test_every_colour_and_line_can_be_drawn(browser):
    for number, kinds in ((0, 4), (1, 3)):  # two labels or one scale, and lines, arrows and the ring
        browser.evaluate(f"(element('runs').checked = true, element('colour').selectedIndex = {number}, 0)")
        browser.evaluate(SEARCH % "")
        assert browser.evaluate("element('plot').data.length") == kinds + 1
    assert browser.console == []


def test_nothing_is_wider_than_a_phone_and_the_page_is_dark(browser):
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert browser.evaluate("element('plot')._fullLayout.paper_bgcolor") == "#14171a"
