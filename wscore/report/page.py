"""Writes one self-contained HTML page: tables, pictures, training curves and a map of networks.

The page loads nothing from any network, which its content security policy enforces: Plotly and all data are inside, and
only scripts of known hashes run. Texts are escaped, so that a network may have any name.

    write_page(path, Page("Survey", "500 networks", [headline], NetworkMap(names, x, y, {"accuracy": accuracies}), []))
"""

import base64
import gzip
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import ArrayLike

from wscore.errors import DataError
from wscore.io import write_text

LARGEST_PAGE = 8_000_000  # bytes
LEVELS = 15  # grey levels of a filter; index 0 of the palette is transparent
COLOURS = 256  # of an embedded picture


class Table(NamedTuple):
    """A table; numbers are right-aligned.

    Attributes:
        caption: text above it.
        columns: its head.
        rows: cells: texts, truth values, numbers, or None for an empty cell.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Picture(NamedTuple):
    """A picture.

    Attributes:
        caption: text above it.
        path: PNG or SVG file.
    """

    caption: str
    path: Path


class Curves(NamedTuple):
    """Lines over a common axis; the vertical axis is logarithmic if all values are positive.

    Attributes:
        title: text above them.
        x_label: name and unit of the horizontal axis.
        y_label: name and unit of the vertical axis.
        lines: x and y values of each line, by name.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]


class Section(NamedTuple):
    """A part of the page under one heading.

    Attributes:
        title: the heading.
        text: a paragraph.
        tables: drawn first.
        curves: drawn next.
        pictures: drawn last.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    curves: Sequence[Curves] = ()
    pictures: Sequence[Picture] = ()


class NetworkMap(NamedTuple):
    """A map with a dot per network; all sequences have its length N, except for `edges`.

    Attributes:
        names: of the networks.
        x: first coordinate.
        y: second coordinate.
        columns: what is known of each network, by name; the first one colours the map at first.
        runs: training run of each network, or None; dots of a run are joined in the given order.
        edges: pairs (ancestor, descendant) of indices, drawn as arrows.
        filters: greyscale image (height, width) of the first layer of each network, or None; NaN is transparent.
        text: how the map was made.
    """

    names: Sequence[str]
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    columns: Mapping[str, Sequence[Any]]
    runs: Sequence[str] | None = None
    edges: Sequence[tuple[int, int]] = ()
    filters: Sequence[np.ndarray | None] | None = None
    text: str = ""


class Page(NamedTuple):
    """The page.

    Attributes:
        title: the heading.
        text: a paragraph below it.
        headline: tables that are shown first.
        network_map: the map, or None.
        sections: all other parts.
    """

    title: str
    text: str
    headline: Sequence[Table]
    network_map: NetworkMap | None
    sections: Sequence[Section]


def write_page(path: Path, page: Page) -> None:
    """Write a page as one HTML file, whole or not at all.

    Raises:
        DataError: if columns of the map have different lengths, a picture is missing, or the page is over 8 MB.
    """
    script, library = _asset("page.js"), _library()
    data: dict[str, Any] = {"curves": [_curves(item) for section in page.sections for item in section.curves]}
    if page.network_map is not None:
        data["map"] = _map(page.network_map)
    text = _template().render(
        page=page,
        style=_asset("page.css"),
        script=script,
        data=_script_json(data),
        library=base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode(),
        hashes=[_hash(script), _hash(library)],
    )
    if len(text.encode()) > LARGEST_PAGE:
        size = f"{len(text.encode()):,} bytes"
        raise DataError(
            "the page is too large",
            where=path,
            expected=f"at most {LARGEST_PAGE:,}",
            got=size,
            fix="show fewer networks",
        )
    write_text(path, text)


def format_cell(value: object) -> str:
    """Return the text of a cell: numbers with four significant digits, nothing for None and NaN.

    >>> [format_cell(value) for value in (0.123456, 4096, 1234567.0, float("nan"), None, True, "mlp")]
    ['0.1235', '4,096', '1,234,567', '', '', 'yes', 'mlp']
    """
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating) and math.isfinite(value):
        return f"{value:,.0f}" if abs(value) >= 1000 and float(value).is_integer() else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def is_number(value: object) -> bool:
    """Return whether a value is a number, but no truth value."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"cell": format_cell, "picture": picture_uri}
    environment.tests["number"] = is_number
    return environment.get_template("page.html")


@cache
def _library() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the hash by which a content security policy admits a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _script_json(value: object) -> str:
    """Return JSON that cannot end the script element around it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _curves(curves: Curves) -> dict[str, Any]:
    lines = [{"name": name, "x": _numbers(x), "y": _numbers(y)} for name, (x, y) in curves.lines.items()]
    return {"title": curves.title, "x": curves.x_label, "y": curves.y_label, "lines": lines}


def _map(network_map: NetworkMap) -> dict[str, Any]:
    _check_lengths(network_map)
    content = {
        "names": [str(name) for name in network_map.names],
        "x": _numbers(network_map.x),
        "y": _numbers(network_map.y),
        "columns": [_column(name, values) for name, values in network_map.columns.items()],
        "runs": _runs(network_map.runs or ()),
        "edges": [[int(parent), int(child)] for parent, child in network_map.edges],
    }
    if network_map.filters and any(image is not None for image in network_map.filters):
        content["tiles"] = _tiles(network_map.filters)
    return content


def _check_lengths(network_map: NetworkMap) -> None:
    count = len(network_map.names)
    parts = {"x": network_map.x, "y": network_map.y, "runs": network_map.runs, "filters": network_map.filters}
    lengths = {name: len(values) for name, values in {**parts, **network_map.columns}.items() if values is not None}
    if set(lengths.values()) - {count}:
        raise DataError("lengths differ in the map of networks", expected=f"{count} names", got=lengths)
    if any(not 0 <= end < count for edge in network_map.edges for end in edge):
        raise DataError("an edge of the map names no network", expected=f"indices below {count}")


def _column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return a column as numbers, or as codes into its sorted texts."""
    known = [value for value in values if value is not None]
    if known and all(map(is_number, known)):
        return {"name": name, "numbers": _numbers([math.nan if value is None else value for value in values])}
    texts = [format_cell(value) for value in values]
    labels = sorted(set(texts))
    places = {label: number for number, label in enumerate(labels)}
    return {"name": name, "labels": labels, "codes": [places[text] for text in texts]}


def _runs(runs: Sequence[str]) -> list[list[int]]:
    """Return the indices of the networks of each run with at least two."""
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _numbers(values: ArrayLike) -> list[float | None]:
    """Return numbers with five significant digits, and None for those that are not finite."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in np.asarray(values, float).tolist()]


def picture_uri(path: Path) -> str:
    """Return an SVG or PNG file as a data URI, the PNG reduced to 256 colours.

    Raises:
        DataError: if the file is missing or neither.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if Path(path).suffix == ".svg":
            return _data_uri("svg+xml", Path(path).read_bytes())
        with Image.open(path) as image:
            return _png_uri(image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE))
    except (FileNotFoundError, UnidentifiedImageError) as error:
        raise DataError("is no picture", where=path, expected="a PNG or SVG file") from error


def _tiles(filters: Sequence[np.ndarray | None]) -> dict[str, Any]:
    """Return one picture with a tile per network, row by row, and the size of the tiles."""
    from PIL import Image

    height, width = np.max([image.shape for image in filters if image is not None], axis=0).tolist()
    across = max(1, round(math.sqrt(len(filters) * height / width)))
    sheet = np.zeros((-(-len(filters) // across) * height, across * width), np.uint8)
    for number, image in enumerate(filters):
        if image is not None:
            top, left = number // across * height, number % across * width
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = _grey_levels(image)
    picture = Image.fromarray(sheet, mode="P")
    picture.putpalette([255] * 3 + [round(255 * level / (LEVELS - 1)) for level in range(LEVELS) for _ in "rgb"])
    known = [int(image is not None) for image in filters]
    return {
        "uri": _png_uri(picture, transparency=0),
        "width": width,
        "height": height,
        "across": across,
        "known": known,
    }


def _grey_levels(image: np.ndarray) -> np.ndarray:
    """Return levels 1 (most negative) to 15 (most positive) of an image, zero at the middle, and 0 for NaN."""
    largest = np.nanmax(np.abs(image), initial=0.0) or 1.0
    levels = 1 + np.round((image / largest + 1) / 2 * (LEVELS - 1))
    return np.where(np.isfinite(image), levels, 0).astype(np.uint8)


def _png_uri(image: Any, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True, **options)
    return _data_uri("png", stream.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
