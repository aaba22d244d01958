"""Tensors of a safetensors file as views of its bytes.

The file starts with the length of its header in 8 bytes and the header as JSON, {name: {dtype, shape, data_offsets}}; the
tensors follow without gaps. Reading the header here takes a third of the time of the library, which matters for small
networks.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wscore.networks.pickles import mapped
from wscore.networks.records import RejectedError

LONGEST_HEADER = 1 << 25  # bytes
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}  # fmt: skip


def read_safetensors(path: Path, most: int) -> dict[str, Tensor]:
    """Return the tensors of a file by name, in the order of its header.

    Raises:
        RejectedError: if there are more than `most` numbers, or a type that torch does not have.
        ValueError: if the file is damaged.
    """
    data = mapped(path)
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 8 < start <= min(len(data), 8 + LONGEST_HEADER):
        raise ValueError("the header is longer than the file")
    header: dict[str, Any] = dict(json.loads(bytes(data[8:start]), object_pairs_hook=_unique))
    header.pop("__metadata__", None)
    state = {name: _view(name, entry, data[start:]) for name, entry in header.items()}
    _check_gaps(header, len(data) - start)
    count = sum(tensor.numel() for tensor in state.values())
    if count > most:
        raise RejectedError("too_large", f"{count:,} numbers")
    return state


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name occurs twice in the header")
    return entries


def _view(name: str, entry: Any, data: memoryview) -> Tensor:
    """Return one tensor."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"no tensor in the header: {name!r}")
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    kind = TYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if kind is None:
        raise RejectedError("not_real", f"{name}: type {entry['dtype']}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or end > len(data):
        raise ValueError(f"{name}: bytes {begin} to {end} of {len(data):,}, shape {shape}")
    if math.prod(shape) * kind.itemsize != end - begin:
        raise ValueError(f"{name}: {shape} of {entry['dtype']} in {end - begin:,} bytes")
    if begin == end:
        return torch.empty(shape, dtype=kind)
    tensor = torch.frombuffer(data[begin:end], dtype=kind).view(shape)
    return tensor.clone() if tensor.data_ptr() % kind.itemsize else tensor


def _check_gaps(header: dict[str, Any], size: int) -> None:
    """Refuse tensors that overlap, or leave bytes between or behind them."""
    place = 0
    for begin, end in sorted(entry["data_offsets"] for entry in header.values()):
        if begin != place:
            raise ValueError(f"tensors overlap or leave a gap at byte {place:,}")
        place = end
    if place != size:
        raise ValueError(f"tensors end at byte {place:,} of {size:,}")
