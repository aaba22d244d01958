"""Names, shapes and types of the tensors of a network in a file, in as few bytes as the codec's own layouts allow.

n < L                  layout n of the L that the codec knows
L <= n < 2 L, widths   layout n - L in other hidden widths: a number for each width that it has, in ascending order
2 L, size, text        the tensors written out and deflated, with the known layouts as dictionary
"""

import zlib
from functools import cached_property
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
        if place > 2 * count:
            raise DataError("names a layout that the codec does not have", got=place)
        if place < 2 * count:
            known = sorted({units.width for units in self._hidden(place - count).values()})
            entries = self._resized(place - count, {width: reader.number() for width in known})
        else:
            entries = _parsed(_inflated(reader.sized(), self._dictionary))
        check_entries(entries)
        return entries

    def _described(self, entries: Entries) -> bytes:
        for place in range(len(self.layouts)):
            widths = self._widths(place, entries)
            if widths is not None:
                return number(len(self.layouts) + place) + b"".join(number(widths[width]) for width in sorted(widths))
        return number(2 * len(self.layouts)) + sized(_deflated(_text(entries), self._dictionary))

    def _widths(self, place: int, entries: Entries) -> dict[int, int] | None:
        """Return the width that stands for each hidden width of a known layout; None if that does not give these entries."""
        known, hidden = self.layouts[place], self._hidden(place)
        widths: dict[int, int] = {}
        if len(known) != len(entries) or any(len(a.shape) != len(b.shape) for a, b in zip(known, entries, strict=True)):
            return None
        for entry in entries:
            for axis, size in enumerate(entry.shape):
                if units := hidden.get((entry.name, axis)):
                    widths.setdefault(units.width, size // units.factor)
        complete = len(widths) == len({units.width for units in hidden.values()})
        return widths if complete and self._resized(place, widths) == entries else None

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
