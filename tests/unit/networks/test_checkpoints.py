"""Checkpoint files as people have them: what is taken as the network, and what is refused by which reason."""

import argparse
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wscore.networks.checkpoints import read_checkpoint
from wscore.networks.records import RejectedError
from wscore.networks.selection import only, select_all

h5py = pytest.importorskip("h5py")
MOST = 10**6


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def taken(content, key=None):
    return only(select_all(content, key=key, most=MOST)).state


def same(found, expected):
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_network_is_found_beside_optimizers_in_any_wrapping():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    rest = {"optimizer": optimizer.state_dict(), "optimizer_states": [optimizer.state_dict()], "epoch": 7}
    moments = {f"exp_avg.{name}": value for name, value in state.items()}
    for content in (
        state,
        {"state_dict": state, **rest},
        {"model_state_dict": state, **rest},
        {"model": {"state_dict": state, "best_acc": 0.5}, **rest},
        {"net": state, "opt": {"state": {"m": torch.rand(9)}, "param_groups": [1]}, "lr_scheduler": {"last": 3}},
        {"checkpoint": {"weights": state}, "exp_avg": moments, "rng_state": torch.ByteTensor(8)},
        {"ema": state, "raw": state},
        {f"module.{name}": value for name, value in state.items()},
        {f"module._orig_mod.{name}": value for name, value in state.items()},
        {f"_orig_mod.module.{name}": value for name, value in state.items()},
    ):
        assert same(taken(content), state)
    assert only(select_all({"state_dict": state, **rest}, key=None, most=MOST)).notes == {"epoch": 7}


def test_parts_of_one_network_are_joined_and_a_key_chooses():
    first, second = nn.Linear(2, 3).state_dict(), nn.Linear(3, 1).state_dict()
    joined = taken({"encoder": first, "decoder": second})
    assert list(joined) == ["decoder.weight", "decoder.bias", "encoder.weight", "encoder.bias"]
    assert same(taken({"encoder": first, "decoder": second}, "decoder"), second)
    assert set(taken({"blocks": {"0": {"weight": torch.ones(2)}}, "head": torch.ones(3)})) == {
        "blocks.0.weight",
        "head",
    }
    with pytest.raises(RejectedError, match="state_key 'nothing' is not there"):
        taken({"encoder": first}, "nothing")


def test_counters_stay_and_constant_buffers_go():
    state = {
        "w": torch.ones(3, 2).t(), "step": torch.tensor(3), "flag": torch.tensor(True), "index": torch.arange(9),
        "scale": torch.tensor(2.0), "attn.mask": torch.full((4, 4), -torch.inf).triu(1),
        "attn.bias": torch.ones(1, 1, 4, 4).tril(), "causal": torch.ones(4, 4, dtype=torch.bool),
        "head.bias": torch.rand(2, 3),
    }  # fmt: skip
    found = taken(state)
    assert set(found) == {"w", "step", "flag", "scale", "head.bias"}


def test_recurrent_attending_and_tied_networks_are_read(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.rnn = nn.LSTM(4, 4, num_layers=2)
            self.attend = nn.MultiheadAttention(4, 2)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

    state = Tied().bfloat16().state_dict()
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)}, tmp_path / "a.ckpt")
    found = read_checkpoint(tmp_path / "a.ckpt", key=None, most=MOST)
    assert same(found.state, state)
    assert found.notes == {"best": 0.5, "lr": 0.1}


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.h5", "a.weird"])
def test_the_content_tells_the_format(tmp_path, name):
    state = {"fc.weight": torch.rand(2, 3)}
    writers = (
        lambda path: torch.save(state, path),
        lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
        lambda path: save_file(state, path),
        lambda path: path.write_bytes(npz(state)),
    )
    for write in writers:
        write(tmp_path / name)
        assert same(read_checkpoint(tmp_path / name, key=None, most=MOST).state, state)


def npz(state, **options):
    stream = io.BytesIO()
    np.savez_compressed(stream, **{key: value.numpy() for key, value in state.items()}, **options)
    return stream.getvalue()


def test_keras_weights_come_with_outputs_first_under_the_names_of_pytorch(tmp_path):
    path = tmp_path / "model.weights.h5"
    kernel = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)
    with h5py.File(path, "w") as file:
        file["conv/conv/kernel:0"] = kernel
        file["conv/conv/bias:0"] = np.zeros(4, np.float32)
        file["norm/norm/moving_variance:0"] = np.ones(4, np.float32)
        file["optimizer_weights/m"] = np.ones(400, np.float32)
    state = read_checkpoint(path, key=None, most=MOST).state
    assert set(state) == {"conv.weight", "conv.bias", "norm.running_var"}
    assert torch.equal(state["conv.weight"], torch.from_numpy(kernel.transpose(3, 2, 0, 1)))
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = np.ones((3, 2), np.float32), np.ones(2)
        for number in range(4):
            file[f"layers/norm/vars/{number}"] = np.full(2, number, np.float32)
    state = read_checkpoint(tmp_path / "new.h5", key=None, most=MOST).state
    assert state["layers.dense.weight"].shape == (2, 3)
    assert state["layers.norm.running_var"].tolist() == [3, 3]


def test_hdf5_files_lead_nowhere_else(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["w"] = np.ones(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["w"] = h5py.ExternalLink("secret.h5", "/w")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("w", (3,), "f4", external=[(str(tmp_path / "secret.h5"), 0, 12)])
    for name in ("a.h5", "b.h5"):
        with pytest.raises(RejectedError) as caught:
            read_checkpoint(tmp_path / name, key=None, most=MOST)
        assert caught.value.reason == "outside"


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def rejected(path):
    with pytest.raises(RejectedError) as caught:
        read_checkpoint(path, key=None, most=MOST)
    return caught.value.reason


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    for content in ({"x": Evil()}, Evil(), {"hook": print}):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        assert rejected(tmp_path / "a.pt") == "code"
    torch.save({"w": torch.ones(2), "x": Evil()}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "a.pt", key=None, most=MOST)
    assert set(found.state) == {"w"}
    assert found.stubbed == ("posix.mkdir",)
    np.savez(tmp_path / "b.npz", w=np.array([Evil()], object))
    assert rejected(tmp_path / "b.npz") == "code"
    assert not (tmp_path / "pwned").exists()


def test_headers_of_too_many_tensors_are_refused_before_any_is_made(tmp_path, monkeypatch):
    save_file({name: torch.zeros(1) for name in "abcd"}, tmp_path / "a.safetensors")
    monkeypatch.setattr("wscore.networks.safetensors_file.MOST_NODES", 3)
    assert rejected(tmp_path / "a.safetensors") == "too_large"


def test_a_file_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", weights=np.zeros(10**6, np.float32))
    assert read_checkpoint(tmp_path / "a.npz", key=None, most=10**7).state["weights"].numel() == 10**6
    monkeypatch.setattr("wscore.networks.checkpoints.HARMLESS_SIZE", 1000)
    with pytest.raises(RejectedError) as caught:
        read_checkpoint(tmp_path / "a.npz", key=None, most=10**7)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize(("begin", "behind", "rows"), [(0, 0, 8), (4, 0, 8), (0, 4, 8), (0, 0, 7)])
def test_bytes_of_a_safetensors_file_that_no_tensor_names_are_refused(tmp_path, begin, behind, rows):
    header = b'{"w":{"dtype":"F32","shape":[%d,8],"data_offsets":[%d,%d]}}' % (rows, begin, begin + 256)
    data = np.random.default_rng(0).standard_normal(64).astype("<f4").tobytes()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(begin) + data + bytes(behind))
    if begin or behind or rows < 8:
        assert rejected(path) == "unreadable"
    else:
        assert read_checkpoint(path, key=None, most=MOST).state["w"].shape == (8, 8)


def test_small_files_that_claim_much_are_refused_unread(tmp_path):
    state = {"w": torch.zeros(10)}
    torch.save({"w": torch.zeros(1).expand(2**45)}, tmp_path / "expanded.pt")
    assert rejected(tmp_path / "expanded.pt") == "too_large"
    torch.save(state, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            data = source.read(entry) if "data/0" not in entry.filename else bytes(10**7)
            target.writestr(entry.filename, data)
    assert rejected(tmp_path / "bomb.pt") == "too_large"
    header = b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert rejected(tmp_path / "a.safetensors") == "unreadable"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    assert rejected(tmp_path / "a.npy") == "too_large"
    np.save(tmp_path / "cut.npy", np.zeros(1000, np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-400])
    assert rejected(tmp_path / "cut.npy") == "too_large"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", stream.getvalue())
    assert rejected(tmp_path / "a.npz") == "too_large"
    (tmp_path / "b.npz").write_bytes(npz({"w": torch.zeros(2 * MOST)}))
    assert rejected(tmp_path / "b.npz") == "too_large"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w", (2**40,), "f4", chunks=(1024,))
    assert rejected(tmp_path / "a.h5") == "too_large"
    nested = {"w": torch.zeros(2)}
    for _ in range(60):
        nested = {"a": nested, "b": nested}
    torch.save(nested, tmp_path / "laughs.pt")
    assert rejected(tmp_path / "laughs.pt") in ("too_large", "no_checkpoint")


def test_what_is_no_checkpoint_is_told_apart(tmp_path):
    def reason(content):
        torch.save(content, tmp_path / "a.pt")
        return rejected(tmp_path / "a.pt")

    assert reason({"w": torch.ones(2, dtype=torch.complex64)}) == "not_real"
    assert reason({"weight": torch.ones(2, 2, dtype=torch.complex64)}) == "not_real"
    assert reason({"w": torch.ones(2, 2).to_sparse()}) == "not_real"
    assert reason({"n": torch.ones(2, dtype=torch.long)}) == "no_checkpoint"
    assert reason({}) == reason([torch.ones(2)]) == reason({"epoch": 3}) == reason("text") == "no_checkpoint"
    assert reason({"optimizer": {"state": {"0": torch.ones(3)}, "param_groups": []}}) == "no_checkpoint"
    assert reason({"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}) == "clash"
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "a.pt", "a.pt")
    assert rejected(tmp_path / "b.tar") == "no_checkpoint"
    (tmp_path / "c.pt").write_bytes(b"")
    assert rejected(tmp_path / "c.pt") == rejected(tmp_path / "nowhere.pt") == rejected(tmp_path) == "unreadable"
    (tmp_path / "d.pt").write_text("<html>404</html>")
    assert rejected(tmp_path / "d.pt") == "no_checkpoint"


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_read_with_or_without_its_source(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    torch.save(module, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "a.pt", key=None, most=MOST).state, module.state_dict())


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "tar", "bin", "pth.tar"])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_extension_of_torch_is_read_and_runs_no_code(tmp_path, monkeypatch, suffix, zipped):
    monkeypatch.chdir(tmp_path)
    state = {"w": torch.rand(2, 3)}
    torch.save({"state_dict": state}, tmp_path / f"a.{suffix}", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / f"a.{suffix}", key=None, most=MOST).state, state)
    torch.save({**state, "x": Evil()}, tmp_path / f"b.{suffix}", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / f"b.{suffix}", key=None, most=MOST)
    assert same(found.state, state)
    assert found.stubbed == ("posix.mkdir",)
    assert not (tmp_path / "pwned").exists()


def test_programs_and_plain_pickles_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/data.pkl", "a/code/__torch__.py", "a/constants.pkl"):
            archive.writestr(name, "x")
    with pytest.raises(RejectedError, match="TorchScript program"):
        read_checkpoint(tmp_path / "a.pt", key=None, most=MOST)
    (tmp_path / "b.pkl").write_bytes(
        b"\x80\x04\x95\x1d" + bytes(7) + b"\x8c\x05posix\x94\x8c\x05mkdir\x94\x93\x94\x8c\x05pwned\x94\x85\x94R\x94."
    )
    with pytest.raises(RejectedError, match=r"objects of posix\.mkdir"):
        read_checkpoint(tmp_path / "b.pkl", key=None, most=MOST)
    assert not (tmp_path / "pwned").exists()


def test_arrays_averages_and_odd_tensors_are_read_whole(tmp_path):
    state = {"a.weight": torch.rand(3, 4), "a.bias": torch.rand(3)}
    mixed = {"a.weight": state["a.weight"].numpy(), "a.bias": state["a.bias"]}
    assert same(taken({"model": mixed, "author": "x"}), state)
    assert same(taken({key: value.numpy() for key, value in state.items()}), state)
    averaged = {"n_averaged": torch.tensor(5), **{f"module.{key}": value for key, value in state.items()}}
    assert same(taken(averaged), {**state, "n_averaged": torch.tensor(5)})
    big = torch.rand(9, 9)
    odd = {
        "view": big[:3, :4], "turned": torch.rand(4, 3).t(), "tied": state["a.weight"], "twin": state["a.weight"],
        "half": torch.rand(3).half(), "brain": torch.rand(3).bfloat16(), "double": torch.rand(3).double(),
        "eighth": torch.rand(3).to(torch.float8_e4m3fn),
    }  # fmt: skip
    torch.save(odd, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt", key=None, most=MOST).state
    assert all(torch.equal(found[name].float(), value.float()) for name, value in odd.items())


def test_the_state_of_an_optimizer_is_no_network():
    moments = {0: {"exp_avg": torch.rand(3), "step": torch.tensor(1.0)}}
    with pytest.raises(RejectedError, match="the state of an optimizer"):
        taken({"state": moments, "param_groups": [{"lr": 0.1}]})
    state = {"w": torch.rand(3)}
    assert same(taken({"model": state, "state": moments, "param_groups": []}), state)


def test_masks_of_gpt_go_and_fresh_biases_of_several_axes_stay():
    causal = torch.ones(5, 5).tril()
    state = {
        "attn.masked_bias": torch.tensor(-1e9), "attn.bias": causal[None, None], "attn.mask": -1e4 * (1 - causal),
        "causal_mask": torch.full((5, 5), torch.finfo(torch.float32).min).triu(1),
        "gru.bias": torch.zeros(2, 9), "query.bias": torch.zeros(4, 4), "lone.bias": torch.ones(1, 1),
        "mask_token": torch.zeros(1, 1, 8), "w": torch.rand(2, 2),
    }  # fmt: skip
    assert set(taken(state)) == {"gru.bias", "query.bias", "lone.bias", "mask_token", "w"}


def keras3(group, layers):
    for name, variables in layers.items():
        for number, value in enumerate(variables):
            group[f"{name}/vars/{number}"] = np.asarray(value, np.float32)


RNG = np.random.default_rng(0)
LSTM = [RNG.random((6, 16)), RNG.random((4, 16)), RNG.random(16)]
SEPARABLE = [RNG.random((3, 3, 4, 2)), RNG.random((1, 1, 8, 5)), RNG.random(5)]
EMBEDDING = [RNG.random((11, 6))]


def test_both_layouts_of_keras_give_the_same_recurrent_and_separable_layers(tmp_path):
    """As Keras 3.15 writes them: `save_weights`, a .keras archive, and the older layout of one group per layer."""
    with h5py.File(tmp_path / "new.weights.h5", "w") as file:
        keras3(file, {"layers/lstm/cell": LSTM, "layers/separable_conv2d": SEPARABLE, "layers/embedding": EMBEDDING})
        keras3(file, {"layers/normalization": [np.ones(3)] * 3, "layers/dropout/seed_generator": [np.ones(2)]})
        keras3(file, {"optimizer": [np.ones(500)]})
    with zipfile.ZipFile(tmp_path / "new.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(tmp_path / "new.weights.h5", "model.weights.h5")
    layers = {"separable_conv2d": SEPARABLE, "embedding": EMBEDDING, "lstm": LSTM}
    names = {
        "separable_conv2d": ["depthwise_kernel", "pointwise_kernel", "bias"], "embedding": ["embeddings"],
        "lstm": ["lstm_cell/kernel", "lstm_cell/recurrent_kernel", "lstm_cell/bias"],
    }  # fmt: skip
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["optimizer_weights/m"] = np.ones(400)
        file.create_group("model_weights").attrs["layer_names"] = list(layers)
        for layer, some in layers.items():
            own = [f"{layer}/{name}:0" for name in names[layer]]
            file["model_weights"].create_group(layer).attrs["weight_names"] = own
            for name, value in zip(own, some, strict=True):
                file[f"model_weights/{layer}/{name}"] = np.asarray(value, np.float32)
    new, archive, old = (
        read_checkpoint(tmp_path / name, key=None, most=MOST).state
        for name in ("new.weights.h5", "new.keras", "old.h5")
    )
    assert same(archive, new)
    assert list(old) == [
        "embedding.weight", "lstm.lstm_cell.weight", "lstm.lstm_cell.bias", "lstm.lstm_cell.recurrent_kernel",
        "separable_conv2d.bias", "separable_conv2d.depthwise_kernel", "separable_conv2d.pointwise_kernel",
    ]  # fmt: skip
    new = {name.replace("layers.", "").replace(".cell.", ".lstm_cell."): value for name, value in new.items()}
    assert set(new) - set(old) == {f"normalization.{name}" for name in ("bias", "running_mean", "running_var")}
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert old["separable_conv2d.depthwise_kernel"].shape == (8, 1, 3, 3)
    assert old["separable_conv2d.depthwise_kernel"][3, 0, 2, 1].item() == pytest.approx(SEPARABLE[0][2, 1, 1, 1])
    assert old["lstm.lstm_cell.recurrent_kernel"].shape == (16, 4)
    assert old["embedding.weight"].shape == (11, 6)


def test_bombs_of_many_parts_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("wscore.networks.checkpoints.HARMLESS_SIZE", 10**5)
    (tmp_path / "a.npz").write_bytes(npz({"w": torch.zeros(MOST // 2)}))
    assert rejected(tmp_path / "a.npz") == "too_large"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w0", (10**4,), "f4", chunks=(10**4,), compression="gzip", data=np.zeros(10**4, "f4"))
        for number in range(1, 120):
            file[f"w{number}"] = file["w0"]  # one data set under many names
    assert rejected(tmp_path / "a.h5") == "too_large"
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("a")
        file["a/b"] = file["a"]
        file["a/c"] = file["a"]
    assert rejected(tmp_path / "b.h5") == "too_large"


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def test_initialisers_of_onnx_are_read(tmp_path):
    weight = np.arange(200, dtype="f4").reshape(40, 5)

    def initialiser(name, array, *, more=b""):
        dims = b"".join(varint(1 << 3) + varint(size) for size in array.shape)
        return field(5, dims + varint(2 << 3) + varint(1) + field(8, name.encode()) + field(9, array.tobytes()) + more)

    graph = field(2, b"graph") + initialiser("fc.weight", weight) + initialiser("fc.bias", weight[:, 0])
    (tmp_path / "a.onnx").write_bytes(varint(1 << 3) + varint(8) + field(7, graph))
    found = read_checkpoint(tmp_path / "a.onnx", key=None, most=MOST).state
    assert same(found, {"fc.weight": torch.from_numpy(weight), "fc.bias": torch.from_numpy(weight[:, 0].copy())})
    outside = initialiser("fc.weight", weight, more=varint(14 << 3) + varint(1))
    (tmp_path / "b.onnx").write_bytes(field(7, outside))
    assert rejected(tmp_path / "b.onnx") == "outside"
    (tmp_path / "c.onnx").write_bytes(field(7, graph)[:-9])
    assert rejected(tmp_path / "c.onnx") == "unreadable"


def test_files_of_flax_are_read(tmp_path):
    msgpack = pytest.importorskip("msgpack")

    def array(value, name=None):
        return msgpack.ExtType(1, msgpack.packb((value.shape, name or value.dtype.name, value.tobytes())))

    kernel = np.arange(6, dtype="f4").reshape(3, 2)
    tree = {"params": {"Dense_0": {"kernel": array(kernel), "bias": array(kernel[0])}}, "step": 3}
    (tmp_path / "a.msgpack").write_bytes(msgpack.packb(tree))
    found = read_checkpoint(tmp_path / "a.msgpack", key=None, most=MOST)
    assert same(
        found.state, {"Dense_0.weight": torch.from_numpy(kernel.T.copy()), "Dense_0.bias": torch.tensor([0.0, 1])}
    )
    assert found.notes == {"step": 3}
    claims = msgpack.ExtType(1, msgpack.packb(((1 << 40,), "float32", b"abcd")))
    for value in (claims, array(kernel, "object"), msgpack.ExtType(2, b"x")):
        (tmp_path / "b.msgpack").write_bytes(msgpack.packb({"params": {"w": value}}))
        assert rejected(tmp_path / "b.msgpack") in ("not_real", "unreadable")
