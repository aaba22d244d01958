"""Benchmark: the report page with a map of 4,096 networks in headless Chromium.

    python -m benchmarks.report_page [--networks 4096]

Prints milliseconds from the start of loading to the first paint, the dots and the map that can be used, and of one hover,
one step of a pan, another colour and a search. Chromium draws in software here: a browser with a graphics card is faster.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._chromium import Chromium, find_chromium
from wscore.report.page import NetworkMap, Page, write_page

STEPS = 20
FIRST = "performance.getEntriesByType('paint').at(-1).startTime"
DOTS = "performance.getEntriesByName('dots')[0].startTime"
DRAWN = "performance.getEntriesByName('map')[0].startTime"
RECOLOUR = "(async () => { const start = performance.now(); await (%s); return performance.now() - start; })()"
HOVERS = "element('plot').on('plotly_hover', () => { window.hovered = (window.hovered ?? 0) + 1; })"


def make_page(path: Path, count: int) -> int:
    """Write a page with a map of `count` networks of random coordinates; return its bytes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, count))
    columns = {"accuracy": rng.uniform(size=count).tolist(), "family": rng.choice(["cnn", "mlp"], count).tolist()}
    names = [f"run-{number // 4:06d}-{number % 4}" for number in range(count)]
    runs = [name[:-2] for name in names]
    filters = list(rng.normal(size=(count, 8, 71)))
    write_page(path, Page("Benchmark", "", [], NetworkMap(names, x, y, columns, runs, (), filters), []))
    return path.stat().st_size


def hover(browser: Chromium) -> float:
    """Return the mean milliseconds of a move of the mouse over the map."""
    browser.evaluate(HOVERS)
    start = time.perf_counter()
    for step in range(STEPS):
        browser.mouse("mouseMoved", 300 + 15 * step, 400)
        browser.evaluate("new Promise(requestAnimationFrame)")
    return 1000 * (time.perf_counter() - start) / STEPS


def pan(browser: Chromium) -> float:
    """Return the mean milliseconds of a step while the map is dragged."""
    browser.evaluate("Plotly.relayout('plot', {dragmode: 'pan'}).then(() => 0)")
    browser.mouse("mousePressed", 400, 400, button="left", clickCount=1)
    start = time.perf_counter()
    for step in range(STEPS):
        browser.mouse("mouseMoved", 400 + 5 * step, 400, button="left", buttons=1)
        browser.evaluate("new Promise(requestAnimationFrame)")
    passed = time.perf_counter() - start
    browser.mouse("mouseReleased", 500, 400, button="left", clickCount=1)
    return 1000 * passed / STEPS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=4096)
    options = parser.parse_args()
    if find_chromium() is None:
        sys.exit("report_page: Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder, Chromium() as browser:
        size = make_page(Path(folder) / "page.html", options.networks)
        browser.open(Path(folder) / "page.html")
        browser.wait(f"{DRAWN.removesuffix('.startTime')} !== undefined")
        figures = {
            "first paint": browser.evaluate(FIRST), "dots": browser.evaluate(DOTS), "map drawn": browser.evaluate(DRAWN)
        }  # fmt: skip
        figures |= {"hover": hover(browser), "pan": pan(browser)}
        figures["colour"] = browser.evaluate(RECOLOUR % "(element('colour').selectedIndex = 1, drawMap())")
        figures["search"] = browser.evaluate(RECOLOUR % "(element('search').value = 'run-0001', search())")
    print(f"{options.networks} networks, {size / 1e6:.1f} MB")
    for name, value in figures.items():
        print(f"{name:12s} {value:8.0f} ms")


if __name__ == "__main__":
    main()
