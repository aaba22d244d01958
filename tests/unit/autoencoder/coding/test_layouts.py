"""Layouts in few bytes: by number, as another width of a known one, or written out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wscore.autoencoder.coding.layouts import Entries, LayoutTable
from wscore.autoencoder.coding.reader import Reader, number, sized
from wscore.autoencoder.coding.state import TensorEntry, entries_of
from wscore.errors import DataError, WscoreError
from wscore.networks.architectures import Architecture, build

FAMILIES = ("mlp", "cnn", "cnn_bn", "resnet", "depthwise_cnn", "residual_mlp")


def entries(family: str, *widths: int) -> Entries:
    pooling = "none" if "mlp" in family else "max"
    kind = Architecture(family=family, input=(1, 8, 8), classes=5, widths=widths, activation="relu", pooling=pooling)
    return entries_of(build(kind).state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_known_layouts_take_a_byte_and_other_widths_a_few(family: str) -> None:
    table = LayoutTable((entries(family, 8, 8), entries(family, 6, 11)))
    for known, most in (((8, 8), 1), ((6, 11), 1), ((7, 9), 3), ((9, 200), 4), ((12, 12), 3)):
        wanted = entries(family, *known)
        written = table.write(wanted)
        assert table.read(reader := Reader(written + b"rest")) == wanted
        assert reader.take(4) == b"rest"
        assert len(written) <= most


@pytest.mark.parametrize(("family", "known", "widths"), [
    ("mlp", (8,), (16, 12)), ("mlp", (8,), (300, 12, 9, 20)), ("mlp", (8, 6), (5, 5, 5)), ("cnn", (6, 8), (7, 9, 11)),
])  # fmt: skip
def test_deeper_layouts_take_a_byte_for_each_width_and_two(family: str, known: tuple[int, ...], widths: tuple) -> None:
    table = LayoutTable((entries(family, *known), entries("resnet", 8, 8)))
    wanted = entries(family, *widths)
    written = table.write(wanted)
    assert table.read(reader := Reader(written + b"rest")) == wanted
    assert reader.take(4) == b"rest"
    assert len(written) <= 3 + len(widths)


def test_other_layouts_are_written_out_shorter_with_a_known_one_alike() -> None:
    wanted = entries("cnn_bn", 8, 8, 8)
    alone, beside = LayoutTable(()).write(wanted), LayoutTable((entries("cnn_bn", 8, 8),))
    assert LayoutTable(()).read(Reader(alone)) == wanted
    assert beside.read(Reader(beside.write(wanted))) == wanted
    assert len(beside.write(wanted)) < 0.6 * len(alone)


def test_widths_that_a_known_layout_does_not_explain_are_written_out() -> None:
    table = LayoutTable((entries("mlp", 8, 6),))
    broken = tuple(
        entry._replace(shape=(9,)) if entry.name == "linear1.bias" else entry for entry in entries("mlp", 8, 6)
    )
    assert table.read(Reader(table.write(broken))) == broken
    assert len(table.write(broken)) > 10


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_damaged_layouts_end_in_layouts_or_errors(data: bytes) -> None:
    table = LayoutTable((entries("mlp", 8, 6),))
    try:
        found = table.read(Reader(data))
    except WscoreError:
        return
    assert all(isinstance(entry, TensorEntry) for entry in found)


def test_a_number_beyond_all_layouts_is_refused() -> None:
    with pytest.raises(DataError, match="does not have"):
        LayoutTable((entries("mlp", 8, 6),)).read(Reader(number(4)))
    with pytest.raises(DataError, match="damaged"):
        LayoutTable(()).read(Reader(number(0) + sized(b"\xff\xff")))
    with pytest.raises(DataError, match="without numbered layers"):
        LayoutTable(((TensorEntry("weight", (4, 4), "float32"),),)).read(Reader(number(3) + number(1) + number(2)))
