"""One network, whatever wraps it: formats, nesting, prefixes, shards and order change nothing; damage is named."""

import io
import json
import zipfile

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from tests.properties.fuzz import fuzz
from wscore.config import load_section
from wscore.networks.checkpoints import read_checkpoint, read_file_networks
from wscore.networks.layout import layout_of
from wscore.networks.records import REASONS, RawNetwork, Rejected, RejectedError
from wscore.zoo.config import ZooConfig
from wscore.zoo.readers.folder import plan_folder
from wscore.zoo.readers.tables import Piece, read_piece

MOST = 10**5
ZOO = load_section(ZooConfig, "zoo")
MODULES = st.lists(
    st.sampled_from(["0", "2", "10", "conv1", "bn1", "fc", "encoder.0", "encoder.10", "upscaler", "random_features", "head"]),
    min_size=2, max_size=6, unique=True,
)  # fmt: skip


@st.composite
def networks(draw):
    """A state dict of linear layers, convolutions and norms."""
    state = {}
    for place, module in enumerate(draw(MODULES)):
        torch.manual_seed(place)
        shape = draw(st.sampled_from([(3, 4), (2, 3, 3, 3), (5,)]))
        state[f"{module}.weight"], state[f"{module}.bias"] = torch.rand(shape), torch.rand(shape[0])
        if len(shape) == 1:
            state[f"{module}.running_mean"], state[f"{module}.running_var"] = torch.rand(5), torch.rand(5)
            state[f"{module}.num_batches_tracked"] = torch.tensor(place)
    return state


def optimizer(state):
    moments = {place: {"step": torch.tensor(1.0), "exp_avg": tensor} for place, tensor in enumerate(state.values())}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": list(range(len(state)))}]}


@st.composite
def files(draw):
    """A state dict and a way to write it into a folder, as one file or as shards."""
    state = draw(networks())
    names = draw(st.permutations(list(state)))
    prefix = draw(st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."]))
    tensors = {f"{prefix}{name}": state[name] for name in names}
    wrapper = draw(st.sampled_from([None, "state_dict", "model", "net"]))
    content = tensors if wrapper is None else {wrapper: tensors, "optimizer": optimizer(state), "epoch": 3}
    how = draw(st.sampled_from(["zip", "old", "safetensors", "npz", "shards"]))
    cut = draw(st.integers(1, len(names) - 1))

    def write(folder):
        if how in ("zip", "old"):
            torch.save(content, folder / "a.pt", _use_new_zipfile_serialization=how == "zip")
        elif how == "safetensors":
            save_file(tensors, folder / "a.safetensors")
        elif how == "npz":
            np.savez(folder / "a.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
        else:
            parts = (list(tensors)[:cut], list(tensors)[cut:])
            where = {
                name: f"a-0000{place}-of-00002.safetensors" for place, part in enumerate(parts, 1) for name in part
            }
            for place, part in enumerate(parts, 1):
                save_file({name: tensors[name] for name in part}, folder / f"a-0000{place}-of-00002.safetensors")
            (folder / "a.safetensors.index.json").write_text(json.dumps({"weight_map": where}))

    return state, write


@fuzz(50)
@given(files())
def test_one_network_comes_back_from_every_format_nesting_prefix_sharding_and_order(tmp_path_factory, case):
    state, write = case
    folder = tmp_path_factory.mktemp("network")
    write(folder)
    plan = plan_folder(msgspec.structs.replace(ZOO, source="folder", path=str(folder)))
    (found,) = [item for piece in plan.pieces for item in plan.read(piece)]
    assert isinstance(found, RawNetwork), found
    torch.save(state, folder / "plain.pt")
    plain = read_checkpoint(folder / "plain.pt", key=None, most=MOST).state
    assert layout_of(found.state) == layout_of(plain)
    assert all(torch.equal(found.state[name], state[name]) for name in state)
    assert not found.constants


STATE = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.ones(3), "n": torch.tensor(3)}


def stream(write):
    data = io.BytesIO()
    write(data)
    return data.getvalue()


def hdf5(file):
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w") as content:
        content["layers/dense/vars/0"], content["layers/dense/vars/1"] = np.ones((3, 4), "f4"), np.ones(4, "f4")


def keras(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.weights.h5", stream(hdf5))


def flax(file):
    msgpack = pytest.importorskip("msgpack")
    array = msgpack.ExtType(1, msgpack.packb(((3, 4), "float32", bytes(48))))
    file.write(msgpack.packb({"params": {"Dense_0": {"kernel": array}}}))


def agent(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("policy.pth", stream(lambda inner: torch.save(STATE, inner)))


ARRAYS = {name: tensor.numpy() for name, tensor in STATE.items()}
FORMATS = {
    "pt": stream(lambda file: torch.save({"model": STATE, "optimizer": optimizer(STATE)}, file)),
    "old.pt": stream(lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False)),
    "safetensors": save(STATE),
    "npz": stream(lambda file: np.savez(file, **ARRAYS)),
    "npy": stream(lambda file: np.save(file, ARRAYS["fc.weight"])),
    "h5": stream(hdf5),
    "keras": stream(keras),
    "msgpack": stream(flax),
    "onnx": bytes.fromhex("08083a2a2a2808030804100142096663") + b"." + bytes(30),
    "zip": stream(agent),
}


@st.composite
def damaged(draw):
    """The suffix and bytes of a valid file, changed, cut, spliced with another, or doubled in part."""
    name = draw(st.sampled_from(sorted(FORMATS)))
    data = bytearray(FORMATS[name])
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["flip", "set", "cut", "insert", "end", "splice"]))
        if what in ("flip", "set") and data:
            data[place] = data[place] ^ (1 << draw(st.integers(0, 7))) if what == "flip" else draw(st.integers(0, 255))
        elif what == "cut":
            del data[place : place + draw(st.integers(1, 60))]
        elif what == "insert":
            data[place:place] = draw(st.binary(max_size=20))
        elif what == "end":
            del data[max(place, 1) :]
        else:
            other = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
            start = draw(st.integers(0, len(other) - 1))
            data[place : place + 40] = other[start : start + 40]
    return name, bytes(data)


def outcome(path):
    try:
        return read_file_networks(path, key=None, most=MOST)
    except RejectedError as error:
        return error


@fuzz(300)
@given(damaged())
def test_damaged_files_of_every_format_make_a_network_or_a_named_refusal(tmp_path, case):
    name, data = case
    path = tmp_path / f"file.{name.rpartition('.')[2]}"
    path.write_bytes(data)
    result = outcome(path)
    path.unlink()
    if isinstance(result, RejectedError):
        assert result.reason in REASONS
        assert str(result).isprintable()
    else:
        assert all(sum(tensor.numel() for tensor in network.state.values()) <= MOST for network in result)


def parquet():
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.array([[1.0, 2.0, float(row)] for row in range(8)], pa.list_(pa.float32()))
    return stream(lambda file: pq.write_table(pa.table({"weights": rows}), file, row_group_size=4))


PARQUET = parquet()


@fuzz(300)
@given(st.lists(st.tuples(st.integers(0, len(PARQUET) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_pages_of_parquet_cost_their_rows_only(tmp_path, changes):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = bytearray(PARQUET)
    for place, byte in changes:
        data[place] = byte
    path = tmp_path / "t.parquet"
    path.write_bytes(data)
    try:
        meta = pq.ParquetFile(path).metadata
        groups, rows = meta.num_row_groups, meta.num_rows
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError, ValueError):
        return  # refused when the reading is planned
    if names != ["weights"] or groups != 2 or rows != 8:
        return
    found = list(read_piece(ZOO.reading, Piece(str(path), (0, 1), 0)))
    assert all(isinstance(item, RawNetwork | Rejected) for item in found)
