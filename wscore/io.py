"""Atomic reading and writing of files: an output is either complete or absent.

Every writer fills a temporary file in the same folder and renames it, so that a full disk or Ctrl-C leaves the old file,
or none. Under torchrun only the first process keeps what it writes, so that all processes can run the same stage.
"""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wscore.errors import DataError

ROWS = 1024  # rows of an array written at once
LARGEST_JSON = 1 << 28  # bytes


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` if the block succeeds, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if is_first_process():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it replaces `path` if the block succeeds, else is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if is_first_process():
            shutil.rmtree(path, ignore_errors=True)
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_first_process() -> bool:
    """Return whether this process is the only one, or the first of several started by torchrun."""
    return os.environ.get("RANK", "0") == "0"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: keys in the given order, two spaces, final newline; NaN and infinity become null."""
    write_text(path, to_json(value))


def to_json(value: object) -> str:
    """Return JSON text: keys in the given order, two spaces, final newline; NaN and infinity become null.

    >>> print(to_json({"loss": float("nan"), "epochs": 2}), end="")
    {
      "loss": null,
      "epochs": 2
    }
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: if the file is missing, not JSON, too long, too deeply nested or has oversized numbers.
    """
    try:
        if Path(path).stat().st_size > LARGEST_JSON:
            raise DataError("is too long", where=path, expected=f"at most {LARGEST_JSON:,} bytes")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("no such file", where=path) from error
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise DataError("is not valid JSON", where=path, got=str(error)) from error


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as CSV atomically, floats with nine significant digits."""
    import pandas as pd

    with atomic_file(path) as temporary:
        pd.DataFrame(dict(columns)).to_csv(temporary, index=False, float_format="%.9g")


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write torch tensors as safetensors atomically; tensors must not share memory.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_file(path) as temporary:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(plain, temporary, metadata={"format": "pt", **(metadata or {})})
            temporary.chmod(0o644)  # safetensors makes files readable by the owner only
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], narrow: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write arrays as float32 safetensors atomically and in batches of rows, without a float32 copy of the whole.

    Args:
        path: of the file.
        arrays: by name, of any precision.
        narrow: converts rows of an array to float32.
    """
    entries: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    end = 0
    names = sorted(arrays)
    for name in names:
        array = arrays[name]
        start, end = end, end + array.size * 4
        entries[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            for start in range(0, len(arrays[name]), ROWS):
                rows = narrow(arrays[name][start : start + ROWS])
                stream.write(np.ascontiguousarray(rows, "<f4").tobytes())


def scratch_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return zeros backed by an unnamed file that is deleted with the array, so that the system can page it out.

    Raises:
        OSError: if the disk is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    here = Path.cwd()  # next to the outputs, since /tmp may be in memory
    with tempfile.TemporaryFile(dir=here if os.access(here, os.W_OK) else None) as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
        return np.memmap(stream, dtype, "r+", shape=shape).view(np.ndarray)


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the torch tensors of a safetensors file, on the CPU.

    Raises:
        DataError: if the file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except FileNotFoundError as error:
        raise DataError("no such file", where=path) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError("is not a readable safetensors file", where=path, got=str(error)) from error


def tensors_below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def create_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """Return a new memory-mapped .npy file with its space on disk already allocated.

    Filling a memory map on a full disk would kill the process with a signal; allocating first raises an error instead.

    Raises:
        OSError: if the disk is full.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with Path(path).open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, Path(path).stat().st_size)
    return array


def write_figure(path: Path, draw: Callable[[Path], object]) -> None:
    """Write a PNG atomically; `draw` saves the figure to the given path."""
    with atomic_file(path) as temporary:
        target = temporary.with_suffix(".tmp.png")
        try:
            draw(target)
            target.replace(temporary)
        finally:
            target.unlink(missing_ok=True)


def content_hash(*parts: bytes | str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part  # names of files may be any bytes
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def source_code(*names: str) -> bytes:
    """Return the Python source of modules and packages in a fixed order, for use in cache keys.

    Args:
        names: files or folders in the package, such as `networks/layout.py` or `symmetry`.
    """
    home = Path(__file__).parent
    paths = [
        path
        for name in names
        for path in sorted((home / name).rglob("*.py") if (home / name).is_dir() else [home / name])
    ]
    return b"".join(path.read_bytes() for path in paths)


def hash_folder(folder: Path) -> str:
    """Return one hash of the relative names and contents of all files in a folder, except hidden ones."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith(".")):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
