"""Outputs exist whole or not at all, whatever goes wrong while they are written."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from wscore import io
from wscore.errors import DataError


def write_numbers(path: Path) -> None:
    io.write_json(path, list(range(1000)))


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: io.write_text(path, "x" * 5000),
    "json": write_numbers,
    "csv": lambda path: io.write_csv(path, {"a": range(2000)}),
    "tensors": lambda path: io.write_tensors(path, {"a": torch.zeros(2000)}),
    "figure": lambda path: io.write_figure(path, lambda target: target.write_bytes(b"x" * 5000)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_writers_make_folders_replace_and_leave_nothing_else(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    WRITERS[kind](path)
    first = path.read_bytes()
    path.write_bytes(b"old")
    WRITERS[kind](path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the file size acts like a full disk."""
    for kind in WRITERS:
        (tmp_path / kind).write_text("old")
    code = f"""
import errno, resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.unit.test_io import WRITERS
import pandas, torch, safetensors.torch
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for kind, write in WRITERS.items():
    try:
        write(Path(kind))
        print(kind, "wrote")
    except OSError as error:
        print(kind, errno.errorcode[error.errno])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout.splitlines() == [f"{kind} EFBIG" for kind in WRITERS]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(WRITERS, "old")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_block_leaves_file_and_folder_as_they_were(error: type[BaseException], tmp_path: Path) -> None:
    io.write_text(tmp_path / "file", "old")
    io.write_text(tmp_path / "folder" / "inside", "old")
    with pytest.raises(error):
        write_half(tmp_path, error)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "inside").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def write_half(folder: Path, error: type[BaseException]) -> None:
    with io.atomic_file(folder / "file") as file, io.atomic_folder(folder / "folder") as inner:
        file.write_text("half")
        (inner / "inside").write_text("half")
        raise error


def test_atomic_folder_replaces_the_whole_folder(tmp_path: Path) -> None:
    io.write_text(tmp_path / "folder" / "old", "old")
    with io.atomic_folder(tmp_path / "folder") as path:
        (path / "new").write_text("new")
        assert (tmp_path / "folder" / "old").exists()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]


def test_only_the_first_of_several_processes_keeps_what_it_writes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    io.write_text(tmp_path / "file", "second")
    with io.atomic_folder(tmp_path / "folder") as path:
        (path / "inside").write_text("second")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("RANK", "0")
    io.write_text(tmp_path / "file", "first")
    assert (tmp_path / "file").read_text() == "first"


def test_json_has_no_nan_and_keeps_the_order(tmp_path: Path) -> None:
    value = {"b": np.float32(0.5), "a": [math.nan, math.inf, 1.0], 3: np.arange(2), "é": (True, None)}
    io.write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert io.read_json(tmp_path / "file.json") == {"b": 0.5, "a": [None, None, 1.0], "3": [0, 1], "é": [True, None]}
    assert text.index('"b"') < text.index('"a"') < text.index('"é"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_unreadable_json_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: is not valid JSON"):
        io.read_json(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: no such file"):
        io.read_json(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match=r"nowhere\.safetensors: no such file"):
        io.read_tensors(tmp_path / "nowhere.safetensors")


def test_csv_keeps_nine_digits(tmp_path: Path) -> None:
    values = np.array([1 / 3, 1e-12, 123456.789], dtype=np.float32)
    io.write_csv(tmp_path / "file.csv", {"epoch": [1, 2, 3], "value": values})
    read = pd.read_csv(tmp_path / "file.csv")
    assert np.array_equal(read["value"].to_numpy(np.float32), values)
    assert read["epoch"].tolist() == [1, 2, 3]


def test_tensors_round_trip_bit_for_bit(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(3), "c": torch.randn(2).bfloat16().requires_grad_()}
    io.write_tensors(tmp_path / "file.safetensors", tensors, {"note": "text"})
    read = io.read_tensors(tmp_path / "file.safetensors")
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(read[name], value)
        assert read[name].dtype == value.dtype


@pytest.mark.parametrize("shape", [(2, 3), (2500, 3), (0, 4), (5, 0)])
def test_arrays_are_written_as_tensors_are(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Some rows at once, yet the same bytes; names out of order, one of them not ASCII."""
    values = np.random.default_rng(0).standard_normal(shape)
    arrays = {"b": values, "ä": values[:, ::-1].astype(np.float32), "a": values.T.astype(np.float32)}
    io.write_tensors(tmp_path / "one", {k: torch.from_numpy(v.astype(np.float32).copy()) for k, v in arrays.items()})
    io.write_arrays(tmp_path / "other", arrays, lambda rows: rows.astype(np.float32))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_scratch_arrays_hold_numbers_in_no_file_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = io.scratch_array((300, 7), np.float32)
    assert not array.any()
    array[:] = 7
    assert array.sum() == 7 * 2100
    assert not list(tmp_path.iterdir())
    assert io.scratch_array((0, 7), float).shape == (0, 7)


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_truncated_tensors_are_named(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    io.write_tensors(path, {"a": torch.zeros(10)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{path}: is not a readable safetensors file"):
        io.read_tensors(path)


def test_a_new_array_takes_its_space_at_once(tmp_path: Path) -> None:
    array = io.create_array(tmp_path / "file.npy", (1000, 30), np.float32)
    assert (tmp_path / "file.npy").stat().st_blocks * 512 >= array.nbytes
    array[:] = 7
    array.flush()
    assert np.load(tmp_path / "file.npy").sum() == 7 * 30000


def test_content_hash_separates_its_parts() -> None:
    assert len({io.content_hash(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""))}) == 4
    assert io.content_hash("a", b"a") == io.content_hash(b"a", "a")
    assert io.content_hash("wscore") == "49439c8ddeca9239"


def test_hash_of_a_folder_depends_on_names_and_bytes_only(tmp_path: Path) -> None:
    def make(folder: Path, name: str, text: str) -> str:
        io.write_text(folder / "deep" / name, text)
        io.write_text(folder / ".hidden", str(folder))
        return io.hash_folder(folder)

    first = make(tmp_path / "1", "a", "x")
    os.utime(tmp_path / "1" / "deep" / "a", (0, 0))
    assert first == make(tmp_path / "2", "a", "x") == io.hash_folder(tmp_path / "1")
    assert first != make(tmp_path / "3", "b", "x")
    assert first != make(tmp_path / "4", "a", "y")
