"""The file of a compressed network (.wsz).

    magic 1 | version, mode, flags 1 | checksum 2 or 8 | codec 2 | layout | [reference 4] | [exact values] | [step 2] | numbers

The checksum covers all other bytes and is verified before any of them is believed. Layouts are described in `layouts`. Integer
tensors and those that hold one value throughout come back exactly.
"""

import hashlib
import struct
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from wscore.autoencoder.coding.layouts import Entries, LayoutTable
from wscore.autoencoder.coding.reader import Reader, sized
from wscore.autoencoder.coding.state import Exact
from wscore.errors import DataError

MAGIC, VERSION = 0xB7, 2  # the version is in the upper two bits of its byte, the mode in the next two
LONG, REFERENCE, EXACT = 1, 4, 8
SMALL = 4096  # bytes from which on the checksum is long
CODEC, REFERENCE_HASH, STEP = 2, 4, struct.Struct("<h")
EXPANSION = 1 << 16  # most bytes of weights for each byte of a file
ALWAYS = 1 << 26  # bytes of weights that any file may have


class Mode(IntEnum):
    """How numbers stand for weights.

    Attributes:
        BLOCKS: coordinates by role, one step, tables by their deviations.
        OWN: the weights themselves, a step for each tensor, adaptive tables.
    """

    BLOCKS = 0
    OWN = 1


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        mode: how numbers stand for weights.
        layout: the tensors.
        reference: hash of the network of which the differences are coded, or empty.
        exact: values of tensors by their number: one value, or all as zlib bytes.
        step: log2 of the one step, in 1 / 32; not kept in mode OWN.
        payload: bytes of the numbers.
    """

    mode: Mode
    layout: Entries
    reference: bytes
    exact: Exact
    step: int
    payload: bytes


def pack_file(content: Content, codec: bytes, layouts: LayoutTable) -> bytes:
    """Return the bytes of a file, made by the codec of an identity that knows some layouts."""
    flags = REFERENCE * bool(content.reference) + EXACT * bool(content.exact)
    parts = [codec[:CODEC], layouts.write(content.layout), content.reference]
    if content.exact:
        parts.append(sized(msgspec.msgpack.encode(content.exact)))
    if content.mode != Mode.OWN:
        parts.append(STEP.pack(content.step))
    body = b"".join([*parts, content.payload])
    flags |= LONG if len(body) >= SMALL else 0
    return sealed(bytes([MAGIC, VERSION << 6 | content.mode << 4 | flags]), body)


def sealed(head: bytes, body: bytes) -> bytes:
    """Return head and body of a file with the checksum of both."""
    return head + _checksum(head, body) + body


def unpack_file(data: bytes, codec: bytes, layouts: LayoutTable) -> Content:
    """Return the content of a file.

    Raises:
        DataError: if it is not one, is damaged or cut short, is of another version or was made by another codec.
    """
    if len(data) < 2 or data[0] != MAGIC:
        raise DataError("is not a compressed network", expected="a file that `wscore compress` wrote")
    version, mode, flags = data[1] >> 6, data[1] >> 4 & 3, data[1] & 15
    if version != VERSION or mode not in list(Mode):
        fix = "compress the network again" if version < VERSION else "update wscore"
        raise DataError("is of another version", expected=VERSION, got=version, fix=fix)
    size = 8 if flags & LONG else 2
    head, check, body = data[:2], data[2 : 2 + size], data[2 + size :]
    if _checksum(head, body) != check:
        raise DataError("is damaged or cut short: its checksum does not fit", fix="copy or compress it again")
    if body[:CODEC] != codec[:CODEC]:
        raise DataError(
            "was made by another codec", expected=codec[:CODEC].hex(), got=body[:CODEC].hex(), fix="name it by --model"
        )
    reader = Reader(body, CODEC)
    layout = layouts.read(reader)
    reference = reader.take(REFERENCE_HASH) if flags & REFERENCE else b""
    exact = _decoded(reader.sized(), Exact) if flags & EXACT else {}
    step = 0 if mode == Mode.OWN else STEP.unpack(reader.take(STEP.size))[0]
    return Content(Mode(mode), layout, reference, exact, step, body[reader.place :])


def check_size(weights: int, size: int) -> None:
    """Refuse files that claim more weights than any of their size holds.

    Raises:
        DataError: if so.
    """
    most = max(ALWAYS, EXPANSION * size)
    if 4 * weights > most:
        raise DataError(
            "claims more weights than its size allows", expected=f"at most {most // 4:,}", got=f"{weights:,}"
        )


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise DataError("is damaged", got=str(error)) from error


def _checksum(head: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(head + body, digest_size=8 if head[1] & LONG else 2).digest()
