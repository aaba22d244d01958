"""Names, shapes and types of the tensors of a network in a file, in as few bytes as the codec's own layouts allow.

n < L                  layout n of the L that the codec knows
L <= n < 2 L, widths   layout n - L in other hidden widths: a number for each width that it has, in ascending order
2 L, size, text        the tensors written out and deflated, with the known layouts as dictionary
2 L < n, widths, ...   layout n - 2 L - 1 in other hidden widths, and more layers like its last hidden one: their count and widths
"""

import re
import zlib
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from wscore.autoencoder.coding.reader import Reader, number, sized
from wscore.autoencoder.coding.state import TensorEntry, check_entries, layout_of_entries
from wscore.autoencoder.coding.unit_axes import unit_axes
from wscore.errors import DataError

MOST_TEXT = 1 << 26  # bytes of a layout
WINDOW = 1 << 15  # bytes of a dictionary that are looked at
RAW = -15  # deflate without a checksum of its own
Entries = tuple[TensorEntry, ...]


class _Units(NamedTuple):
    """An axis that runs over hidden units.

    Attributes:
        width: count of units in the known layout.
        factor: numbers for each unit, as behind a flattening.
    """

    width: int
    factor: int


class LayoutTable:
    """Writes and reads layouts.

    Args:
        layouts: that the codec knows, by number.
    """

    def __init__(self, layouts: tuple[Entries, ...]) -> None:
        for entries in layouts:
            check_entries(entries)
        self.layouts = layouts
        self._written = {entries: number(place) for place, entries in enumerate(layouts)}
        self._units: dict[int, dict[tuple[str, int], _Units]] = {}

    def write(self, entries: Entries) -> bytes:
        """Return a layout as bytes."""
        if entries not in self._written:
            self._written[entries] = self._described(entries)
        return self._written[entries]

    def read(self, reader: Reader) -> Entries:
        """Return the layout that `write` wrote.

        Raises:
            DataError: if it is damaged.
        """
        place, count = reader.number(), len(self.layouts)
        if place < count:
            return self.layouts[place]
        if place > 3 * count:
            raise DataError("names a layout that the codec does not have", got=place)
        if place < 2 * count:
            entries = self._resized(place - count, self._read_widths(place - count, reader))
        elif place == 2 * count:
            entries = _parsed(_inflated(reader.sized(), self._dictionary))
        else:
            known = place - 2 * count - 1
            widths = self._read_widths(known, reader)
            entries = self._deepened(known, widths, [reader.number() for _ in range(reader.number())])
        check_entries(entries)
        return entries

    def _described(self, entries: Entries) -> bytes:
        count = len(self.layouts)
        for place in range(count):
            widths = self._widths(place, entries)
            if widths is not None and self._resized(place, widths) == entries:
                return number(count + place) + _numbers(widths)
        for place in range(count):
            widths, further = self._widths(place, entries), self._further(place, entries)
            if widths is not None and further and self._deepened(place, widths, further) == entries:
                return (
                    number(2 * count + 1 + place) + _numbers(widths) + b"".join(map(number, [len(further), *further]))
                )
        return number(2 * count) + sized(_deflated(_text(entries), self._dictionary))

    def _read_widths(self, place: int, reader: Reader) -> dict[int, int]:
        known = sorted({units.width for units in self._hidden(place).values()})
        return {width: reader.number() for width in known}

    def _widths(self, place: int, entries: Entries) -> dict[int, int] | None:
        """Return the width that stands for each hidden width of a known layout; None if a width is missing."""
        hidden = self._hidden(place)
        widths: dict[int, int] = {}
        for entry in entries:
            for axis, size in enumerate(entry.shape):
                if units := hidden.get((entry.name, axis)):
                    widths.setdefault(units.width, size // units.factor)
        return widths if len(widths) == len({units.width for units in hidden.values()}) else None

    def _further(self, place: int, entries: Entries) -> list[int]:
        """Return the widths of the layers that entries have besides those of a known layout."""
        layer, count = _last_numbered(self.layouts[place]), len(entries) - len(self.layouts[place])
        size = layer.stop - layer.start
        if not size or count <= 0 or count % size:
            return []
        firsts = entries[layer.stop : layer.stop + count : size]
        return [entry.shape[0] for entry in firsts if entry.shape]

    def _deepened(self, place: int, widths: dict[int, int], further: list[int]) -> Entries:
        """Return a known layout in other widths, with further layers like its last hidden one.

        Raises:
            DataError: if the names of its tensors have no numbers.
        """
        known, hidden, layer = self._resized(place, widths), self._hidden(place), _last_numbered(self.layouts[place])
        if layer.start == layer.stop:
            raise DataError("is damaged: names a layout without numbered layers", got=place)
        chain = [known[layer.start].shape[0], *further]
        entries = list(known[: layer.stop])
        for turn, (columns, rows) in enumerate(pairwise(chain), 1):
            entries += [_repeated(entry, turn, (rows, columns)) for entry in known[layer]]
        for name, shape, dtype in known[layer.stop :]:
            units = hidden.get((name, 1))
            entries.append(
                TensorEntry(name, (shape[0], chain[-1] * units.factor, *shape[2:]) if units else shape, dtype)
            )
        return tuple(entries)

    def _resized(self, place: int, widths: dict[int, int]) -> Entries:
        hidden = self._hidden(place)
        return tuple(
            TensorEntry(
                name,
                tuple(
                    widths[units.width] * units.factor if (units := hidden.get((name, axis))) else size
                    for axis, size in enumerate(shape)
                ),
                dtype,
            )
            for name, shape, dtype in self.layouts[place]
        )

    def _hidden(self, place: int) -> dict[tuple[str, int], _Units]:
        """Return the axes of a known layout that run over hidden units, by tensor and axis."""
        if place not in self._units:
            axes = unit_axes(layout_of_entries(self.layouts[place]))
            self._units[place] = {
                (tensor.spec.name, axis): _Units(tensor.shape[axis], tensor.spec.shape[axis] // tensor.shape[axis])
                for tensor in axes
                for axis in (0, 1)
                if tensor.units[axis]
            }
        return self._units[place]

    @cached_property
    def _dictionary(self) -> bytes:
        return b"".join(_text(entries) for entries in self.layouts)[-WINDOW:]


def _numbers(widths: dict[int, int]) -> bytes:
    return b"".join(number(widths[width]) for width in sorted(widths))


def _numbered(name: str) -> tuple[str, int, str] | None:
    """Return what is before the first number in a name, the number, and what is behind it.

    >>> _numbered("linear2.weight")
    ('linear', 2, '.weight')
    """
    match = re.fullmatch(r"(\D*)(\d{1,6})(.*)", name)
    return (match[1], int(match[2]), match[3]) if match else None


def _last_numbered(entries: Entries) -> slice:
    """Return where the tensors of the layer of the highest number are, the rows of which come first; empty if there is none."""
    numbers = [parts[1] if (parts := _numbered(entry.name)) else -1 for entry in entries]
    highest = max(numbers, default=-1)
    if highest < 0:
        return slice(0, 0)
    start = numbers.index(highest)
    stop = next((place for place in range(start, len(numbers)) if numbers[place] != highest), len(numbers))
    return slice(start, stop) if entries[start].shape else slice(0, 0)


def _repeated(entry: TensorEntry, turn: int, widths: tuple[int, int]) -> TensorEntry:
    """Return a tensor of a layer `turn` places later, of other rows and columns."""
    parts = _numbered(entry.name)
    assert parts is not None, "the layer is numbered"
    shape = (*widths[: len(entry.shape)], *entry.shape[2:])
    return TensorEntry(f"{parts[0]}{parts[1] + turn}{parts[2]}", shape, entry.dtype)


def _text(entries: Entries) -> bytes:
    return msgspec.msgpack.encode([tuple(entry) for entry in entries])


def _parsed(text: bytes) -> Entries:
    try:
        entries = msgspec.msgpack.decode(text, type=list[tuple[str, tuple[int, ...], str]])
    except (ValueError, RecursionError) as error:
        raise DataError("is damaged", got=str(error)) from error
    return tuple(TensorEntry(*entry) for entry in entries)


def _deflated(text: bytes, dictionary: bytes) -> bytes:
    sink = zlib.compressobj(9, zlib.DEFLATED, RAW, **_with(dictionary))
    return sink.compress(text) + sink.flush()


def _inflated(data: bytes, dictionary: bytes) -> bytes:
    try:
        return zlib.decompressobj(RAW, **_with(dictionary)).decompress(data, MOST_TEXT)
    except zlib.error as error:
        raise DataError("is damaged", got=str(error)) from error


def _with(dictionary: bytes) -> dict[str, Any]:
    return {"zdict": dictionary} if dictionary else {}
