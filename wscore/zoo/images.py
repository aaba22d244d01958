"""Image data sets on which networks are trained and judged: built in, from local files, or from the Hub."""

import gzip
import struct
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.config import Section
from wscore.errors import DataError

HUB = {
    "mnist": ("ylecun/mnist", "image", "label"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "image", "label"),
    "cifar10": ("uoft-cs/cifar10", "img", "label"),
    "svhn": ("ufldl-stanford/svhn", "image", "label"),
}
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class ImagesConfig(Section):
    """Which images (section `data:`).

    Args:
        dataset: `digits` (built in), `mnist`, `fashion_mnist`, `cifar10`, `svhn`, a Hub data set id, or a name of your own
            with `root`.
        root: folder with idx (.gz), .npz or .parquet files; null reads the built-in set or the Hub.
        revision: pinned revision of the Hub data set; null takes the newest.
        size: height and width to which images are resized; null keeps their own.
        max_train: at most so many training images (the first ones of a fixed shuffle); null keeps all.
        max_test: likewise for test images.
    """

    dataset: str
    root: str | None
    revision: str | None
    size: Annotated[int, msgspec.Meta(ge=4, le=512)] | None
    max_train: Annotated[int, msgspec.Meta(ge=10)] | None
    max_test: Annotated[int, msgspec.Meta(ge=10)] | None


class Images(NamedTuple):
    """Images with values in [0, 1] and their labels.

    Attributes:
        name: data set name.
        x_train: training images.
        y_train: training labels, 0..classes-1.
        x_test: test images.
        y_test: test labels.
        classes: count of classes.
    """

    name: str
    x_train: Float[Tensor, "train channel height width"]
    y_train: Int[Tensor, " train"]
    x_test: Float[Tensor, "test channel height width"]
    y_test: Int[Tensor, " test"]
    classes: int


def load_images(config: ImagesConfig) -> Images:
    """Return the images that a configuration names, resized and cut to the asked counts.

    Raises:
        DataError: if the data set is unknown, its files are missing or malformed, or the Hub can't be reached.
    """
    if config.root is not None:
        arrays = _from_root(Path(config.root))
    elif config.dataset == "digits":
        arrays = _digits()
    else:
        arrays = _from_hub(config.dataset, config.revision)
    x_train, y_train, x_test, y_test = arrays
    x_train, y_train = _prepare(x_train, y_train, config.size, config.max_train)
    x_test, y_test = _prepare(x_test, y_test, config.size, config.max_test)
    classes = int(max(y_train.max(), y_test.max())) + 1
    return Images(config.dataset, x_train, y_train, x_test, y_test, classes)


def _digits() -> tuple[np.ndarray, ...]:
    """Return scikit-learn's 1,797 handwritten 8x8 digits; a fixed stratified third is the test part."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=1 / 3, random_state=0, stratify=labels)
    return parts[0], parts[2], parts[1], parts[3]


def _prepare(x: np.ndarray, y: np.ndarray, size: int | None, most: int | None) -> tuple[Tensor, Tensor]:
    if most is not None and most < len(x):
        keep = np.random.default_rng(0).permutation(len(x))[:most]
        x, y = x[keep], y[keep]
    if x.ndim == 3:
        x = x[..., None]
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float() / 255
    if size is not None and images.shape[-2:] != (size, size):
        images = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    return images, torch.from_numpy(np.ascontiguousarray(y)).long()


def _from_root(root: Path) -> tuple[np.ndarray, ...]:
    if not root.is_dir():
        raise DataError("no such folder", where=f"data.root={root}", fix="name a folder with idx, npz or parquet files")
    if _find_idx(root, IDX[0]) is not None:
        return _from_idx(root)
    archives, tables = sorted(root.glob("*.npz")), sorted(root.glob("*.parquet"))
    if archives:
        return _from_npz(archives[0])
    if tables:
        return _from_parquet(root)
    found = sorted(path.name for path in root.iterdir())[:8]
    wanted = f"{IDX[0]}[.gz] and its three fellows, or one .npz, or train*.parquet and test*.parquet"
    raise DataError("no images found", where=f"data.root={root}", expected=wanted, got=found)


def _find_idx(root: Path, name: str) -> Path | None:
    candidates = [root / name, root / f"{name}.gz", root / name.replace("-idx", ".idx")]
    return next((path for path in candidates if path.is_file()), None)


def _from_idx(root: Path) -> tuple[np.ndarray, ...]:
    arrays = []
    for name in IDX:
        path = _find_idx(root, name)
        if path is None:
            raise DataError("file is missing", where=root / f"{name}.gz", expected="the four idx files of MNIST")
        arrays.append(_read_idx(path))
    _same_length(root, arrays)
    return tuple(arrays)


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


def _from_npz(path: Path) -> tuple[np.ndarray, ...]:
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as content:
            missing = [name for name in names if name not in content]
            if missing:
                raise DataError("arrays are missing", where=path, expected=names, got=sorted(content))
            arrays = [content[name] for name in names]
    except (OSError, ValueError) as error:
        raise DataError("is not a readable npz file", where=path, got=error) from error
    _same_length(path, arrays)
    return tuple(arrays)


def _from_parquet(root: Path) -> tuple[np.ndarray, ...]:
    from datasets import load_dataset

    files = {part: [str(p) for p in sorted(root.glob(f"{part}*.parquet"))] for part in ("train", "test")}
    if not all(files.values()):
        raise DataError("parquet files are missing", where=root, expected="train*.parquet and test*.parquet")
    return _from_dataset(load_dataset("parquet", data_files=files), where=str(root))


def _from_hub(name: str, revision: str | None) -> tuple[np.ndarray, ...]:
    if name not in HUB and "/" not in name:
        known = ", ".join(["digits", *HUB])
        raise DataError("unknown data set", where="data.dataset", expected=f"{known}, a Hub id, or data.root", got=name)
    from wscore.zoo.hub import load_hub_dataset

    repository = HUB[name][0] if name in HUB else name
    return _from_dataset(load_hub_dataset(repository, revision), where=repository)


def _from_dataset(content: object, *, where: str) -> tuple[np.ndarray, ...]:
    arrays: list[np.ndarray] = []
    for part in ("train", "test"):
        if part not in content:  # pyright: ignore[reportOperatorIssue]
            raise DataError("split is missing", where=where, expected="train and test", got=list(content))  # pyright: ignore
        split = content[part]  # pyright: ignore[reportIndexIssue]
        image = next((name for name in ("image", "img") if name in split.column_names), None)
        label = next((name for name in ("label", "labels", "fine_label") if name in split.column_names), None)
        if image is None or label is None:
            raise DataError("columns are missing", where=where, expected="image and label", got=split.column_names)
        arrays += [np.stack([np.asarray(item) for item in split[image]]), np.asarray(split[label])]
    return tuple(arrays)


def _same_length(where: Path, arrays: list[np.ndarray]) -> None:
    lengths = [len(array) for array in arrays]
    if lengths[0] != lengths[1] or lengths[2] != lengths[3] or 0 in lengths:
        raise DataError("images and labels differ in number", where=where, got=lengths)
