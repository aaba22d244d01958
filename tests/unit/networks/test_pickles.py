"""Pickles from strangers: what they hold is read to the last bit, what they refer to is never made."""

import argparse
import io
import os
import pickle  # noqa: TID251
import resource
import struct
import sys
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from wscore.networks.checkpoints import load_file, read_checkpoint
from wscore.networks.pickles import Stub
from wscore.networks.records import RejectedError

MOST = 10**9
WEIGHTS = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4)).state_dict()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def read(path):
    return load_file(path, most=MOST)


def same_bits(found, expected):
    a, b = found.detach().reshape(-1), expected.detach().reshape(-1)
    same = found.shape == expected.shape and found.dtype == expected.dtype
    return same and (not a.numel() or torch.equal(a.view(torch.uint8), b.view(torch.uint8)))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_type_and_stride_come_back_to_the_last_bit(tmp_path, zipped, protocol):
    whole = torch.rand(9, 9)
    kinds = ("float16", "bfloat16", "float64", "float8_e4m3fn", "complex64", "int8", "uint16", "int64", "bool")
    tensors = {name: torch.rand(5).to(getattr(torch, name)) for name in kinds}
    tensors |= {"view": whole[2:5, 1:8:2], "turned": whole.t(), "number": torch.tensor(3.0), "empty": torch.zeros(0, 3)}
    tensors |= {"parameter": nn.Parameter(torch.rand(2)), "row": whole[:1].expand(4, 9), "odd": torch.rand(3)[1:]}
    arrays = {"plain": np.arange(6.0).reshape(2, 3), "turned": np.asfortranarray(np.arange(6).reshape(2, 3))}
    others = {"size": torch.Size([1, 2]), "kind": torch.float16, "number": np.float64(0.1), "whole": np.int32(7)}
    content = {"tensors": tensors, "arrays": arrays, "others": others, "names": {"one"}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read(tmp_path / "a.pt")
    assert found.stubbed == ()
    assert all(same_bits(found.value["tensors"][name], tensor) for name, tensor in tensors.items())
    assert all(np.array_equal(found.value["arrays"][name], array) for name, array in arrays.items())
    assert found.value["others"] == others
    assert found.value["names"] == ["one"]


def test_shared_memory_stays_shared(tmp_path):
    weight = torch.rand(3, 3)
    torch.save({"a": weight, "b": weight}, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt").value
    assert found["a"].data_ptr() == found["b"].data_ptr()


def test_large_files_are_mapped_and_read_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("wscore.networks.pickles.SMALL", 0)
    torch.save(WEIGHTS, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt").value
    assert all(same_bits(found[name], tensor) for name, tensor in WEIGHTS.items())


def test_plain_pickles_of_tensors_and_arrays_are_read(tmp_path):
    content = {"a": torch.rand(2, 3), "b": np.arange(3.0)}
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        found = read(tmp_path / "a.pkl") if protocol > 1 else None
        if found is not None:
            assert same_bits(found.value["a"], content["a"])
            assert found.value["b"].tolist() == [0, 1, 2]


def test_whole_modules_give_what_their_state_dict_would(tmp_path):
    class Net(nn.Sequential):
        pass

    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2, bias=False)))
    network.register_buffer("fleeting", torch.ones(3), persistent=False)
    torch.save(network, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt", key=None, most=MOST)
    assert set(found.state) == set(network.state_dict())
    assert all(same_bits(found.state[name], tensor) for name, tensor in network.state_dict().items())
    assert "torch.nn.modules.linear.Linear" in found.stubbed


@pytest.mark.parametrize("zipped", [True, False])
def test_unknown_classes_become_inert_stubs_and_are_named(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("colorsys", None)
    content = {"w": torch.ones(2), "evil": Evil(), "hook": print, "options": argparse.Namespace(lr=0.1)}
    torch.save(content, "a.pt", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "a.pt")
    assert found.stubbed == ("builtins.print", f"{os.name}.mkdir")
    assert found.value["evil"].arguments == ("pwned",)
    assert found.value["options"].state == {"lr": 0.1}
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02ccolorsys\nrgb_to_hsv\n.")
    assert isinstance(read(tmp_path / "b.pkl").value, Stub)
    assert not (tmp_path / "pwned").exists()
    assert "colorsys" not in sys.modules


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def name(full):
    module, _, leaf = full.rpartition(".")
    return f"c{module}\n{leaf}\n".encode()


def tensor(size, stride, *, offset=0, key="0", count=4, kind="FloatStorage"):
    """Opcodes of one tensor."""
    storage = b"(" + text("storage") + name(f"torch.{kind}") + text(key) + text("cpu") + whole(count) + b"tQ"
    axes = b"(" + b"".join(map(whole, size)) + b"t"
    steps = b"(" + b"".join(map(whole, stride)) + b"t"
    hooks = name("collections.OrderedDict") + b")R"
    call = name("torch._utils._rebuild_tensor_v2") + b"(" + storage + whole(offset) + axes + steps + b"\x89" + hooks
    return call + b"tR"


def crafted(tmp_path, opcodes):
    """Write a file as torch.save does, around opcodes."""
    path = tmp_path / "crafted.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + opcodes + b".")
        archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
        archive.writestr("a/version", "3\n")
    return path


def test_the_crafted_file_is_well_formed(tmp_path):
    assert read(crafted(tmp_path, tensor([4], [1]))).value.tolist() == [0, 1, 2, 3]
    assert read(crafted(tmp_path, tensor([2, 2], [0, 1], offset=1))).value.tolist() == [[1, 2], [1, 2]]


ARRAY = name("numpy.core.multiarray._reconstruct") + b"(" + name("numpy.ndarray") + whole(0) + b"\x85" + b"C\x01btR"


def filled(code, shape, data):
    kind = name("numpy.dtype") + b"(" + text(code) + b"\x89\x88tR"
    axes = b"(" + b"".join(map(whole, shape)) + b"t"
    return ARRAY + b"(" + whole(1) + axes + kind + b"\x89" + b"B" + struct.pack("<I", len(data)) + data + b"tb"


def test_an_array_of_objects_is_left_empty_and_named(tmp_path):
    content = read(crafted(tmp_path, filled("O8", [1], bytes(8))))
    assert content.value.size == 0
    assert content.stubbed == ("numpy.ndarray of O8",)


UNREADABLE = {
    "beyond its storage": tensor([5], [1]),
    "beyond its storage by an offset": tensor([2], [1], offset=3),
    "far beyond": tensor([2], [1 << 40]),
    "negative offset": tensor([1], [1], offset=-1),
    "negative stride": tensor([2], [-1], offset=3),
    "negative size": tensor([-1], [1]),
    "more strides than axes": tensor([2], [1, 1]),
    "more numbers than bytes": tensor([4], [1], count=1 << 40),
    "negative count": tensor([4], [1], count=-4),
    "no such storage": tensor([4], [1], key="7"),
    "a storage elsewhere": tensor([4], [1], key="../version"),
    "a storage that is none": name("torch._utils._rebuild_tensor_v2") + b"(K\x01K\x00))\x89}tR",
    "a tensor without arguments": name("torch._utils._rebuild_tensor_v2") + b")R",
    "a persistent id that is none": b"K\x07Q",
    "no such reference": b"h\x07",
    "an extension": b"\x82\x01",
    "nothing on the stack": b"0",
    "no mark": b"t",
    "calls a number": b"K\x01)R",
    "a call without a tuple": name("os.getcwd") + b"K\x01R",
    "a state for a text": text("a") + b"}b",
    "elements of a text": text("a") + b"K\x01a",
    "items of a list": b"]K\x01K\x01s",
    "odd items": b"}(K\x01u",
    "a name that is no text": b"K\x01K\x02\x93",
    "an array beyond its bytes": filled("f4", [1 << 40], b"abcd"),
    "an array of fewer numbers than bytes": filled("f4", [1], b"abcdefgh"),
    "an array of negative size": filled("f4", [-1], b"abcd"),
    "a text beyond the file": b"\x8d" + struct.pack("<Q", 1 << 60),
    "bytes beyond the file": b"\x8e" + struct.pack("<Q", 1 << 62),
    "a whole number without end": b"\x8b" + struct.pack("<i", 1 << 30),
    "a whole number of negative length": b"\x8b" + struct.pack("<i", -5),
    "a long number in text": b"I" + b"9" * 100_000 + b"\n",
    "buffers outside": b"\x97",
}
TOO_LARGE = {
    "stride 0": tensor([1 << 33], [0]),
    "stride 0 in two axes": tensor([1 << 20, 1 << 20], [0, 0]),
    "many tensors of one storage": b"]" + b"(" + tensor([1 << 16], [0]) * 400 + b"e",
    "a dictionary that is copied": b"(" + b"K\x01" * 9_000 + b"lq\x01" + b"0" + b"".join(
        name("builtins.set") + b"h\x01\x85R0" for _ in range(1500)) + b"N",
    "steps without end": b"N0" * 12_000 + b"N",
}  # fmt: skip


CRAFTED = [*(("unreadable", key) for key in UNREADABLE), *(("too_large", key) for key in TOO_LARGE)]


@pytest.mark.parametrize(("reason", "what"), CRAFTED)
def test_crafted_files_are_refused_by_name(tmp_path, monkeypatch, reason, what):
    monkeypatch.setattr("wscore.networks.pickles.MOST_OPCODES", (20_000, 20_000))
    path = crafted(tmp_path, UNREADABLE[what] if reason == "unreadable" else TOO_LARGE[what])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RejectedError) as caught:
        read(path)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


HARMLESS = {
    "a dictionary keyed by itself": b"}q\x01h\x01K\x01s",
    "a list within itself": b"]q\x01h\x01a",
    "deep tuples as a key": b"}" + b")" + b"\x85" * 30_000 + b"K\x01s",
    "deep lists": b"]" * 30_000 + b"a" * 29_999,
    "a set of dictionaries": name("builtins.set") + b"]}a\x85R",
    "a counter of nothing": name("collections.Counter") + b"K\x01\x85R",
    "an ordered dictionary of numbers": name("collections.OrderedDict") + b"]K\x01a\x85R",
    "a size of texts": name("torch.Size") + b"]" + text("x") + b"a\x85R",
    "an array of objects": filled("O8", [1], b"\x41" * 8),
    "an array with a buffer": name("numpy.ndarray") + b"(" + whole(1) + b"\x85" + name("numpy.dtype") + text("O8")
    + b"\x85R" + b"C\x08AAAAAAAAtR",
    "attributes fetched by name": name("builtins.getattr") + name("os.path") + text("sep") + b"\x86R",
    "a call of what a call gave": name("builtins.getattr") + name("os.x") + text("system") + b"\x86R" + text("id") + b"\x85R",
    "code by eval": name("builtins.eval") + text("1/0") + b"\x85R",
    "a large number of a memo": b"Kr\x72\xff\xff\xff\xff",
    "a class with a state": name("os.environ") + b")\x81}" + text("PATH") + text("") + b"sb",
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_odd_pickles_do_nothing(tmp_path, what):
    """They are read, or refused by name, and neither crash nor run."""
    path = os.environ["PATH"]
    with suppress(RejectedError):
        assert read(crafted(tmp_path, HARMLESS[what])).value is not None
    with suppress(RejectedError):
        assert read_checkpoint(crafted(tmp_path, HARMLESS[what]), key=None, most=MOST).state
    assert os.environ["PATH"] == path


def test_quantised_sparse_and_meta_tensors_are_named(tmp_path):
    storage = b"(" + text("storage") + name("torch.QInt8Storage") + text("0") + text("cpu") + whole(4) + b"tQ"
    with pytest.raises(RejectedError, match="quantised tensors"):
        read(crafted(tmp_path, storage))
    with pytest.raises(RejectedError, match="quantised tensors"):
        read(crafted(tmp_path, name("torch._utils._rebuild_qtensor") + b")R"))
    cases = {
        "not_real": torch.eye(3).to_sparse(),
        "unreadable": torch.empty(3, device="meta"),
    }
    for reason, value in cases.items():
        torch.save({"w": value}, tmp_path / "a.pt")
        with pytest.raises(RejectedError) as caught:
            read(tmp_path / "a.pt")
        assert caught.value.reason == reason


def test_names_with_escapes_are_shown_escaped(tmp_path):
    stream = io.BytesIO()
    stream.write(b"\x80\x04" + text("\x1b[31mevil\n") + text("x\r") + b"\x93.")
    (tmp_path / "a.pkl").write_bytes(stream.getvalue())
    with pytest.raises(RejectedError) as caught:
        read_checkpoint(tmp_path / "a.pkl", key=None, most=MOST)
    assert caught.value.reason == "code"
    assert "\\x1b[31mevil\\n.x\\r" in str(caught.value)
    assert "\x1b" not in str(caught.value)
