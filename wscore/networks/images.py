"""Loads image data sets on which networks are trained and evaluated: built in, from local files, or from the Hub."""

import gzip
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any, Literal, NamedTuple
from zipfile import BadZipFile

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.config import Section
from wscore.errors import ConfigError, DataError

Deviation = Annotated[float, msgspec.Meta(gt=0)]
#: Mean and standard deviation of each channel, or of all, or the name of those in `NORMALIZATIONS`.
Normalization = Literal["imagenet", "mnist"] | tuple[tuple[float, ...], tuple[Deviation, ...]]
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.1307,), (0.3081,)),
}
HUB: dict[str, tuple[str, str | None]] = {  # repository and configuration
    "mnist": ("ylecun/mnist", None),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", None),
    "cifar10": ("uoft-cs/cifar10", None),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
TEST_SPLITS = ("test", "validation", "valid")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class ImagesConfig(Section):
    """Image data set (section `data:`).

    Args:
        dataset: `digits` (built in), `mnist`, `fashion_mnist`, `cifar10`, `svhn`, a Hub data set id, or any name
            with `root`.
        root: folder with idx (.gz), .npz or .parquet files; null reads the built-in set or the Hub.
        revision: pinned revision of the Hub data set; null uses the newest.
        size: height and width to which images are resized; null keeps the original size.
        max_train: maximum number of training images (the first of a fixed shuffle); null keeps all.
        max_test: the same for test images.
        normalize: (pixel - mean) / deviation, by channel or for all, as the networks were trained on; null keeps pixels
            in [0, 1].
    """

    dataset: str
    root: str | None
    revision: str | None
    size: Annotated[int, msgspec.Meta(ge=4, le=512)] | None
    max_train: Annotated[int, msgspec.Meta(ge=10)] | None
    max_test: Annotated[int, msgspec.Meta(ge=10)] | None
    normalize: Normalization | None


class Images(NamedTuple):
    """Images of a data set with values in [0, 1], unless normalized, and their labels, from 0 to `classes` - 1."""

    name: str
    x_train: Float[Tensor, "train channel height width"]
    y_train: Int[Tensor, " train"]
    x_test: Float[Tensor, "test channel height width"]
    y_test: Int[Tensor, " test"]
    classes: int


class Arrays(NamedTuple):
    """Raw images, channels last or without channel axis, and their labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_images(config: ImagesConfig) -> Images:
    """Return the configured images, resized, normalized and limited to the configured counts.

    Raises:
        ConfigError: if `normalize` does not fit the channels.
        DataError: if the data set is unknown, its files are missing or malformed, or the Hub cannot be reached.
    """
    if config.root is not None:
        arrays = _from_root(Path(config.root))
    elif config.dataset == "digits":
        arrays = _digits()
    else:
        arrays = _from_hub(config.dataset, config.revision)
    where = config.root or config.dataset
    x_train, y_train = _prepare(arrays.x_train, arrays.y_train, config, config.max_train, f"{where}, training part")
    x_test, y_test = _prepare(arrays.x_test, arrays.y_test, config, config.max_test, f"{where}, test part")
    if x_train.shape[1:] != x_test.shape[1:]:
        got = f"{tuple(x_train.shape[1:])} and {tuple(x_test.shape[1:])}"
        raise DataError("training and test images differ in shape", where=where, expected="one shape", got=got)
    classes = int(max(arrays.y_train.max(), arrays.y_test.max())) + 1
    return Images(config.dataset, x_train, y_train, x_test, y_test, classes)


def _digits() -> Arrays:
    """Return scikit-learn's 1,797 handwritten 8x8 digits; a fixed stratified third is the test split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, target = load_digits(return_X_y=True)
    images = np.rint(np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(target, dtype=np.int64)
    rows = np.arange(len(labels))
    train, test = (
        np.asarray(indices) for indices in train_test_split(rows, test_size=1 / 3, random_state=0, stratify=labels)
    )
    return Arrays(images[train], labels[train], images[test], labels[test])


def _prepare(x: np.ndarray, y: np.ndarray, config: ImagesConfig, most: int | None, where: str) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) in [0, 1] and their labels, limited to the first of a fixed shuffle and resized."""
    x = _checked(x, y, where)
    if most is not None and most < len(x):
        keep = np.random.default_rng(0).permutation(len(x))[:most]
        x, y = x[keep], y[keep]
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32, order="C"))
    images = images / 255 if x.dtype.kind in "iu" else images
    images = images if config.normalize is None else normalized(images, config.normalize, where)
    if config.size is not None and images.shape[-2:] != (config.size, config.size):
        images = torch.nn.functional.interpolate(
            images, (config.size, config.size), mode="bilinear", align_corners=False
        )
    return images, torch.from_numpy(y.astype(np.int64))


def normalized(
    images: Float[Tensor, "image channel height width"], how: Normalization, where: str
) -> Float[Tensor, "image channel height width"]:
    """Return (pixel - mean) / deviation, by channel or for all channels.

    Raises:
        ConfigError: if the counts are neither 1 nor that of the channels.
    """
    statistics = NORMALIZATIONS[how] if isinstance(how, str) else how
    if not all(len(values) in (1, images.shape[1]) for values in statistics):
        got = f"{len(statistics[0])} means and {len(statistics[1])} deviations"
        expected = f"1 or {images.shape[1]} each"
        raise ConfigError("does not fit the channels", where=f"{where}: normalize", expected=expected, got=got)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in statistics)
    return (images - mean) / deviation


def _checked(x: np.ndarray, y: np.ndarray, where: str) -> np.ndarray:
    """Validate images and labels; return the images with a channel axis."""
    if len(x) != len(y) or not len(x):
        raise DataError("images and labels differ in number, or there are none", where=where, got=(len(x), len(y)))
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] > 4:
        raise DataError(
            "wrong shape of the images", where=where, expected="(N, H, W) or (N, H, W, channels)", got=x.shape
        )
    high = 255 if x.dtype.kind in "iu" else 1
    if x.dtype.kind not in "iuf" or not (x.min() >= 0 and x.max() <= high):
        expected, got = "whole numbers from 0 to 255 or fractions from 0 to 1", f"{x.dtype}, {x.min()} to {x.max()}"
        raise DataError("wrong pixel values", where=where, expected=expected, got=got)
    if y.ndim != 1 or y.dtype.kind not in "iu" or y.min() < 0:
        raise DataError("wrong labels", where=where, expected="whole numbers from 0", got=f"{y.dtype}, shape {y.shape}")
    return x


def _from_root(root: Path) -> Arrays:
    if not root.is_dir():
        raise DataError("no such folder", where=f"data.root={root}", fix="give a folder with idx, npz or parquet files")
    if _find_idx(root, IDX[0]) is not None:
        return _from_idx(root)
    archives, tables = sorted(root.glob("*.npz")), sorted(root.glob("*.parquet"))
    if archives:
        return _from_npz(archives[0])
    if tables:
        return _from_parquet(root)
    names = sorted(path.name for path in root.iterdir())[:8]
    wanted = f"{IDX[0]}[.gz] and the three other idx files, or one .npz, or train*.parquet and test*.parquet"
    raise DataError("no images found", where=f"data.root={root}", expected=wanted, got=names)


def _find_idx(root: Path, name: str) -> Path | None:
    candidates = [root / name, root / f"{name}.gz", root / name.replace("-idx", ".idx")]
    return next((path for path in candidates if path.is_file()), None)


def _from_idx(root: Path) -> Arrays:
    arrays = []
    for name in IDX:
        path = _find_idx(root, name)
        if path is None:
            raise DataError("file is missing", where=root / f"{name}.gz", expected="the four idx files of MNIST")
        arrays.append(_read_idx(path))
    return Arrays(*arrays)


def _read_idx(path: Path) -> np.ndarray:
    """Return the array of an idx file (two zero bytes, type 8 = unsigned byte, axes, big-endian sizes, data)."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, axes = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes])
        if zero or kind != 8:
            raise DataError("is not an idx file of unsigned bytes", where=path, got=raw[:4].hex())
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DataError("is not a readable idx file", where=path, got=error, fix="download it again") from error


def _from_npz(path: Path) -> Arrays:
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            missing = [name for name in names if name not in content]
            if missing:
                raise DataError("arrays are missing", where=path, expected=names, got=sorted(content))
            arrays = [content[name] for name in names]
    except (OSError, EOFError, ValueError, TypeError, TokenError, BadZipFile, zlib.error) as error:
        raise DataError("is not a readable npz file", where=path, got=error) from error
    return Arrays(*arrays)


def _from_parquet(root: Path) -> Arrays:
    """Return the images of train*.parquet and test*.parquet as written by `datasets`, read without its disk cache."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    content = {}
    for split in ("train", "test"):
        files = sorted(root.glob(f"{split}*.parquet"))
        if not files:
            raise DataError("parquet files are missing", where=root, expected="train*.parquet and test*.parquet")
        try:
            content[split] = Dataset(pa.concat_tables([pq.read_table(file) for file in files]))
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError("is not readable parquet", where=root / f"{split}*.parquet", got=error) from error
    return _from_dataset(content, where=str(root))


def _from_hub(name: str, revision: str | None) -> Arrays:
    if name not in HUB and "/" not in name:
        known = ", ".join(["digits", *HUB])
        raise DataError("unknown data set", where="data.dataset", expected=f"{known}, a Hub id, or data.root", got=name)
    from wscore.hub.client import load_hub_dataset

    repository, configuration = HUB.get(name, (name, None))
    return _from_dataset(load_hub_dataset(repository, revision, name=configuration), where=repository)


def _from_dataset(content: Mapping[Any, Any], *, where: str) -> Arrays:
    """Return the training and test part of a data set of the library `datasets`."""
    test = next((split for split in TEST_SPLITS if split in content), None)
    if "train" not in content or test is None:
        raise DataError("split is missing", where=where, expected="train and test", got=list(content))
    return Arrays(*_columns(content["train"], where), *_columns(content[test], where))


def _columns(split: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    from datasets import Image

    image = next((name for name in IMAGE_COLUMNS if name in split.column_names), None)
    label = next((name for name in LABEL_COLUMNS if name in split.column_names), None)
    if image is None or label is None:
        raise DataError("columns are missing", where=where, expected="image and label", got=split.column_names)
    if isinstance(split.features[image], dict):  # encoded images without a feature schema
        split = split.cast_column(image, Image())
    pictures = [np.asarray(item) for item in split[image]]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise DataError("images differ in shape", where=where, expected="one shape", got=sorted(shapes)[:4])
    return np.stack(pictures), np.asarray(split[label])
