"""Readers of files from strangers: whatever the bytes, a network comes out or one named refusal, and no code runs."""

import io
import json
import shutil

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tests.properties.fuzz import fuzz
from wscore.config import load_section
from wscore.errors import WscoreError
from wscore.networks.checkpoints import read_checkpoint
from wscore.networks.records import REASONS, RawNetwork, Rejected, RejectedError
from wscore.zoo.config import ZooConfig
from wscore.zoo.readers.flat_vectors import read_vectors
from wscore.zoo.readers.tables import plan_hub, read_piece

STATE = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.ones(3), "n": torch.tensor(3)}


def hdf5() -> bytes:
    h5py = pytest.importorskip("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["fc/kernel"] = np.ones((3, 4), np.float32)
    return stream.getvalue()


def valid() -> list[bytes]:
    new, old, npz = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(STATE, new)
    torch.save(STATE, old, _use_new_zipfile_serialization=False)
    np.savez(npz, **{name: value.numpy() for name, value in STATE.items()})
    return [new.getvalue(), old.getvalue(), npz.getvalue(), save(STATE), hdf5()]


FILES = valid()


@st.composite
def damaged(draw):
    """A valid file with some bytes changed, cut out or doubled, or random bytes after a known beginning."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if what == "set":
            data[place] = draw(st.integers(0, 255))
        elif what == "cut":
            del data[place : place + draw(st.integers(1, 40))]
        elif what == "insert":
            data[place:place] = draw(st.binary(max_size=20))
        else:
            del data[max(place, 1) :]
        if not data:
            break
    return bytes(data)


def outcome(path):
    try:
        return read_checkpoint(path, key=None, most=1000)
    except RejectedError as error:
        return error


@fuzz(60)
@given(st.one_of(damaged(), st.binary(max_size=300)))
def test_any_bytes_make_a_network_or_a_named_refusal(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    result = outcome(path)
    if isinstance(result, RejectedError):
        assert result.reason in REASONS
        assert "\n" not in str(result)
    else:
        assert sum(tensor.numel() for tensor in result.state.values()) <= 1000
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_warnings_about_odd_pickles_stay_inside(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(FILES[1].replace(b"\x80\x02", b"\x80\x00", 1))  # an old protocol, of which torch warns
    assert set(outcome(path).state) == set(STATE)


@fuzz(60)
@given(damaged())
def test_files_of_vectors_too(tmp_path, data):
    (tmp_path / "file.pt").write_bytes(data)
    reading = load_section(ZooConfig, "zoo").reading
    for item in read_vectors(reading, str(tmp_path / "file.pt")):
        assert isinstance(item, RawNetwork) or item.reason in REASONS


@fuzz(60)
@given(data=st.data())
def test_a_damaged_zoo_folder_makes_networks_or_named_refusals(tiny_zoo, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    shutil.copytree(tiny_zoo, folder)
    files = sorted([*folder.rglob("*.parquet"), folder / "layouts.json"])
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        content[place : place + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=20))
    path.write_bytes(content)
    try:
        plan = plan_hub(msgspec.structs.replace(load_section(ZooConfig, "zoo"), source="hub", path=str(folder)))
        items = [item for piece in plan.pieces for item in plan.read(piece)]
    except WscoreError as error:
        items, message = [], str(error)
    else:
        message = ""
    assert message.isprintable()
    assert all(isinstance(item, RawNetwork) or item.reason in REASONS for item in items)
    shutil.rmtree(folder)


cells = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


@fuzz(60)
@given(st.lists(st.one_of(cells.map(lambda value: json.dumps({"weights": value})), st.text(max_size=20)), min_size=1))
def test_any_json_in_a_table_makes_a_network_or_a_named_refusal(tmp_path, texts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from wscore.zoo.readers.tables import Piece

    pq.write_table(pa.table({"weights": texts}), tmp_path / "t.parquet")
    reading = load_section(ZooConfig, "zoo").reading
    found = list(read_piece(reading, Piece(str(tmp_path / "t.parquet"), (0,), 0)))
    assert len(found) == len(texts)
    assert all(
        isinstance(item, RawNetwork) or (isinstance(item, Rejected) and item.reason in REASONS) for item in found
    )
