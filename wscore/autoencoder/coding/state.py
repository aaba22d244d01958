"""State dicts as vectors of weights, and what comes back exactly: names, order, shapes, types, integers, constants."""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.errors import DataError, ModelError
from wscore.networks.layout import Layout, layout_of

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST = 2.0**60  # weight: its square is a number of float32
LONGEST, MOST_AXES = 1 << 40, 16  # of shapes
State = Mapping[str, Tensor]
Network = Mapping[str, Any] | nn.Module  # what a user gives; what is no tensor in it is refused by name
Exact = dict[int, int | float | bytes]


class TensorEntry(NamedTuple):
    """One tensor of a state dict: its name, shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def entries_of(state: Mapping[str, Any]) -> tuple[TensorEntry, ...]:
    """Return the entries of a state dict, in its order.

    Raises:
        DataError: if a value is no dense tensor of a type that is kept.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise DataError("is no tensor", where=name, got=type(tensor).__name__, fix="leave it out")
        if tensor.dtype not in NAMES or tensor.layout != torch.strided:
            raise DataError("type is not kept", where=name, expected=f"dense, {', '.join(DTYPES)}",
                            got=f"{tensor.layout}, {tensor.dtype}")  # fmt: skip
    return tuple(TensorEntry(name, tuple(tensor.shape), NAMES[tensor.dtype]) for name, tensor in state.items())


def entries_of_layout(layout: Layout) -> tuple[TensorEntry, ...]:
    """Return the entries of float32 networks of a layout, counters behind the other tensors of their modules."""
    counters = [TensorEntry(name, shape, "int64") for name, shape in layout.counters.items()]
    found: list[TensorEntry] = []
    for place, spec in enumerate(layout.tensors):
        found.append(TensorEntry(spec.name, spec.shape, "float32"))
        if place + 1 == len(layout.tensors) or layout.tensors[place + 1].layer != spec.layer:
            own = [entry for entry in counters if entry.name.rpartition(".")[0] == spec.name.rpartition(".")[0]]
            found += own
            counters = [entry for entry in counters if entry not in own]
    return (*found, *counters)


def check_entries(entries: tuple[TensorEntry, ...]) -> None:
    """Refuse entries of which no state dict consists.

    Raises:
        DataError: if so.
    """
    for name, shape, dtype in entries:
        if dtype not in DTYPES or len(shape) > MOST_AXES or not all(0 <= count < LONGEST for count in shape):
            raise DataError("its layout is damaged", where=name)
    if len({entry.name for entry in entries}) < len(entries):
        raise DataError("its layout is damaged", got="two tensors of one name")


def layout_of_entries(entries: tuple[TensorEntry, ...]) -> Layout:
    """Return the layout of state dicts of some entries."""
    with torch.device("meta"):
        return layout_of({entry.name: torch.empty(entry.shape, dtype=DTYPES[entry.dtype]) for entry in entries})


def network_state(network: Network) -> dict[str, Tensor]:
    """Return the state dict of a network on the CPU, in its order.

    Raises:
        DataError: if a value is no tensor that is kept, or there are no weights.
    """
    state = dict(network.state_dict() if isinstance(network, nn.Module) else network)
    entries_of(state)
    if not any(tensor.is_floating_point() and tensor.numel() for tensor in state.values()):
        raise DataError("the network has no weights", expected="a tensor of floating-point numbers")
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def weights_of(layout: Layout, state: State) -> Float[Tensor, "1 weights"]:
    """Return the weights of a state dict as one row.

    Raises:
        DataError: if one is not finite, or beyond 2^60.
    """
    vector = torch.from_numpy(layout.flatten(state))
    if not bool((vector.abs() <= LARGEST).all()):
        name = next(spec.name for spec in layout.tensors if not bool((state[spec.name].abs() <= LARGEST).all()))
        raise DataError("holds numbers that are not finite, or beyond 1e18", where=name,
                        fix="compress an earlier checkpoint")  # fmt: skip
    return vector[None]


def check_same(layout: Layout, other: Layout, where: str) -> None:
    """Refuse another layout.

    Raises:
        ModelError: if the weights differ in names, order or shapes.
    """
    if [(spec.name, spec.shape) for spec in other.tensors] != [(spec.name, spec.shape) for spec in layout.tensors]:
        expected = f"{layout.size:,} weights of the same names and shapes"
        raise ModelError(f"the {where} has another layout", where=where, expected=expected, got=f"{other.size:,}")


def rebuild_state(
    entries: tuple[TensorEntry, ...], layout: Layout, vector: Float[Tensor, " weights"], exact: Exact
) -> dict[str, Tensor]:
    """Return the state dict of some entries whose weights are a vector.

    Raises:
        DataError: if the exact values do not fit it.
    """
    flat = layout.unflatten(vector)
    state = {name: _narrowed(flat[name], DTYPES[dtype]) for name, _, dtype in entries}
    for number, value in exact.items():
        if not 0 <= number < len(entries):
            raise DataError("exact values of a tensor that the layout does not have", got=number)
        name = entries[number].name
        state[name] = _restored(state[name], value, name)
    return state


def exact_values(state: State) -> Exact:
    """Return by number what must come back exactly: integer tensors that are not all zero, and tensors of one value."""
    found: Exact = {}
    for number, tensor in enumerate(state.values()):
        if not tensor.numel() or (not tensor.is_floating_point() and not tensor.any()):
            continue
        if tensor.numel() > tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
            found[number] = tensor.flatten()[0].item()
        elif not tensor.is_floating_point():
            raw = tensor.contiguous().view(torch.uint8) if tensor.dtype != torch.bool else tensor.to(torch.uint8)
            found[number] = zlib.compress(raw.numpy().tobytes(), 9)
    return found


def inflated(data: bytes, most: int) -> bytes:
    """Return zlib bytes unpacked, at most so many.

    Raises:
        DataError: if they are none.
    """
    try:
        return zlib.decompressobj().decompress(data, max(most, 1))
    except zlib.error as error:
        raise DataError("is damaged", got=str(error)) from error


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    most = torch.finfo(torch.float16).max
    return (tensor.clamp(-most, most) if dtype == torch.float16 else tensor).to(dtype)


def _restored(tensor: Tensor, value: float | int | bytes, name: str) -> Tensor:
    if not isinstance(value, bytes):
        limits = torch.finfo(tensor.dtype) if tensor.is_floating_point() else None
        limits = torch.iinfo(torch.uint8 if tensor.dtype == torch.bool else tensor.dtype) if limits is None else limits
        if not math.isfinite(value) or not limits.min <= value <= limits.max:
            raise DataError("exact values do not fit their tensor", where=name, expected=tensor.dtype, got=value)
        return torch.full_like(tensor, value)
    size = tensor.numel() * tensor.element_size()
    raw = inflated(value, size)
    if len(raw) != size or not size:
        raise DataError("exact values do not fit their tensor", where=name, expected=size, got=len(raw))
    kept = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return (kept.bool() if tensor.dtype == torch.bool else kept.view(tensor.dtype)).view(tensor.shape)
