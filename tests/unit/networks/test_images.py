import gzip
import io
import struct
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from wscore.config import convert, load_section, to_plain
from wscore.errors import ConfigError, DataError
from wscore.hub import client as hub
from wscore.networks.datasets import DataConfig
from wscore.networks.images import ImagesConfig, load_images

PARAMS = Path(__file__).parents[3] / "params.yaml"
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def config(root=None, **changes):
    plain = {"dataset": "mine", "root": None if root is None else str(root), "revision": None, "size": None}
    return ImagesConfig(**{**plain, "max_train": None, "max_test": None, "normalize": None, **changes})


def arrays(channels=None, size=6):
    rng = np.random.default_rng(0)
    shape = (size, size) if channels is None else (size, size, channels)
    x = rng.integers(0, 256, (50, *shape), dtype=np.uint8)
    y = np.arange(50, dtype=np.uint8) % 5
    return {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}


def write_idx(root, content, *, compressed=True):
    root.mkdir(exist_ok=True)
    for name, array in zip(NAMES, content.values(), strict=True):
        raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
        (root / (f"{name}.gz" if compressed else name)).write_bytes(gzip.compress(raw) if compressed else raw)
    return root


def write_npz(root, **changes):
    root.mkdir(exist_ok=True)
    np.savez(root / "images.npz", **{**arrays(), **changes})
    return root


def write_parquet(root, content, image="image", label="label", test="test"):
    root.mkdir(exist_ok=True)
    for part, short in (("train", "train"), (test, "test")):
        encoded = []
        for picture in content[f"x_{short}"]:
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            encoded.append({"bytes": stream.getvalue(), "path": None})
        table = pa.table({image: encoded, label: pa.array(content[f"y_{short}"].astype(np.int64))})
        pq.write_table(table, root / f"{part}-00000.parquet")
    return root


def test_the_section_of_the_defaults_is_the_digits(digits):
    found = load_images(load_section(DataConfig, "data", PARAMS).each()[0])
    assert all(torch.equal(a, b) for a, b in zip(found[1:5], digits[1:5], strict=True))
    assert (len(found.x_train), len(found.x_test), found.classes) == (1198, 599, 10)
    assert found.x_train.shape[1:] == (1, 8, 8)
    assert 0 == found.x_train.min() < found.x_train.max() == 1
    assert np.bincount(found.y_test).min() >= 58


def test_training_and_test_digits_are_different_images(digits):
    train = {image.numpy().tobytes() for image in digits.x_train}
    assert not train & {image.numpy().tobytes() for image in digits.x_test}


@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files_are_read(tmp_path, compressed):
    content = arrays()
    found = load_images(config(write_idx(tmp_path, content, compressed=compressed)))
    assert np.array_equal((found.x_train[:, 0] * 255).round().byte().numpy(), content["x_train"])
    assert np.array_equal(found.y_test.numpy(), content["y_test"])
    assert (found.name, found.classes) == ("mine", 5)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_npz_files_are_read(tmp_path, channels):
    content = arrays(channels)
    found = load_images(config(write_npz(tmp_path, **content)))
    assert found.x_train.shape == (30, channels or 1, 6, 6)
    last = found.x_test.permute(0, 2, 3, 1).numpy().reshape(content["x_test"].shape)
    assert np.allclose(last * 255, content["x_test"])


def test_fractions_are_taken_as_they_are(tmp_path):
    content = arrays()
    scaled = {name: content[name] / 255 for name in ("x_train", "x_test")}
    found = load_images(config(write_npz(tmp_path, **scaled)))
    assert torch.allclose(found.x_train, load_images(config(write_npz(tmp_path / "b"))).x_train)


@pytest.mark.parametrize("names", [{}, {"image": "img", "label": "labels", "test": "test"}])
@pytest.mark.parametrize("channels", [None, 3])
def test_parquet_files_are_read(tmp_path, names, channels):
    content = arrays(channels)
    found = load_images(config(write_parquet(tmp_path, content, **names)))
    assert found.x_train.shape == (30, channels or 1, 6, 6)
    last = (found.x_train.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    assert np.array_equal(last.reshape(content["x_train"].shape), content["x_train"])
    assert found.y_train.tolist() == content["y_train"].tolist()


def test_images_are_resized_and_cut(tmp_path):
    root = write_npz(tmp_path)
    found = load_images(config(root, size=12, max_train=10, max_test=15))
    assert found.x_train.shape == (10, 1, 12, 12)
    assert len(found.y_test) == 15
    assert found.classes == 5
    again = load_images(config(root, size=12, max_train=10, max_test=15))
    assert torch.equal(found.x_train, again.x_train)
    whole = load_images(config(root))
    kept = load_images(config(root, max_train=10))
    assert all((whole.x_train == image).flatten(1).all(1).any() for image in kept.x_train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.zeros(7, np.uint8)}, r"training part: images and labels differ in number.*\(30, 7\)"),
        ({"x_test": np.zeros((0, 6, 6), np.uint8), "y_test": np.zeros(0, np.uint8)}, "test part: .*there are none"),
        ({"x_train": np.zeros((30, 3, 6, 6), np.uint8)}, r"wrong shape.*channels\); got \(30, 3, 6, 6\)"),
        ({"x_train": np.full((30, 6, 6), 300)}, "wrong pixel values.*got int64, 300 to 300"),
        ({"x_train": np.full((30, 6, 6), np.nan)}, "wrong pixel values"),
        ({"x_train": np.full((30, 6, 6), -1.0)}, "wrong pixel values"),
        ({"y_train": np.full(30, -1)}, "wrong labels"),
        ({"y_train": np.full(30, 0.5)}, "wrong labels"),
        ({"x_test": np.zeros((20, 5, 6), np.uint8)}, "differ in shape"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_images(config(write_npz(tmp_path, **changes)))


def test_a_root_without_the_files_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=.*nowhere: no such folder"):
        load_images(config(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(DataError, match=r"no images found; expected train-images-idx3-ubyte.*got \['notes\.txt'\]"):
        load_images(config(tmp_path))
    root = write_idx(tmp_path / "idx", arrays())
    (root / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: file is missing"):
        load_images(config(root))
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"image": [1]}), tmp_path / "table" / "train.parquet")
    with pytest.raises(DataError, match="parquet files are missing"):
        load_images(config(tmp_path / "table"))


def test_broken_files_are_named(tmp_path):
    root = write_idx(tmp_path / "idx", arrays())
    for raw in (b"junk", gzip.compress(b"\0\0\x09\1aaaa"), gzip.compress(b"\0\0\x08\1\0\0\0\x09aa"), b""):
        (root / f"{NAMES[0]}.gz").write_bytes(raw)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: is not"):
            load_images(config(root))
    broken = tmp_path / "npz"
    broken.mkdir()
    for raw in (b"PK\3\4 cut", b"\x93NUMPY\1\0\x0a\0{'descr': (", b"\x93NUMPY"):
        (broken / "a.npz").write_bytes(raw)
        with pytest.raises(DataError, match=r"a\.npz: is not a readable npz file"):
            load_images(config(broken))
    np.savez(broken / "a.npz", x_train=np.zeros(3))
    with pytest.raises(DataError, match=r"arrays are missing.*y_train"):
        load_images(config(broken))
    tables = write_parquet(tmp_path / "parquet", arrays())
    (tables / "test-00000.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match="is not readable parquet"):
        load_images(config(tables))


def test_tables_without_images_or_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"columns are missing.*picture"):
        load_images(config(write_parquet(tmp_path, arrays(), image="picture")))


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(DataError, match=r"data\.dataset: unknown data set; expected digits, mnist.*got mnits"):
        load_images(config(dataset="mnits"))


@pytest.mark.parametrize(("name", "repository"), [("mnist", "ylecun/mnist"), ("me/mine", "me/mine")])
def test_the_hub_is_asked_for_the_rest(monkeypatch, name, repository, tmp_path):
    import datasets

    asked = []
    tables = {
        part: pq.read_table(write_parquet(tmp_path, arrays()) / f"{part}-00000.parquet") for part in ("train", "test")
    }

    def load(repository, revision, *, name):
        asked.append((repository, revision, name))
        return {part: datasets.Dataset(table) for part, table in tables.items()}

    monkeypatch.setattr(hub, "load_hub_dataset", load)
    assert len(load_images(config(dataset=name, revision="abc")).x_train) == 30
    assert asked == [(repository, "abc", None)]


def test_real_mnist(shared_data):
    root = shared_data / "mnist"
    found = load_images(config(root, dataset="mnist"))
    assert found.x_train.shape == (60000, 1, 28, 28)
    assert torch.bincount(found.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert float(found.x_train.mean()) == pytest.approx(0.13066, abs=1e-4)


def test_real_colour_images(shared_data):
    found = load_images(config(shared_data / "cifar10_jpeg_subset", dataset="cifar10", max_train=50, size=8))
    assert found.x_train.shape == (50, 3, 8, 8)
    assert found.x_test.shape == (2000, 3, 8, 8)
    assert found.classes == 10


def test_real_fashion(shared_data):
    found = load_images(config(shared_data / "fashion_mnist_900", dataset="fashion_mnist"))
    assert torch.bincount(found.y_train).tolist() == [81] * 10


def test_normalized_pixels_are_those_of_torchvision(tmp_path):
    content = arrays(channels=3)
    root = write_npz(tmp_path / "rgb", **content)
    plain, mean = load_images(config(root)), torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    expected = (plain.x_train - mean) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    assert torch.equal(load_images(config(root, normalize="imagenet")).x_train, expected)
    found = load_images(config(root, normalize=((0.5,), (0.25,))))
    assert torch.equal(found.x_test, (plain.x_test - 0.5) / 0.25)


def test_moments_of_other_channels_are_refused(tmp_path):
    root = write_npz(tmp_path / "grey")
    assert load_images(config(root, normalize="mnist")).x_train.min() == pytest.approx(-0.1307 / 0.3081, abs=1e-6)
    with pytest.raises(ConfigError, match="normalize: does not fit the channels; expected 1 or 1 each; got 3 means"):
        load_images(config(root, normalize="imagenet"))


def test_each_of_several_data_sets_has_moments_of_its_own():
    section = load_section(DataConfig, "data", PARAMS)
    both = msgspec.structs.replace(section, dataset=("digits", "mnist"), normalize={"mnist": "mnist"})
    assert [one.normalize for one in both.each()] == [None, "mnist"]
    with pytest.raises(ConfigError, match=r"data\.normalize\.other"):
        convert({**to_plain(both), "normalize": {"other": "mnist"}}, DataConfig, where="data")
    for wrong in ("cifar", [[0.5], [0.0]], [[0.5]]):
        with pytest.raises(ConfigError, match=r"data\.normalize"):
            convert({**to_plain(section), "normalize": wrong}, DataConfig, where="data")
