"""Tensors of a safetensors file as views of its bytes.

The file starts with the length of its header in 8 bytes and the header as JSON, {name: {dtype, shape, data_offsets}}; the
tensors follow without gaps. Reading the header here takes less time than the library does, which matters for small
networks.
"""

import math
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from wscore.networks.pickles import mapped
from wscore.networks.records import RejectedError
from wscore.networks.selection import MOST_NODES

LONGEST_HEADER = 1 << 25  # bytes
Natural = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}  # fmt: skip


class Entry(msgspec.Struct):
    """One tensor in the header."""

    dtype: str
    shape: tuple[Natural, ...]
    data_offsets: tuple[Natural, Natural]


HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
ENTRY = msgspec.json.Decoder(Entry)


def read_safetensors(path: Path, most: int) -> dict[str, Tensor]:
    """Return the tensors of a file by name, in the order of its header.

    Raises:
        RejectedError: if there are more than `most` numbers, too many tensors, or a type that torch does not have.
        ValueError: if the file is damaged.
    """
    data = mapped(path)
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 8 < start <= min(len(data), 8 + LONGEST_HEADER):
        raise ValueError("the header is longer than the file")
    try:
        raw = HEADER.decode(data[8:start])
        if len(raw) > MOST_NODES:
            raise RejectedError("too_large", f"{len(raw):,} tensors; at most {MOST_NODES:,} are read")
        header = {name: ENTRY.decode(entry) for name, entry in raw.items() if name != "__metadata__"}
    except msgspec.MsgspecError as error:
        raise ValueError(f"no header of tensors: {error}") from error
    _check_gaps(header, len(data) - start)
    state = {name: _view(name, entry, data, start) for name, entry in header.items()}
    count = sum(tensor.numel() for tensor in state.values())
    if count > most:
        raise RejectedError("too_large", f"{count:,} numbers")
    return state


def _check_gaps(header: dict[str, Entry], size: int) -> None:
    """Refuse tensors that overlap, or leave bytes between or behind them, as one that is named twice does."""
    place = 0
    for begin, end in sorted(entry.data_offsets for entry in header.values()):
        if begin != place or end < begin:
            raise ValueError(f"tensors overlap or leave a gap at byte {place:,}")
        place = end
    if place != size:
        raise ValueError(f"tensors end at byte {place:,} of {size:,}")


def _view(name: str, entry: Entry, data: memoryview, start: int) -> Tensor:
    """Return one tensor, whose bytes begin `start` bytes later than its header says."""
    kind, (begin, end) = TYPES.get(entry.dtype), entry.data_offsets
    if kind is None:
        raise RejectedError("not_real", f"{name}: type {entry.dtype}")
    count = math.prod(entry.shape)
    if count * kind.itemsize != end - begin:
        raise ValueError(f"{name}: {entry.shape} of {entry.dtype} in {end - begin:,} bytes")
    if not count:
        return torch.empty(entry.shape, dtype=kind)
    tensor = torch.frombuffer(data, dtype=kind, count=count, offset=start + begin).view(entry.shape)
    return tensor.clone() if tensor.data_ptr() % kind.itemsize else tensor
