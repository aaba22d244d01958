"""Checkpoint files as they are found in the wild: any common format, told from the content, never running code.

The formats are those of `torch.save` (new and old), safetensors, NumPy and HDF5 (Keras weights). Sizes are checked
against the file before anything is unpacked, so that a small file can't claim the whole memory.
"""

import argparse
import math
import pathlib
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wscore.errors import DataError, WscoreError
from wscore.zoo.records import RejectedError

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params", "weights")
MEMORIES = re.compile(
    r"optim|sched|scaler|exp_avg|rng|random|callback|loops|gradient|^ema_opt|^opt$|^opt_", re.IGNORECASE
)
WRAPPING = re.compile(r"(?:^|(?<=\.))_orig_mod\.")
DEEPEST, MOST_NODES = 24, 200_000
LARGEST = 10**9  # numbers in one network, where no parameter says otherwise
UnpicklingError = torch.serialization.pickle.UnpicklingError  # pyright: ignore[reportPrivateImportUsage]
BROKEN = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, TypeError, ValueError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile,
    UnpicklingError, SafetensorError,
)  # fmt: skip
Scalar = bool | int | float | str


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
        state: floating-point tensors and counters (one integer) by name, as they are stored.
        notes: numbers and texts beside them, such as epoch and accuracy.
        constants: masks and tables of indices by name: buffers that belong to the architecture and are no weights.
    """

    state: dict[str, Tensor]
    notes: dict[str, Scalar]
    constants: dict[str, Tensor]


def read_checkpoint(path: Path, *, key: str | None, most: int) -> Checkpoint:
    """Return the state dict of one network in a file.

    Args:
        path: of the file; its name does not matter.
        key: dotted key of the state dict within the file; None finds it.
        most: largest count of numbers that is read.

    Raises:
        RejectedError: if the file is damaged, holds code, no state dict, or more numbers than `most`.
    """
    try:
        return select(load_file(path, most=most), key=key, most=most)
    except WscoreError:
        raise
    except BROKEN as error:
        raise RejectedError("unreadable", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of one network in a file, checked to hold finite numbers.

    Raises:
        DataError: naming the file, if it is unreadable, holds something else, or a number is not finite.
    """
    try:
        state = read_checkpoint(path, key=None, most=LARGEST).state
    except RejectedError as error:
        raise DataError("is not a readable checkpoint", where=path, got=f"{error.reason}: {error.detail}") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()}"
            raise DataError("holds numbers that are not finite", where=f"{path}: {name}", got=count)
    return state


def load_file(path: Path, *, most: int) -> Any:
    """Return the content of a checkpoint file: nested mappings, lists and tensors.

    Raises:
        RejectedError: if it is damaged, of another format, holds code, or claims more than it can hold.
    """
    try:
        return READERS[kind_of(path)](path, most)
    except WscoreError:
        raise
    except BROKEN as error:
        text = " ".join(str(error).split()) or type(error).__name__
        unsafe = isinstance(error, UnpicklingError) and "eights only" in text
        raise RejectedError("code" if unsafe else "unreadable", _short(text)) from error


def _short(text: str) -> str:
    """Return the part of torch's long message that says what is not allowed, or its start."""
    found = re.search(r"(?:Unsupported|GLOBAL|Can only|Trying to|Attempted)[^.]*\.[^.\s]*[^.]*", text)
    return (found[0] if found else text)[:200]


def kind_of(path: Path) -> str:
    """Return the key of `READERS` that the first bytes of a file ask for.

    Raises:
        RejectedError: if they belong to none.
        OSError: if the file can't be opened.
    """
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "torch" if any(name.endswith("data.pkl") for name in names) else "npz"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    if head[257:262] == b"ustar":
        raise RejectedError("no_checkpoint", "a tar archive; unpack it first")
    if head.startswith(b"\x80"):
        return "pickle"
    raise RejectedError("no_checkpoint" if len(head) else "unreadable", f"first bytes {head[:8].hex() or 'none'}")


def select(content: Any, *, key: str | None, most: int) -> Checkpoint:
    """Return the network in what was read from a file, without prefixes of wrappers and without constant buffers.

    Raises:
        RejectedError: if there is none, its tensors are not real numbers, or they are more than `most`.
    """
    notes: dict[str, Scalar] = {}
    if key is not None:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                known = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
                raise RejectedError("no_checkpoint", f"zoo.reading.state_key {key!r} is not there, but {known}")
            notes |= _scalars(content)
            content = content[part]
    found = dict(_flat(_unwrapped(content, notes)))
    if not found:
        raise RejectedError("no_checkpoint", f"{type(content).__name__} without tensors by name")
    state = _renamed(found)
    count = sum(tensor.numel() for tensor in state.values())
    if count > most:
        raise RejectedError("too_large", f"{count:,} numbers")
    kept = {name: tensor for name, tensor in state.items() if is_weight(name, tensor)}
    if not any(tensor.is_floating_point() and tensor.numel() for tensor in kept.values()):
        raise RejectedError("no_checkpoint", f"no floating-point tensors among {sorted(state)[:6]}")
    return Checkpoint(kept, notes, {name: tensor for name, tensor in state.items() if name not in kept})


def _unwrapped(content: Any, notes: dict[str, Scalar]) -> Any:
    """Return the mapping that is the network: the only one, the one with a well-known name, or the first of copies."""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            return content
        notes |= {name: value for name, value in _scalars(content).items() if name not in notes}
        parts = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
        parts = {name: value for name, value in parts.items() if not _is_memory(name, value) and any(_flat(value))}
        known = next((name for name in WRAPPERS if name in parts), None)
        direct = any(
            isinstance(value, Tensor) and value.is_floating_point() and not MEMORIES.search(str(name))
            for name, value in content.items()
        )
        if known is None and (direct or not parts):
            return content
        if known is None and len(parts) > 1 and not _are_copies(list(parts.values())):
            return parts
        content = parts[known or next(iter(parts))]
    return content


def _is_memory(name: str, value: Mapping[Any, Any]) -> bool:
    """Return whether a part of a checkpoint belongs to an optimizer, a schedule or a random generator."""
    return bool(MEMORIES.search(name)) or {"state", "param_groups"} <= set(map(str, value))


def _are_copies(parts: list[Mapping[Any, Any]]) -> bool:
    shapes = [{name: tuple(tensor.shape) for name, tensor in _flat(part)} for part in parts]
    return all(shape == shapes[0] for shape in shapes)


def _flat(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors in nested mappings with dotted names; what belongs to an optimizer is left out."""
    stack: list[tuple[str, Any, int]] = [("", content, 0)]
    seen = 0
    while stack:
        prefix, value, depth = stack.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_NODES:
            raise RejectedError("too_large", f"nested deeper than {DEEPEST} or in more than {MOST_NODES:,} parts")
        if isinstance(value, Tensor):
            yield prefix or "weights", value
        elif isinstance(value, Mapping):
            inner = [(f"{prefix}.{name}" if prefix else str(name), item, depth + 1) for name, item in value.items()
                     if not (isinstance(item, Mapping) and _is_memory(str(name), item))]  # fmt: skip
            stack.extend(reversed(inner))


def _scalars(content: Mapping[Any, Any]) -> dict[str, Scalar]:
    plain = {str(name): value.item() if isinstance(value, np.generic) else value for name, value in content.items()}
    return {name: value for name, value in plain.items() if isinstance(value, Scalar) and len(str(value)) <= 200}


def _renamed(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefixes that compiling and data parallelism put before all names."""
    names = [WRAPPING.sub("", name) for name in found]
    while names and all(name.startswith("module.") for name in names):
        names = [WRAPPING.sub("", name.removeprefix("module.")) for name in names]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise RejectedError("clash", double)
    return dict(zip(names, found.values(), strict=True))


def is_weight(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is a weight or a counter; masks and tables of indices are constants of the architecture."""
    if tensor.is_complex() or tensor.is_sparse or tensor.is_quantized or tensor.layout != torch.strided:
        raise RejectedError("not_real", f"{name}: {tensor.dtype}, {tensor.layout}")
    if not tensor.is_floating_point():
        return tensor.numel() == 1
    leaf = name.rpartition(".")[2]
    if tensor.ndim < 2 or not ("mask" in leaf or leaf == "bias"):
        return True
    values = torch.unique(tensor.detach()[..., :64, :64].float())
    return len(values) > 2 or not bool(((values == 0) | (values == 1) | (values < -1e4)).all())


def _read_torch(path: Path, most: int) -> Any:
    """Return what `torch.save` wrote, mapped into memory: only the tensors that are used are read from the disk."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RejectedError("too_large", "compressed entries, which torch.save does not write")
    claimed, held = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > held or any(entry.file_size > 64 * most for entry in entries):
        raise RejectedError("too_large", f"entries of {claimed:,} bytes in a file of {held:,}")
    if path.suffix == ".safetensors":  # torch goes by the name here, which is wrong
        return _read_pickle(path, most)
    return _load(path, mmap=True)


def _read_pickle(path: Path, most: int) -> Any:  # noqa: ARG001
    """Return what `torch.save` wrote, read as a stream; older versions wrote one pickle after the other."""
    with path.open("rb") as stream:
        return _load(stream, mmap=False)


def _load(file: Any, *, mmap: bool) -> Any:
    """Return what torch reads without running code; its warnings about odd files are left to the errors that follow."""
    with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def _read_safetensors(path: Path, most: int) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", device="cpu") as content:
        names = list(content.keys())
        count = sum(math.prod(content.get_slice(name).get_shape()) for name in names)
        if count > most:
            raise RejectedError("too_large", f"{count:,} numbers")
        return {name: content.get_tensor(name) for name in names}


def _read_npz(path: Path, most: int) -> dict[str, Tensor]:
    state = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            with archive.open(entry) as stream:
                state[entry.filename.removesuffix(".npy")] = _array(stream, entry.file_size, most)
    return state


def _read_npy(path: Path, most: int) -> dict[str, Tensor]:
    with path.open("rb") as stream:
        return {"weights": _array(stream, path.stat().st_size, most)}


def _array(stream: Any, held: int, most: int) -> Tensor:
    """Return a .npy stream as a tensor; its header may not claim more than the stream holds."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    count = math.prod(shape)
    if dtype.hasobject:
        raise RejectedError("code", "an array of Python objects")
    if count > most or count * dtype.itemsize > held:
        raise RejectedError("too_large", f"an array {shape} of {dtype} in {held:,} bytes")
    if dtype.kind not in "fiub":
        raise RejectedError("not_real", f"an array of {dtype}")
    data = stream.read(count * dtype.itemsize)
    array = np.frombuffer(data, dtype, count=count).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(array.astype(_native(dtype))))


def _native(dtype: np.dtype) -> np.dtype:
    """Return a type that torch has: its own byte order, and no extended or unsigned long numbers."""
    if dtype.kind == "f":
        return np.dtype(f"f{min(dtype.itemsize, 8)}")
    return np.dtype(bool) if dtype.kind == "b" else np.dtype(np.int64)


def _read_hdf5(path: Path, most: int) -> dict[str, Tensor]:
    """Return the data sets of an HDF5 file by PyTorch's names; links to other files are not followed."""
    try:
        import h5py
    except ImportError as error:
        raise RejectedError("unreadable", "HDF5 needs h5py: pip install 'wscore[keras]'") from error
    state: dict[str, Tensor] = {}
    with h5py.File(path, "r") as content:
        stack: list[tuple[str, Any]] = [("", content)]
        while stack:
            prefix, group = stack.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise RejectedError("outside", f"{prefix}{name} is a link")
                item = group[name]
                if isinstance(item, h5py.Group):
                    if not MEMORIES.search(name):
                        stack.append((f"{prefix}{name}/", item))
                elif len(state) < MOST_NODES:
                    state[f"{prefix}{name}"] = _data_set(item, path.stat().st_size, most)
        if len(state) == 0:
            raise RejectedError("no_checkpoint", "an HDF5 file without data sets")
    return _from_keras(dict(sorted(state.items(), key=lambda pair: _keras_order(pair[0]))))


def _data_set(item: Any, held: int, most: int) -> Tensor:
    if item.is_virtual or item.external:
        raise RejectedError("outside", f"{item.name} lies in another file")
    if item.dtype.kind not in "fiub":
        raise RejectedError("not_real", f"{item.name}: {item.dtype}")
    if item.size > most or item.size * item.dtype.itemsize > 1000 * held:
        raise RejectedError("too_large", f"{item.name}: {item.shape} in a file of {held:,} bytes")
    return torch.from_numpy(np.asarray(item[()]).astype(_native(item.dtype)))


def _keras_order(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name)]


def _from_keras(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Keras weights by PyTorch's names, kernels with outputs first; two equal parts of a path become one.

    Files of Keras 3 number the variables of a layer (`vars/0`): matrices come first, then biases; four vectors are those
    of a batch normalisation.
    """
    renamed: dict[str, Tensor] = {}
    for name, stored in state.items():
        tensor = stored
        parts = [part.partition(":")[0] for part in name.split("/")]
        parts = [part for place, part in enumerate(parts) if place == 0 or part != parts[place - 1]]
        leaf = parts[-1]
        if leaf.isdecimal() and parts[-2:-1] == ["vars"]:
            siblings = [item for other, item in state.items() if other.rpartition("/")[0] == name.rpartition("/")[0]]
            norm = len(siblings) == 4 and all(item.ndim == 1 for item in siblings)
            names = ("gamma", "beta", "moving_mean", "moving_variance") if norm else ("kernel", "bias")
            leaf = names[int(leaf)] if int(leaf) < len(names) else leaf
            parts = [*parts[:-2], leaf]
        if leaf.endswith("kernel") and tensor.ndim > 1:
            tensor = tensor.permute(tensor.ndim - 1, tensor.ndim - 2, *range(tensor.ndim - 2)).contiguous()
        key = ".".join([*parts[:-1], KERAS.get(leaf, leaf)])
        if key in renamed:
            raise RejectedError("clash", key)
        renamed[key] = tensor
    return renamed


KERAS = {
    "kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip
SCALAR, RECONSTRUCT = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]  # how NumPy's values are made again
HARMLESS: list[Any] = [
    argparse.Namespace, pathlib.PosixPath, np.dtype, np.ndarray, np.dtypes.Float64DType, np.dtypes.Float32DType,
    np.dtypes.Int64DType, np.dtypes.Int32DType, np.dtypes.BoolDType,
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]  # fmt: skip
READERS: dict[str, Callable[[Path, int], Any]] = {
    "torch": _read_torch, "pickle": _read_pickle, "safetensors": _read_safetensors, "npz": _read_npz,
    "npy": _read_npy, "hdf5": _read_hdf5,
}  # fmt: skip
