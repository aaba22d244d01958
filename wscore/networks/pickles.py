"""Files of `torch.save` and plain pickles, read without importing or calling anything that they name.

A separate interpreter for the opcodes of pickle makes numbers, texts, lists, dictionaries, tensors and numeric
NumPy arrays. Whatever else a file refers to becomes an inert `Stub` whose full name is recorded. The bytes in the file
bound what a tensor may claim, and counts of opcodes, memory and depth are bounded too.
"""

import mmap
import pickle  # noqa: TID251  the names of its opcodes; it loads nothing
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wscore.networks.records import RejectedError

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file in the format before PyTorch 1.6
MOST_OPCODES = 1_000_000, 10_000_000  # of a small file, of any file
LONGEST_INTEGER, LONGEST_NAME = 1024, 400  # bytes, letters
ALIGNED = 16  # bytes at whose multiples the largest numbers may lie
SMALL = 1 << 22  # bytes of a file that is read at once instead of being mapped
SHARED, HARMLESS = 16, 1 << 26  # tensors may claim this multiple of the bytes of their file, plus a constant
EXPANDED = 1 << 16  # numbers that a tensor may have beyond those of its storage, by strides of 0
DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.complex32, torch.complex64, torch.complex128, torch.int64,
        torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
    )
}  # fmt: skip
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64, "Untyped": torch.uint8,
}  # fmt: skip
QUANTISED = ("QUInt8Storage", "QInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")


class PickleError(ValueError):
    """A pickle that is damaged, or does what no checkpoint needs."""


class Stub(dict[Any, Any]):
    """Placeholder of an object that is not created: its class, its arguments, and its state.

    It is a dictionary so that subclasses of `dict` keep their items, and modules their parameters, buffers and children.

    Attributes:
        name: full name of the class or function.
        arguments: that it was called with.
        state: attributes, or whatever else was handed to `__setstate__`.
        entries: elements of a subclass of `list`.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.name, self.arguments, self.entries = name, arguments, []
        self.state: Any = None

    def build(self, state: Any) -> int:
        """Take over a state; of a `torch.nn.Module` also what its `state_dict` would hold. Return how many items it got."""
        self.state = state
        dicts = [state.get(key) for key in ("_parameters", "_buffers", "_modules")] if isinstance(state, dict) else []
        if not all(isinstance(entries, dict) for entries in dicts) or not dicts:
            return 0
        fleeting = state.get("_non_persistent_buffers_set")
        skipped = [name for name in fleeting if isinstance(name, str)] if isinstance(fleeting, list) else []
        for entries in dicts:
            assert entries is not None
            self.update({name: value for name, value in entries.items() if value is not None and name not in skipped})
        return len(self)


class PickleContent(NamedTuple):
    """What a file holds.

    Attributes:
        value: nested dictionaries, lists, tensors, arrays, numbers, texts and stubs.
        stubbed: full names of what was not made, sorted.
    """

    value: Any
    stubbed: tuple[str, ...]


class Storage(NamedTuple):
    """Bytes of a file and the type of the numbers in them."""

    data: Tensor
    dtype: torch.dtype


class _DType:
    """A NumPy type that is being unpickled; its byte order comes last."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = str(code)[:20], ""

    def numeric(self) -> np.dtype:
        """Return the type.

        Raises:
            PickleError: if it is none of numbers.
        """
        kind = self.code.lstrip("<>=|")
        if kind[:1] not in "fiub" or not kind[1:].isdecimal():
            raise PickleError(f"an array of {self.code}")
        return np.dtype(kind).newbyteorder(self.order or "=")  # pyright: ignore[reportArgumentType]


class PickleInterpreter:
    """Interprets one pickle.

    Args:
        stream: bytes of it, at its first opcode.
        size: bytes of the whole file.
        storage: returns the bytes of a persistent id of torch.
        depth: of the pickle within others.
    """

    def __init__(
        self, stream: BytesIO | Any, size: int, storage: Callable[[tuple[Any, ...]], Storage] | None, depth: int = 0
    ) -> None:
        self.stream, self.size, self.storage, self.depth = stream, size, storage, depth
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.stubbed: set[str] = set()
        self.left = HARMLESS + SHARED * size  # bytes that tensors may still claim

    def load(self) -> Any:
        """Return the object that the pickle describes.

        Raises:
            PickleError: if it is damaged.
            RejectedError: if it claims too much, or tensors are no plain numbers.
        """
        few, most = MOST_OPCODES
        try:
            for _ in range(min(max(few, self.size // 8), most)):
                code = self.stream.read(1)
                if code == pickle.STOP:
                    return self.stack.pop()
                OPCODES[code](self)
        except KeyError as error:
            raise PickleError(f"an unknown opcode or reference {error}") from error
        except (IndexError, struct.error) as error:
            raise PickleError(f"cut off or damaged ({error})") from error
        raise RejectedError("too_large", f"more than {few:,} steps to unpickle")

    def read(self, count: int) -> bytes:
        """Return the next bytes."""
        if not 0 <= count <= self.size:
            raise PickleError(f"{count:,} bytes in a file of {self.size:,}")
        data = self.stream.read(count)
        if len(data) < count:
            raise PickleError("cut off")
        return data

    def charge(self, size: int) -> None:
        """Count bytes that are created from existing ones, which a short pickle may request again and again."""
        self.left -= size
        if self.left < 0:
            raise RejectedError("too_large", f"unpacks to more than a file of {self.size:,} bytes may hold")

    def line(self) -> str:
        """Return the next line of a pickle in text."""
        data = self.stream.readline()
        if data[-1:] != b"\n":
            raise PickleError("cut off")
        return data[:-1].decode("utf-8", "replace")

    def number(self, layout: str) -> Any:
        """Return the next number."""
        return struct.unpack(layout, self.stream.read(struct.calcsize(layout)))[0]

    def byte(self) -> int:
        """Return the next byte."""
        return self.stream.read(1)[0]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """Return the values above the last mark, and go back below it."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def name(self, module: Any, name: Any) -> None:
        """Put the object of a full name on the stack."""
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > LONGEST_NAME:
            raise PickleError("a name that is no text, or a long one")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if module == "torch" and name in DTYPES:
            self.push(DTYPES[name])
            return
        if full not in CALLS and full not in SILENT and not _is_storage(full):
            self.stubbed.add(full)
        self.push(Stub(full))

    def call(self, function: Any, arguments: Any) -> None:
        """Put what a function makes of arguments on the stack: one of our own, or a stub."""
        if not isinstance(function, Stub) or not isinstance(arguments, tuple):
            raise PickleError(f"a call of {type(function).__name__}")
        known = CALLS.get(function.name) if not function.arguments and not function else None
        self.push(Stub(function.name, arguments) if known is None else known(self, arguments))

    def build(self) -> None:
        """Hand its state to an object."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Stub):
            self.charge(64 * target.build(state))
        elif isinstance(target, np.ndarray):
            self.fill(target, state)
        elif isinstance(target, _DType):
            order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
            target.order = order if order in ("<", ">") else ""
        elif not isinstance(target, dict | list | Tensor | tuple):  # attributes of containers are of no interest
            raise PickleError(f"a state for {type(target).__name__}")

    def extend(self, values: Iterable[Any]) -> None:
        """Append values to a list."""
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.entries.extend(values)
        elif type(target) is list:
            target.extend(values)
        else:
            raise PickleError(f"elements of {type(target).__name__}")

    def set_items(self, values: list[Any]) -> None:
        """Enter keys and values into a dictionary."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise PickleError(f"items of {type(target).__name__}")
        for place in range(0, len(values), 2):
            target[_key(values[place])] = values[place + 1]

    def persistent(self, key: Any) -> None:
        """Put the storage of a persistent id on the stack, or the class that torch saved with its source (no zip file)."""
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module" and isinstance(key[1], Stub):
            self.push(key[1])
            return
        if self.storage is None or not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
            raise PickleError("a reference to data outside of the pickle")
        self.push(self.storage(key))

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Return a view of a storage, if that holds it.

        Raises:
            PickleError: if it does not.
            RejectedError: if all tensors together claim too much.
        """
        kind = dtype or storage.dtype if isinstance(storage, Storage) else None
        if kind is None or not _are_counts((offset,)) or not _are_counts(size) or not _are_counts(stride):
            raise PickleError("a tensor without storage, or of no size")
        if len(size) != len(stride) or len(size) > 64:
            raise PickleError(f"a tensor of {len(size)} axes and {len(stride)} strides")
        available, count = storage.data.numel() // kind.itemsize, 1
        for axis in size:
            count *= axis
        last = offset + sum((axis - 1) * step for axis, step in zip(size, stride, strict=True)) if count else offset
        if count and last >= available:
            raise PickleError(f"a tensor {size} beyond the {available:,} numbers of its storage")
        self.charge(count * kind.itemsize)
        if count > max(available, EXPANDED):
            raise RejectedError("too_large", f"a tensor {size} of {available:,} stored numbers in {self.size:,} bytes")
        return torch.empty(0, dtype=kind).set_(storage.data.untyped_storage(), offset, size, stride)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def filled(self, state: Any) -> np.ndarray:
        """Return an array with the numbers of a state."""
        array = np.zeros(0, np.float32)
        self.fill(array, state)
        return array

    def fill(self, array: np.ndarray, state: Any) -> None:
        """Fill an empty array with the numbers of its state (version, shape, type, order of axes, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _DType):
            raise PickleError("a state that is none of an array")
        _, shape, kind, turned, data = state
        if not isinstance(data, bytes | str) or not _is_numeric(kind):
            self.stubbed.add(f"numpy.ndarray of {kind.code}")
            return
        self.charge(len(data))
        data = data.encode("latin-1") if isinstance(data, str) else data
        dtype = kind.numeric()
        if not _are_counts(shape) or not isinstance(turned, bool | int):
            raise PickleError("an array of no size")
        if int(np.prod(shape, dtype=object)) * dtype.itemsize != len(data) or array.size:
            raise PickleError(f"an array {shape} of {dtype} in {len(data):,} bytes")
        array.__setstate__((1, tuple(shape), dtype, bool(turned), data))  # pyright: ignore[reportArgumentType]


def _are_counts(values: Any) -> bool:
    kind = isinstance(values, tuple | list)
    return kind and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _is_numeric(kind: _DType) -> bool:
    code = kind.code.lstrip("<>=|")
    return code[:1] in tuple("fiub") and code[1:].isdecimal()


def _is_storage(full: str) -> bool:
    return full.rpartition(".")[2].removesuffix("Storage") in STORAGES or full.endswith(QUANTISED)


def _key(value: Any) -> Any:
    """Return a key of a dictionary that hashes in constant time."""
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    flat = isinstance(value, tuple) and len(value) <= 16 and all(isinstance(item, str | int) for item in value)
    return value if flat else f"<{getattr(value, 'name', type(value).__name__)}>"


def _rebuild(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> Any:
    return machine.tensor(*arguments[:4])


def _rebuild_typed(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> Any:
    kind = arguments[6] if len(arguments) > 6 else None
    if not isinstance(kind, torch.dtype):
        raise PickleError("a tensor of no type")
    return machine.tensor(*arguments[:4], dtype=kind)


def _rebuild_subclass(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> Any:
    """Return the plain tensor in one of a subclass, or one with attributes."""
    machine.call(arguments[0], arguments[2])
    return machine.stack.pop()


def _from_bytes(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> Any:
    """Return a storage within a plain pickle: a whole file of the old format."""
    if machine.depth or not isinstance(arguments[0], bytes):
        raise PickleError("a storage within a storage")
    machine.charge(SHARED * len(arguments[0]))
    content = read_old(BytesIO(arguments[0]), len(arguments[0]), depth=1)
    machine.stubbed |= set(content.stubbed)
    return content.value


def _refuse(reason: str, detail: str) -> Callable[[PickleInterpreter, tuple[Any, ...]], Any]:
    def call(_: PickleInterpreter, __: tuple[Any, ...]) -> Any:
        raise RejectedError(reason, detail)

    return call


def _encoded(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> bytes:
    """Return the bytes that older protocols write as text."""
    text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
    machine.charge(len(text))
    return text.encode("latin-1")


def _mapping(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    given = arguments[-1] if arguments else {}
    machine.charge(64 * len(given) if isinstance(given, list | dict) else 0)
    if isinstance(given, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in given):
        return {_key(name): value for name, value in given}
    return dict(given) if isinstance(given, dict) else {}


def _sequence(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> list[Any]:
    """Return a set, or another collection, as a list: nothing is hashed or compared."""
    given = arguments[0] if arguments and isinstance(arguments[0], list | tuple) else ()
    machine.charge(8 * len(given))
    return list(given)


def _text(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> str:  # noqa: ARG001
    return "/".join(item[:200] for item in arguments[:16] if isinstance(item, str)).replace("//", "/")


def _scalar(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> Any:
    """Return a NumPy scalar, numbers only."""
    kind, data = arguments if len(arguments) == 2 else (None, None)
    if not isinstance(kind, _DType) or not _is_numeric(kind) or not isinstance(data, bytes | str):
        machine.stubbed.add("numpy scalar of another type than numbers")
        return None
    data = data.encode("latin-1") if isinstance(data, str) else data
    if len(data) != kind.numeric().itemsize:
        raise PickleError(f"a scalar of {kind.code} in {len(data)} bytes")
    return np.frombuffer(data, kind.numeric())[0].item()


def _from_buffer(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> Any:
    """Return an array as protocol 5 writes it: (bytes, type, shape, order of axes)."""
    if len(arguments) != 4:
        raise PickleError("an array without a shape")
    data, kind, shape, order = arguments
    return machine.filled((1, shape, kind, order == "F", data))


def _jax_array(machine: PickleInterpreter, arguments: tuple[Any, ...]) -> Any:
    return machine.filled(arguments[2] if len(arguments) > 2 else None)


_meta = _refuse("unreadable", "tensors on the meta device, which hold no numbers")
_quantised = _refuse("quantised", "quantised tensors; save the network after dequantize()")
_sparse = _refuse("not_real", "sparse tensors; save them after to_dense()")
_wrapped = _refuse("not_real", "tensors of a subclass that holds others, such as distributed or quantised ones")
CALLS: dict[str, Callable[[PickleInterpreter, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": lambda machine, arguments: arguments[0],  # noqa: ARG005
    "torch._utils._rebuild_parameter_with_state": lambda machine, arguments: arguments[0],  # noqa: ARG005
    "torch._utils._rebuild_device_tensor_from_numpy": lambda machine, arguments: arguments[0],  # noqa: ARG005
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_nested_tensor": _sparse,
    "torch._utils._rebuild_wrapper_subclass": _wrapped,
    "torch.storage._load_from_bytes": _from_bytes,
    "torch.Size": lambda machine, arguments: tuple(_sequence(machine, arguments)),
    "torch.device": _text,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda machine, arguments: {},  # noqa: ARG005
    "flax.core.frozen_dict.FrozenDict": _mapping,
    **{f"builtins.{name}": _sequence for name in ("set", "frozenset", "list")},
    "builtins.dict": _mapping,
    "collections.deque": _sequence,
    "_codecs.encode": _encoded,
    "numpy.dtype": lambda machine, arguments: _DType(arguments[0]),  # noqa: ARG005
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: np.zeros(0, np.float32) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "jax._src.array._reconstruct_array": _jax_array,
    "pathlib.PosixPath": _text, "pathlib.WindowsPath": _text, "pathlib._local.PosixPath": _text,
}  # fmt: skip
SILENT = (
    "argparse.Namespace", "types.SimpleNamespace", "numpy.ndarray", "torch.nn.parameter.Parameter", "torch.Tensor",
)  # fmt: skip


def _memoize(machine: PickleInterpreter, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _marked(machine: PickleInterpreter) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _tuple(count: int) -> Callable[[PickleInterpreter], None]:
    def make(machine: PickleInterpreter) -> None:
        if len(machine.stack) < count:
            raise PickleError("cut off or damaged")
        machine.stack[len(machine.stack) - count :] = [tuple(machine.stack[len(machine.stack) - count :])]

    return make


def _integer(machine: PickleInterpreter, count: int) -> None:
    if count > LONGEST_INTEGER:
        raise PickleError(f"a whole number of {count:,} bytes")
    machine.push(int.from_bytes(machine.read(count), "little", signed=True))


def _text_integer(machine: PickleInterpreter) -> None:
    text = machine.line()
    machine.push({"00": False, "01": True}[text] if text in ("00", "01") else int(text.removesuffix("L")))


def _text_string(machine: PickleInterpreter) -> None:
    text = machine.line()
    machine.push(text[1:-1].encode("latin-1", "replace").decode("unicode_escape"))


def _appended(machine: PickleInterpreter) -> None:
    value = machine.stack.pop()
    machine.extend([value])


def _one_item(machine: PickleInterpreter) -> None:
    values = [machine.stack.pop(), machine.stack.pop()]
    machine.set_items(values[::-1])


def _called(machine: PickleInterpreter) -> None:
    arguments = machine.stack.pop()
    machine.call(machine.stack.pop(), arguments)


def _called_with_names(machine: PickleInterpreter) -> None:
    names, arguments = machine.stack.pop(), machine.stack.pop()
    function = machine.stack.pop()
    machine.call(function, arguments)
    if isinstance(names, dict) and isinstance(machine.stack[-1], Stub):
        machine.stack[-1].state = names


def _old_instance(machine: PickleInterpreter) -> None:
    machine.name(machine.line(), machine.line())
    function = machine.stack.pop()
    machine.call(function, tuple(machine.since_mark()))


def _old_object(machine: PickleInterpreter) -> None:
    function, *arguments = machine.since_mark()
    machine.call(function, tuple(arguments))


def _stack_name(machine: PickleInterpreter) -> None:
    name = machine.stack.pop()
    machine.name(machine.stack.pop(), name)


def _pushing(value: Any) -> Callable[[PickleInterpreter], None]:
    return lambda machine: machine.push(value)


def _bytes(layout: str, decode: Callable[[bytes], Any]) -> Callable[[PickleInterpreter], None]:
    return lambda machine: machine.push(decode(machine.read(machine.number(layout))))


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


OPCODES: dict[bytes, Callable[[PickleInterpreter], Any]] = {
    pickle.PROTO: lambda m: m.read(1),
    pickle.FRAME: lambda m: m.read(8),
    pickle.MARK: _marked,
    pickle.POP: lambda m: m.stack.pop() if m.stack else m.since_mark(),
    pickle.POP_MARK: lambda m: m.since_mark(),
    pickle.DUP: lambda m: m.push(m.stack[-1]),
    pickle.NONE: _pushing(None),
    pickle.NEWTRUE: _pushing(True),
    pickle.NEWFALSE: _pushing(False),
    pickle.INT: _text_integer,
    pickle.LONG: _text_integer,
    pickle.FLOAT: lambda m: m.push(float(m.line())),
    pickle.STRING: _text_string,
    pickle.UNICODE: lambda m: m.push(m.line()),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.byte()),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: lambda m: _integer(m, m.byte()),
    pickle.LONG4: lambda m: _integer(m, m.number("<i")),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.BINSTRING: _bytes("<i", _latin),
    pickle.SHORT_BINSTRING: _bytes("<B", _latin),
    pickle.BINUNICODE: _bytes("<I", _utf8),
    pickle.SHORT_BINUNICODE: _bytes("<B", _utf8),
    pickle.BINUNICODE8: _bytes("<Q", _utf8),
    pickle.BINBYTES: _bytes("<I", bytes),
    pickle.SHORT_BINBYTES: _bytes("<B", bytes),
    pickle.BINBYTES8: _bytes("<Q", bytes),
    pickle.BYTEARRAY8: _bytes("<Q", bytes),
    pickle.EMPTY_TUPLE: _pushing(()),
    pickle.TUPLE1: _tuple(1),
    pickle.TUPLE2: _tuple(2),
    pickle.TUPLE3: _tuple(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.since_mark())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.since_mark()),
    pickle.APPEND: _appended,
    pickle.APPENDS: lambda m: m.extend(m.since_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: lambda m: (values := m.since_mark(), m.push({}), m.set_items(values)),
    pickle.SETITEM: _one_item,
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.EMPTY_SET: lambda m: m.push([]),
    pickle.ADDITEMS: lambda m: m.extend(m.since_mark()),
    pickle.FROZENSET: lambda m: m.push(m.since_mark()),
    pickle.GET: lambda m: m.push(m.memo[int(m.line())]),
    pickle.BINGET: lambda m: m.push(m.memo[m.byte()]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number("<I")]),
    pickle.PUT: lambda m: _memoize(m, int(m.line())),
    pickle.BINPUT: lambda m: _memoize(m, m.byte()),
    pickle.LONG_BINPUT: lambda m: _memoize(m, m.number("<I")),
    pickle.MEMOIZE: lambda m: _memoize(m, len(m.memo)),
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: _stack_name,
    pickle.REDUCE: _called,
    pickle.NEWOBJ: _called,
    pickle.NEWOBJ_EX: _called_with_names,
    pickle.INST: _old_instance,
    pickle.OBJ: _old_object,
    pickle.BUILD: lambda m: m.build(),
    pickle.BINPERSID: lambda m: m.persistent(m.stack.pop()),
}


def read_zip(data: memoryview, entries: Mapping[str, zipfile.ZipInfo]) -> PickleContent:
    """Return what a file of `torch.save` holds; of a large file only the tensors that are used are read from the disk.

    Args:
        data: bytes of the file, see `mapped`.
        entries: of the archive by name, uncompressed and within the file.

    Raises:
        PickleError: if it is damaged.
        RejectedError: if it claims too much, or tensors are no plain numbers.
    """
    index = next(name for name in entries if name.endswith("data.pkl"))
    root, size = index.removesuffix("data.pkl"), len(data)

    def within(name: str) -> memoryview:
        entry = entries.get(name)
        if entry is None:
            raise PickleError(f"{name} is missing in the archive")
        return stored_entry(data, entry)

    if f"{root}byteorder" in entries and bytes(within(f"{root}byteorder")) == b"big":
        raise PickleError("numbers with the highest byte first")
    buffers: dict[str, Tensor] = {}

    def storage(key: tuple[Any, ...]) -> Storage:
        kind, name = _storage_type(key[1]), key[2]
        if not isinstance(name, str):
            raise PickleError("a storage without a name")
        if name not in buffers:
            buffers[name] = _bytes_tensor(within(f"{root}data/{name}"))
        return _sized(buffers[name], kind, key[4])

    machine = PickleInterpreter(BytesIO(within(index)), size, storage)
    return PickleContent(machine.load(), tuple(sorted(machine.stubbed)))


def stored_entry(data: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """Return the bytes of an uncompressed entry of an archive.

    Raises:
        PickleError: if the archive ends before it.
    """
    start = entry.header_offset
    names, extra = struct.unpack("<HH", data[start + 26 : start + 30])
    start += 30 + names + extra
    if start + entry.file_size > len(data):
        raise PickleError("cut off")
    return data[start : start + entry.file_size]


def read_old(stream: Any, size: int, *, depth: int = 0) -> PickleContent:
    """Return what `torch.save` wrote before PyTorch 1.6, one pickle after the other, or what a plain pickle holds.

    Raises:
        PickleError: if it is damaged.
        RejectedError: if it claims too much, or tensors are no plain numbers.
    """
    first = PickleInterpreter(stream, size, None, depth)
    value = first.load()
    if type(value) is not int or value != MAGIC:
        return PickleContent(value, tuple(sorted(first.stubbed)))
    for _ in range(2):  # version and platform
        PickleInterpreter(stream, size, None, depth).load()
    buffers: dict[str, bytearray] = {}
    kinds: dict[str, torch.dtype] = {}

    def storage(key: tuple[Any, ...]) -> Storage:
        kind, name, count = _storage_type(key[1]), key[2], key[4]
        if not isinstance(name, str) or not _are_counts((count,)):
            raise PickleError("a storage without a name or size")
        if name not in buffers:
            if sum(map(len, buffers.values())) + count * kind.itemsize > size:
                raise RejectedError("too_large", f"a storage of {count:,} numbers in a file of {size:,} bytes")
            buffers[name], kinds[name] = bytearray(count * kind.itemsize), kind
        return _sized(_bytes_tensor(memoryview(buffers[name])), kind, count)

    machine = PickleInterpreter(stream, size, storage, depth)
    content = PickleContent(machine.load(), tuple(sorted(machine.stubbed)))
    _fill_storages(stream, size, buffers, kinds)
    return content


def _fill_storages(stream: Any, size: int, buffers: dict[str, bytearray], kinds: dict[str, torch.dtype]) -> None:
    """Read the numbers that follow the pickles of the old format."""
    order = PickleInterpreter(stream, size, None).load() if buffers else []
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(buffers):
        raise PickleError("storages that do not fit the tensors")
    for name in order:
        count = int.from_bytes(stream.read(8), "little")
        data = stream.read(len(buffers[name]))
        if count * kinds[name].itemsize != len(buffers[name]) or len(data) < len(buffers[name]):
            raise PickleError("cut off")
        buffers[name][:] = data


def _storage_type(given: Any) -> torch.dtype:
    name = given.name.rpartition(".")[2] if isinstance(given, Stub) else ""
    if name in QUANTISED:
        raise RejectedError("quantised", "quantised tensors; save the network after dequantize()")
    if name.removesuffix("Storage") not in STORAGES:
        raise PickleError(f"a storage of type {name[:40] or type(given).__name__}")
    return STORAGES[name.removesuffix("Storage")]


def _sized(data: Tensor, kind: torch.dtype, count: Any) -> Storage:
    if not _are_counts((count,)) or count * kind.itemsize > data.numel():
        raise PickleError(f"a storage of {count} numbers in {data.numel():,} bytes")
    return Storage(data, kind)


def _bytes_tensor(data: memoryview) -> Tensor:
    """Return bytes as a tensor that shares their memory."""
    tensor = torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)
    return tensor.clone() if tensor.data_ptr() % ALIGNED else tensor


def mapped(path: Path) -> memoryview:
    """Return the bytes of a file, privately writable; large ones are mapped into memory."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size > SMALL:
            return memoryview(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY))
        data = bytearray(size)
        return memoryview(data)[: stream.readinto(data)]
