"""Published zoos of flat vectors, in fixtures built as theirs are."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch

from wscore.errors import ConfigError, DataError, WscoreWarning


def zoo_dataset(folder):
    """Two data sets in files of their own, and the mapping that a split's file holds."""
    inner = folder / "weights"
    inner.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torch.randn(4, 10), inner / "mnist.pt")
    info = [("fc.weight", (2, 4)), ("fc.bias", (2,))]
    rows = [({"accuracy": 0.1 * n, "layer_info": info, "run": f"r{n // 2}"}, torch.randn(10)) for n in range(4)]
    torch.save(rows, inner / "svhn.pt")
    torch.save({"usps": (torch.randn(2, 12), torch.rand(2)), "kmnist": torch.randn(3, 7)}, inner / "train_data.pt")
    return folder


def test_a_folder_of_vectors_is_read_whole_or_by_data_set(read_zoo, tmp_path):
    folder = zoo_dataset(tmp_path / "in")
    table = read_zoo("zoo_dataset", folder).table
    assert table["dataset"].value_counts().to_dict() == {"mnist": 4, "svhn": 4, "kmnist": 3, "usps": 2}
    zoo = read_zoo("zoo_dataset", folder, reading={"dataset": "svhn", "topk": 3})
    assert list(zoo.table["accuracy"]) == pytest.approx([0, 0.1, 0.2])
    assert list(zoo.table["run_id"]) == ["r0", "r0", "r1"]
    assert [spec.name for spec in zoo.layout(0).tensors] == ["fc.weight", "fc.bias"]
    original = torch.load(folder / "weights" / "svhn.pt", weights_only=True)
    assert np.array_equal(zoo.weights([1])[0], original[1][1].numpy())


def test_vectors_are_normalised_and_padded_when_asked(read_zoo, excluded, tmp_path):
    folder = zoo_dataset(tmp_path / "in")
    with pytest.warns(WscoreWarning, match="2 too_large"):
        zoo = read_zoo("zoo_dataset", folder, reading={"normalize": "minmax", "max_len": 11})
    assert set(zoo.table["n_weights"]) == {11}
    assert set(zoo.table["length"]) == {10, 7}
    assert set(excluded().values()) == {"too_large"}
    row = list(zoo.table["model_id"]).index("mnist/mnist/2")
    back = zoo.weights([row])[0][:10] * zoo.table["weight_scale"][row] + zoo.table["weight_shift"][row]
    assert np.allclose(back, torch.load(folder / "weights" / "mnist.pt", weights_only=True)[2].numpy(), atol=1e-6)


def test_vectors_that_do_not_fit_their_layout_are_listed(read_zoo, excluded, tmp_path):
    folder = zoo_dataset(tmp_path / "in")
    layout = {"a.weight": (2, 3), "a.bias": (1,)}
    with pytest.warns(WscoreWarning, match="6 mismatched_layout"):
        zoo = read_zoo("zoo_dataset", folder, reading={"layout": layout})
    assert set(zoo.table["dataset"]) == {"svhn", "kmnist"}
    assert excluded()["mnist/mnist/0"] == "mismatched_layout"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no vectors here"):
        read_zoo("zoo_dataset", tmp_path / "empty")


VARIABLES = {
    "sequential/conv2d/kernel:0": (3, 3, 1, 4), "sequential/conv2d/bias:0": (4,),
    "sequential/dense/kernel:0": (4, 10), "sequential/dense/bias:0": (10,),
}  # fmt: skip


def test_metrics_are_read_as_published_and_cut_off_ones_are_named(read_zoo, tmp_path):
    folder = small_cnns(tmp_path / "in")
    plain = read_zoo("small_cnn_zoo", folder)
    packed = gzip.compress((folder / "metrics.csv").read_bytes())
    (folder / "metrics.csv").unlink()
    (folder / "metrics.csv.gz").write_bytes(packed)
    again = read_zoo("small_cnn_zoo", folder)
    pd.testing.assert_frame_equal(again.table, plain.table)
    (folder / "metrics.csv.gz").write_bytes(packed[:-20])
    with pytest.raises(DataError, match=r"metrics\.csv\.gz: is not a readable table"):
        read_zoo("small_cnn_zoo", folder)


def small_cnns(folder, count=6):
    """weights.npy, metrics.csv and layout.csv with the columns of the published ones."""
    folder.mkdir(parents=True)
    sizes = [int(np.prod(shape)) for shape in VARIABLES.values()]
    ends = np.cumsum(sizes)
    np.save(folder / "weights.npy", np.random.default_rng(0).standard_normal((count, sum(sizes))).astype(np.float32))
    pd.DataFrame({
        "varname": list(VARIABLES), "start_idx": ends - sizes, "end_idx": ends, "size": sizes,
        "shape": [str(shape) for shape in VARIABLES.values()],
    }).to_csv(folder / "layout.csv", index=False)  # fmt: skip
    pd.DataFrame({
        "modeldir": [f"dir/{number // 3}" for number in range(count)], "step": [0, 20, 86] * (count // 3),
        "test_accuracy": np.linspace(0, 1, count), "config.activation": "relu", "config.learning_rate": 0.01,
    }).to_csv(folder / "metrics.csv", index=False)  # fmt: skip
    return folder


def test_the_small_cnn_layout_is_read(read_zoo, tmp_path):
    folder = small_cnns(tmp_path / "in")
    zoo = read_zoo("small_cnn_zoo", folder)
    assert list(zoo.table["run_id"]) == ["dir/0"] * 3 + ["dir/1"] * 3
    assert list(zoo.table["checkpoint"]) == [0, 20, 86] * 2
    assert list(zoo.table["test_accuracy"]) == pytest.approx(np.linspace(0, 1, 6))
    assert set(zoo.table["config_activation"]) == {"relu"}
    layout = zoo.layout(0)
    assert [(spec.kind, spec.shape) for spec in layout.tensors][:2] == [("conv", (4, 1, 3, 3)), ("bias", (4,))]
    kernel = np.load(folder / "weights.npy")[4][:36].reshape(3, 3, 1, 4)
    state = layout.unflatten(torch.from_numpy(zoo.weights([4])[0]))
    assert np.array_equal(state["sequential.conv2d.weight"].numpy(), kernel.transpose(3, 2, 0, 1))
    assert json.loads((tmp_path / "zoo" / "source.json").read_text())["source"] == "small_cnn_zoo"


def test_small_cnn_files_that_do_not_fit_are_named(read_zoo, tmp_path):
    folder = small_cnns(tmp_path / "in")
    metrics, layout = pd.read_csv(folder / "metrics.csv"), pd.read_csv(folder / "layout.csv")
    layout[:-1].to_csv(folder / "layout.csv", index=False)
    with pytest.raises(DataError, match="layout does not cover the weights"):
        read_zoo("small_cnn_zoo", folder)
    metrics[:-1].to_csv(folder / "metrics.csv", index=False)
    with pytest.raises(DataError, match="differ in length; got 6 and 5 rows"):
        read_zoo("small_cnn_zoo", folder)
    data = (folder / "weights.npy").read_bytes()
    (folder / "weights.npy").write_bytes(data[:-9])
    with pytest.raises(DataError, match="is not a readable array"):
        read_zoo("small_cnn_zoo", folder)
    (folder / "layout.csv").unlink()
    with pytest.raises(DataError, match=r"layout\.csv: file is missing"):
        read_zoo("small_cnn_zoo", folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,x,3,(3)\n", "is no layout; expected whole numbers; got a: x to 3"),
        ("a,,3,(3)\n", "is no layout"),
        ("a,0,45,(45)\nb,0,45,(45)\n", "does not cover the weights once"),
        ("a,0,45,(45)\na,45,90,(45)\n", "names a tensor twice"),
    ],
)
def test_layouts_of_small_cnns_that_are_none_are_named(read_zoo, tmp_path, text, message):
    folder = small_cnns(tmp_path / "in")
    (folder / "layout.csv").write_text(f"varname,start_idx,end_idx,shape\n{text}")
    with pytest.raises(DataError, match=message):
        read_zoo("small_cnn_zoo", folder)


def test_columns_and_data_sets_that_are_not_there_are_named(read_zoo, tmp_path):
    with pytest.raises(ConfigError, match=r"run_column=seed: no such column in metrics\.csv; expected one of modeldir"):
        read_zoo("small_cnn_zoo", small_cnns(tmp_path / "small"), reading={"run_column": "seed"})
    message = (
        r"no network is left; got nothing; no data set of zoo\.reading\.dataset=imagenet is in mnist\.pt, svhn\.pt"
    )
    with pytest.raises(DataError, match=message):
        read_zoo("zoo_dataset", zoo_dataset(tmp_path / "in"), reading={"dataset": "imagenet"})
