"""Initialisers of ONNX files: the weights of a graph, read without the graph.

The wire format of protocol buffers is a sequence of (field, type, value); only the fields of tensors are read.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wscore.networks.pickles import mapped
from wscore.networks.records import RejectedError

GRAPH, INITIALIZER = 7, 5  # fields of a model and of a graph
DIMS, TYPE, NAME, RAW, LOCATION = 1, 2, 8, 9, 14  # fields of a tensor
TYPES = {1: "f4", 2: "u1", 3: "i1", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 16: "bf16"}
TYPED = {4: "f4", 7: "i8", 10: "f8"}  # fields that hold numbers of one type one after the other
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_FIELDS = 1_000_000


def read_onnx(path: Path, most: int) -> dict[str, Tensor]:
    """Return the initialisers of an ONNX file by name.

    Raises:
        RejectedError: if they lie in another file, are no numbers, or are more than `most`.
        ValueError: if the file is damaged.
    """
    state: dict[str, Tensor] = {}
    remaining = most
    for field, graph in _fields(mapped(path)):
        for inner, tensor in _fields(graph) if field == GRAPH and isinstance(graph, memoryview) else ():
            if inner != INITIALIZER or not isinstance(tensor, memoryview):
                continue
            name, value = _tensor(tensor)
            remaining -= value.numel()
            if remaining < 0:
                raise RejectedError("too_large", f"more than {most:,} numbers")
            if name in state:
                raise RejectedError("clash", name)
            state[name] = value
    return state


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    place = 0
    for _ in range(MOST_FIELDS):
        if place >= len(data):
            return
        key, place = _varint(data, place)
        field, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield field, value
            continue
        if kind == BYTES:
            length, place = _varint(data, place)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError("not the wire format of ONNX")
        if place + length > len(data):
            raise ValueError("cut off")
        yield field, data[place : place + length]
        place += length
    raise RejectedError("too_large", f"more than {MOST_FIELDS:,} fields")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("cut off")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")


def _tensor(data: memoryview) -> tuple[str, Tensor]:
    shape: list[int] = []
    facts: dict[int, Any] = {}
    for field, value in _fields(data):
        if field == DIMS:
            shape += [value] if isinstance(value, int) else _packed(value)
        else:
            facts[field] = value
    name = bytes(facts[NAME]).decode("utf-8", "replace") if isinstance(facts.get(NAME), memoryview) else ""
    if facts.get(LOCATION):
        raise RejectedError("outside", f"{name} lies in another file")
    kind = TYPES.get(facts.get(TYPE, 0))
    numbers = facts.get(RAW)
    typed = next((field for field, code in TYPED.items() if code == kind and field in facts), None)
    if numbers is None and typed is not None:
        numbers = facts[typed] if kind != "i8" else struct.pack(f"<{math.prod(shape)}q", *_packed(facts[typed]))
    if kind is None or not isinstance(numbers, memoryview | bytes):
        raise RejectedError("not_real", f"{name} is of type {facts.get(TYPE)}, or its numbers are not in one piece")
    dtype = np.dtype("u2" if kind == "bf16" else kind)
    if math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"{name}: {shape} of {kind} in {len(numbers):,} bytes")
    values = torch.from_numpy(np.frombuffer(numbers, dtype).reshape(shape).copy())
    return name, values.view(torch.bfloat16) if kind == "bf16" else values


def _packed(data: Any) -> list[int]:
    values, place = [], 0
    while isinstance(data, memoryview) and place < len(data):
        value, place = _varint(data, place)
        values.append(value - (1 << 64) if value >= 1 << 63 else value)
    return values
