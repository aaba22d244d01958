"""Checkpoint files as found in the wild: any common format, recognised by content; no code is ever run.

The formats are those of `torch.save` (new and old), safetensors, NumPy and HDF5 (Keras weights). Sizes are checked
against the file before anything is unpacked, so that a small file can't claim the whole memory.
"""

import io
import lzma
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wscore.errors import DataError, WscoreError, printable
from wscore.networks.naming import native, natural, outputs_first
from wscore.networks.onnx import read_onnx
from wscore.networks.pickles import SMALL, PickleContent, PickleError, mapped, read_old, read_zip, stored_entry
from wscore.networks.records import RejectedError
from wscore.networks.safetensors_file import read_safetensors
from wscore.networks.selection import DEEPEST, MOST_NODES, Checkpoint, only, select_all
from wscore.networks.shards import INDEX, read_index

SKIPPED = re.compile(r"optimizer|seed_generator", re.IGNORECASE)  # groups of HDF5 files
RATIO, HARMLESS_SIZE = 500, 1 << 26  # a file that claims to unpack to more times its bytes, beyond this size, is a bomb
LONGEST_NPY_HEADER = 1 << 16  # bytes
LARGEST = 10**9  # numbers in one network, unless a parameter sets another limit
BROKEN = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, TypeError, ValueError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile,
    zipfile.LargeZipFile, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip


def read_checkpoint(path: Path, *, key: str | None, most: int) -> Checkpoint:
    """Return the only network in a file: see `read_file_networks`.

    Raises:
        RejectedError: also if there are several.
    """
    return only(read_file_networks(path, key=key, most=most))


def read_file_networks(path: Path, *, key: str | None, most: int) -> list[Checkpoint]:
    """Return the networks in a file.

    Args:
        path: of the file; its name does not matter.
        key: dotted key of the state dict within the file, with `*` for all entries of a level; None finds it.
        most: largest count of numbers that is read.

    Raises:
        RejectedError: if the file is damaged, holds code, no state dict, or more numbers than `most`.
    """
    content = load_file(path, most=most)
    try:
        return [network._replace(stubbed=content.stubbed) for network in select_all(content.value, key=key, most=most)]
    except RejectedError as error:
        if error.reason != "no_checkpoint" or not content.stubbed:
            raise
        objects = printable(", ".join(content.stubbed[:4]))
        raise RejectedError("code", f"{error.detail}, but objects of {objects}") from error
    except BROKEN as error:
        raise RejectedError("unreadable", shown(error)) from error


def read_network(path: Path) -> Checkpoint:
    """Return the only network in a file, checked to hold finite numbers.

    Raises:
        DataError: naming the file, if it is unreadable, holds something else, or a number is not finite.
    """
    try:
        network = read_checkpoint(path, key=None, most=LARGEST)
    except RejectedError as error:
        raise DataError("is not a readable checkpoint", where=path, got=f"{error.reason}: {error.detail}") from error
    for name, tensor in network.state.items():
        finite = torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor)  # eight bits: not implemented
        if not bool(finite.all()):
            count = f"{int((~finite).sum())} of {tensor.numel()}"
            raise DataError("holds numbers that are not finite", where=f"{path}: {name}", got=count)
    return network


def load_file(path: Path, *, most: int) -> PickleContent:
    """Return the content of a checkpoint file: nested mappings, lists and tensors, and what was not read of it.

    Raises:
        RejectedError: if it is damaged, of another format, holds code, or claims more than it can hold.
    """
    try:
        content = READERS[file_kind(path)](path, most)
    except WscoreError:
        raise
    except BROKEN as error:
        raise RejectedError("unreadable", shown(error)) from error
    return content if isinstance(content, PickleContent) else PickleContent(content, ())


def shown(error: BaseException) -> str:
    """Return what a parser complains about in one short line of printable letters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {printable(text)}"[:200]


def file_kind(path: Path) -> str:
    """Return the key of `READERS` for the first bytes of a file, or for the name of an index of shards.

    Raises:
        RejectedError: if they belong to none, saying what they are.
        OSError: if the file can't be opened.
    """
    if path.name.endswith(INDEX):
        return "index"
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"  # whose first byte may be that of a pickle
    for start, kind in STARTS.items():
        if head.startswith(start):
            return kind
    if path.suffix.lower() in NAMED and head:
        return NAMED[path.suffix.lower()]
    raise RejectedError("no_checkpoint" if head else "unreadable", _foreign(head))


def _kind_of_archive(path: Path) -> str:
    names = [entry.filename for entry in _entries(path)]
    if KERAS_INSIDE in names:
        return "keras"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if POLICY in names:
        return "policy"
    if any(name.endswith(".npy") for name in names) or not names:
        return "npz"
    raise RejectedError("no_checkpoint", f"a zip archive of {', '.join(names[:3])}")


def _foreign(head: bytes) -> str:
    """Return what a file is that is no checkpoint, and what to do."""
    text = head.lstrip()[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML page instead of the file; download it by its raw link"
    if text.startswith((b"{", b"[")):
        return "JSON text, which holds no weights"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    named = (what for starts, what in OTHERS.items() if head.startswith(starts))
    return next(named, f"first bytes {head[:8].hex()}" if head else "the file is empty")


def _read_torch(path: Path, most: int) -> PickleContent:
    """Return what `torch.save` wrote."""
    return _from_zip(mapped(path), _entries(path), most)


def _from_zip(data: memoryview, entries: list[zipfile.ZipInfo], most: int) -> PickleContent:
    named = {entry.filename: entry for entry in entries}
    if any("/code/" in name or name.endswith("/constants.pkl") for name in named):
        raise RejectedError("code", "a TorchScript program; save its state_dict instead")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RejectedError("too_large", "compressed entries, which torch.save does not write")
    claimed, size = sum(entry.file_size for entry in entries), len(data)
    if claimed > size or any(entry.file_size > 64 * most for entry in entries):
        raise RejectedError("too_large", f"entries of {claimed:,} bytes in a file of {size:,}")
    return read_zip(data, named)


def _read_policy(path: Path, most: int) -> PickleContent:
    """Return the networks of an agent as Stable-Baselines3 saves it."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(POLICY)
        _check_claim(entry.file_size, path)
        data = archive.read(entry)
    if not data.startswith(b"PK"):
        return read_old(io.BytesIO(data), len(data))
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        return _from_zip(memoryview(bytearray(data)), inner.infolist(), most)


def _read_pickle(path: Path, most: int) -> PickleContent:  # noqa: ARG001
    """Return what older versions of `torch.save` wrote, or a plain pickle."""
    with path.open("rb") as stream:
        return read_old(stream, path.stat().st_size)


def _read_shards(path: Path, most: int) -> PickleContent:
    """Return the tensors of all files that an index names."""
    content: dict[str, Any] = {}
    stubbed: set[str] = set()
    where = read_index(path)
    for name in dict.fromkeys(where.values()):
        shard = path.with_name(name)
        if not shard.is_file():
            raise RejectedError("file_missing", f"the shard {printable(name)}")
        tensors, objects = load_file(shard, most=most)
        double = content.keys() & tensors.keys() if isinstance(tensors, Mapping) else {name}
        if double:
            raise RejectedError("clash", f"{printable(min(map(str, double)))} in two shards")
        content |= tensors
        stubbed |= set(objects)
    missing = where.keys() - content.keys()
    if missing:
        raise RejectedError("file_missing", f"{printable(min(missing))} is in the index, and in no shard")
    return PickleContent(content, tuple(sorted(stubbed)))


def _read_msgpack(path: Path, most: int) -> Any:
    """Return what flax serialised: nested mappings of arrays."""
    try:
        import msgpack
    except ImportError as error:
        raise RejectedError("unreadable", "flax files need msgpack: pip install 'wscore[flax]'") from error

    def array(code: int, data: bytes) -> Any:
        if code not in (1, 3):  # an array, a scalar
            raise RejectedError("not_real", f"a value of type {code} of flax")
        shape, name, numbers = msgpack.unpackb(data, raw=False, max_ext_len=0)
        dtype = np.dtype(np.uint16 if name == "bfloat16" else name)
        if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize != len(numbers):
            raise RejectedError("not_real", f"an array {shape} of {name} in {len(numbers):,} bytes")
        values = np.frombuffer(numbers, dtype).reshape(shape).copy()
        if name == "bfloat16":
            return torch.from_numpy(values).view(torch.bfloat16)
        return values if code == 1 else values.reshape(-1)[0].item()

    size = path.stat().st_size
    if size > 64 * most:
        raise RejectedError("too_large", f"{size:,} bytes")
    return msgpack.unpackb(path.read_bytes(), ext_hook=array, raw=False, strict_map_key=False)


def _read_npz(path: Path, most: int) -> dict[str, Tensor]:
    state, remaining, data = {}, most, mapped(path)
    entries = [entry for entry in _entries(path) if entry.filename.endswith(".npy")]
    _check_claim(sum(entry.file_size for entry in entries), path)
    for entry in entries:
        with _open_entry(path, data, entry) as stream:
            tensor = _array(stream, entry.file_size, remaining)
        state[entry.filename.removesuffix(".npy")] = tensor
        remaining -= tensor.numel()
    return state


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    """Return the entries of an archive."""
    stat = path.stat()
    return _entries_of(path, (stat.st_size, stat.st_mtime_ns, stat.st_ino))


@lru_cache(maxsize=2)  # an archive is opened to recognise it, and again to read it
def _entries_of(path: Path, stamp: tuple[int, ...]) -> list[zipfile.ZipInfo]:  # noqa: ARG001
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()


@contextmanager
def _open_entry(path: Path, data: memoryview, entry: zipfile.ZipInfo) -> Iterator[Any]:
    """Yield the bytes of an entry as a stream; small ones that are not compressed without the detours of `zipfile`.

    Raises:
        PickleError: if it is cut off or altered.
    """
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size > SMALL:
        with zipfile.ZipFile(path) as archive, archive.open(entry) as stream:
            yield stream
        return
    content = bytes(stored_entry(data, entry))
    if zlib.crc32(content) != entry.CRC:
        raise PickleError(f"{entry.filename} does not have its checksum")
    yield io.BytesIO(content)


def _check_claim(claimed: int, path: Path) -> None:
    """Refuse a file that claims to unpack to far more bytes than it holds."""
    size = path.stat().st_size
    if claimed > max(RATIO * size, HARMLESS_SIZE):
        raise RejectedError("too_large", f"{claimed:,} bytes in a file of {size:,}")


def _read_npy(path: Path, most: int) -> dict[str, Tensor]:
    with path.open("rb") as stream:
        return {"weights": _array(stream, path.stat().st_size, most)}


def _array(stream: Any, size: int, most: int) -> Tensor:
    """Return a .npy stream as a tensor; its header may not claim more than the stream holds."""
    head = stream.read(10)
    head += b"" if head[6:7] == b"\x01" else stream.read(2)
    head += stream.read(min(int.from_bytes(head[8:], "little"), LONGEST_NPY_HEADER))
    shape, fortran, dtype = _npy_header(head)
    count = math.prod(shape)
    if dtype.hasobject:
        raise RejectedError("code", "an array of Python objects")
    if count > most or count * dtype.itemsize > size:
        raise RejectedError("too_large", f"an array {shape} of {dtype} in {size:,} bytes")
    if dtype.kind not in "fiub":
        raise RejectedError("not_real", f"an array of {dtype}")
    data = stream.read(count * dtype.itemsize)
    array = np.frombuffer(data, dtype, count=count).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(array.astype(native(dtype))).reshape(shape))  # (): it makes (1,) of it


@lru_cache(maxsize=1 << 12)  # headers recur from file to file
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order of axes and type of an array from its beginning.

    Raises:
        ValueError: if it is damaged.
    """
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _read_hdf5(path: Path, most: int) -> dict[str, Tensor]:
    """Return the data sets of an HDF5 file by PyTorch's names; links to other files are not followed."""
    return _from_hdf5(path, path, most)


def _read_keras(path: Path, most: int) -> dict[str, Tensor]:
    """Return the weights in a .keras archive; its description of layers, which may hold code, is not read."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(KERAS_INSIDE)
        if entry.file_size > 64 * most:
            raise RejectedError("too_large", f"{entry.file_size:,} bytes")
        _check_claim(entry.file_size, path)
        return _from_hdf5(io.BytesIO(archive.read(entry)), path, most)


def _from_hdf5(file: Any, path: Path, most: int) -> dict[str, Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise RejectedError("unreadable", "HDF5 needs h5py: pip install 'wscore[keras]'") from error
    sets: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    stack: list[tuple[str, Any]] = [("", None)]
    with h5py.File(file, "r") as content:
        while stack:
            prefix, group = stack.pop()
            group = content if group is None else group
            _note_order(prefix, group, ranks)
            for name in map(str, group):
                if len(sets) + len(stack) > MOST_NODES or prefix.count("/") > DEEPEST:
                    raise RejectedError(
                        "too_large", f"nested deeper than {DEEPEST} or in more than {MOST_NODES:,} parts"
                    )
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise RejectedError("outside", f"{prefix}{name} is a link")
                item = group[name]
                if not isinstance(item, h5py.Group):
                    sets[f"{prefix}{name}"] = item
                elif not SKIPPED.match(name):
                    stack.append((f"{prefix}{name}/", item))
        if not sets:
            raise RejectedError("no_checkpoint", "an HDF5 file without data sets")
        _check_data_sets(sets.values(), path, most)
        names = sorted(sets, key=lambda name: _keras_order(name, ranks))
        state = {name: torch.from_numpy(np.asarray(sets[name][()]).astype(native(sets[name].dtype))) for name in names}
    return _from_keras(state)


def _check_data_sets(items: Iterable[Any], path: Path, most: int) -> None:
    """Refuse data sets that lie elsewhere, are no numbers, or claim too many, before any of them is read."""
    count = size = 0
    for item in items:
        if item.is_virtual or item.external:
            raise RejectedError("outside", f"{item.name} lies in another file")
        if item.dtype.kind not in "fiub":
            raise RejectedError("not_real", f"{item.name}: {item.dtype}")
        count += item.size
        size += item.size * item.dtype.itemsize
        if count > most:
            raise RejectedError("too_large", f"{count:,} numbers, the last {item.name}: {item.shape}")
    _check_claim(size, path)


def _note_order(prefix: str, group: Any, ranks: dict[str, int]) -> None:
    """Note the order of layers and of their weights, which Keras 2 writes beside them; groups themselves are unordered."""
    for key in ("layer_names", "weight_names"):
        for place, name in enumerate(group.attrs.get(key, ())):
            path = (name.decode() if isinstance(name, bytes) else str(name)).split("/")
            for count in range(len(path)):
                ranks.setdefault(prefix + "/".join(path[: count + 1]), place)


def _keras_order(name: str, ranks: Mapping[str, int]) -> list[Any]:
    """Return a key that sorts data sets as their layers come, where that is known, and numbers in names by value."""
    path = name.split("/")
    return [
        (ranks.get("/".join(path[: place + 1]), len(ranks)), natural(component)) for place, component in enumerate(path)
    ]


def _from_keras(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Keras weights by PyTorch's names, kernels with outputs first; two equal parts of a path become one.

    Files of Keras 3 number the variables of a layer (`vars/0`), so their names are inferred from shapes and layer.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for name, tensor in state.items():
        shapes.setdefault(name.rpartition("/")[0], []).append(tuple(tensor.shape))
    enclosed = all(name.startswith("model_weights/") for name in state)  # a file of a model with its description
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        path = [component.partition(":")[0] for component in name.split("/")][enclosed:]
        path = [component for place, component in enumerate(path) if place == 0 or component != path[place - 1]]
        leaf = path[-1]
        if leaf.isdecimal() and path[-2:-1] == ["vars"]:
            names = _variables("/".join(path[:-2]), shapes[name.rpartition("/")[0]])
            leaf = names[int(leaf)] if int(leaf) < len(names) else leaf
            path = [*path[:-2], leaf]
        key = ".".join([*path[:-1], KERAS.get(leaf, leaf)])
        if key in renamed:
            raise RejectedError("clash", key)
        renamed[key] = outputs_first(leaf, tensor)
    return renamed


def _variables(layer: str, shapes: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """Return the names of the numbered variables of a layer of Keras 3."""
    kind, axes = layer.rpartition("/")[2], [len(shape) for shape in shapes]
    if set(axes) == {1}:
        statistics = ("moving_mean", "moving_variance")
        return {3: ("beta", *statistics), 4: ("gamma", "beta", *statistics)}.get(len(axes), ("gamma", "beta"))
    if kind.startswith("embedding") and axes == [2]:
        return ("embeddings",)
    if axes[:2] == [2, 2]:
        return "kernel", "recurrent_kernel", "bias"
    if axes[0] > 2 and axes[:2] == [axes[0], axes[0]]:
        return "depthwise_kernel", "pointwise_kernel", "bias"
    return ("depthwise_kernel" if kind.startswith("depthwise") else "kernel"), "bias"


KERAS_INSIDE, POLICY = "model.weights.h5", "policy.pth"  # of a .keras archive, of one of Stable-Baselines3
STARTS = {b"\x89HDF\r\n\x1a\n": "hdf5", b"\x93NUMPY": "npy", b"\x80": "pickle"}  # of files and their format
OTHERS = {
    (b"version https://git-lfs",): "a pointer of git-lfs instead of the file; run `git lfs pull`",
    (b"GGUF",): "a GGUF file of quantised weights; name the checkpoint that it was made from",
    (
        b"\x1f\x8b",
        b"BZh",
        b"\xfd7zXZ",
        b"7z\xbc\xaf",
        b"\x28\xb5\x2f\xfd",
        b"Rar!",
    ): "a compressed file; unpack it first",
}  # files of which people think that they are checkpoints
NAMED = {".msgpack": "msgpack", ".onnx": "onnx"}  # formats without a beginning of their own
SUFFIXES = (
    ".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors", ".npz", ".npy", ".h5", ".hdf5", ".keras", ".pkl", ".msgpack",
    ".th", ".onnx", ".distcp",
)  # fmt: skip
KERAS = {
    "kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip
READERS: dict[str, Callable[[Path, int], Any]] = {
    "torch": _read_torch, "pickle": _read_pickle, "safetensors": read_safetensors, "npz": _read_npz,
    "npy": _read_npy, "hdf5": _read_hdf5, "keras": _read_keras, "policy": _read_policy, "msgpack": _read_msgpack,
    "onnx": read_onnx, "index": _read_shards,
}  # fmt: skip
