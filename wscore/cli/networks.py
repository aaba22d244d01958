"""Reads the networks named on the command line."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wscore.errors import DataError, WscoreError
from wscore.forecasting.trajectories.store import Trajectory
from wscore.hub.client import download, download_zoo
from wscore.hub.fetch import parse_source
from wscore.networks.checkpoints import SUFFIXES, read_network
from wscore.networks.layout import Layout, layout_of
from wscore.networks.selection import Checkpoint
from wscore.networks.shards import INDEX
from wscore.zoo.store import Zoo

ENDINGS = (*SUFFIXES, *INDEX)
DATASETS = "datasets/"
EXPECTED = "a file, a folder, ZOO#MODEL_ID, owner/name on the Hub, or datasets/owner/name for a published zoo"


class LoadedNetwork(NamedTuple):
    """One network.

    Attributes:
        name: name in tables.
        state: its state dict.
        architecture: as JSON text; empty if unknown.
        source: what else the file holds; None for networks that are not in a file of their own.
    """

    name: str
    state: dict[str, Tensor]
    architecture: str
    source: Checkpoint | None = None

    @property
    def layout(self) -> Layout:
        """Positions of its tensors in a flat vector."""
        return layout_of(self.state)


def read_networks(texts: Sequence[str], *, architecture: str = "", limit: int | None = None) -> Iterator[LoadedNetwork]:
    """Yield the named networks one by one.

    Args:
        texts: files, folders of files, zoos, `zoo#model_id`, recorded runs, or ids on the Hub.
        architecture: JSON text for networks without a known architecture.
        limit: maximum number of networks.

    Raises:
        DataError: if one is missing, unreadable, or not finite.
    """
    if len(texts) > 1 and list(texts) == sorted(texts):  # in the order of the shell: epoch10 before epoch2
        from wscore.zoo.readers.folder import in_time

        texts = sorted(texts, key=in_time)
    networks = (network for text in texts for network in _read(text))
    for network in islice(networks, limit):
        yield network if network.architecture else network._replace(architecture=architecture)


def read_one(text: str, *, architecture: str = "") -> LoadedNetwork:
    """Return a single named network.

    Raises:
        DataError: if it is missing, or there are several.
    """
    networks = list(read_networks([text], architecture=architecture, limit=2))
    if len(networks) != 1:
        raise DataError("is not one network", where=text, fix="name a file, or one network of a zoo as ZOO#MODEL_ID")
    return networks[0]


def zoo_folder(text: str) -> Path:
    """Return the folder of a zoo, downloaded if it is named as `datasets/owner/name[@revision]`.

    Raises:
        DataError: if the Hub can't be reached or refuses.
    """
    if text.startswith(DATASETS) and not Path(text).exists():
        source = parse_source(text.removeprefix(DATASETS))
        return download_zoo(source.name, source.revision)
    return Path(text)


def network_files(path: Path) -> list[str]:
    """Return the files of networks in a folder, relative to it, in the order of their numbers; none in a zoo or run."""
    from wscore.zoo.readers.folder import in_time, without_shards

    if (path / "rows").is_dir() or (path / "weights.npy").is_file():
        return []
    runs = {array.parent for array in path.glob("*/weights.npy")}
    files = [file for file in path.rglob("*") if file.name.lower().endswith(ENDINGS) and file.is_file()]
    inside = [file.relative_to(path) for file in files if not runs & set(file.parents)]
    names = (file.as_posix() for file in inside if not any(level.startswith(".") for level in file.parts))
    return without_shards(path, sorted(names, key=in_time))[0]  # a forecast uses epoch-9 before epoch-10


def _read(text: str) -> Iterator[LoadedNetwork]:
    head, mark, name = text.rpartition("#")
    if mark and not Path(text).exists():
        zoo = Zoo(zoo_folder(head))
        yield _row(zoo, zoo.row_of(name))
        return
    path = zoo_folder(text)
    if path.is_file():
        yield _of_file(path, path.name)
    elif path.is_dir():
        yield from _of_folder(path)
    else:
        yield from _of_folder(_from_hub(text))


def _of_folder(path: Path) -> Iterator[LoadedNetwork]:
    if (path / "rows").is_dir():
        zoo = Zoo(path)
        for row, _ in enumerate(zoo.table["model_id"]):
            yield _row(zoo, row)
        return
    if (path / "weights.npy").is_file():
        run = Trajectory(path)
        for step, vector in zip(run.manifest.snapshots.step, run.weights, strict=True):
            yield LoadedNetwork(f"{run.name}@{step}", run.layout.unflatten(torch.from_numpy(vector.copy())), "")
        return
    files = network_files(path)
    if not files:
        runs = sorted(array.parent for array in path.glob("*/weights.npy"))
        fix = f"name one of the recorded runs, such as {runs[0]}" if runs else None
        raise DataError("no networks here", where=path, expected=f"a zoo, or files *{', *'.join(SUFFIXES)}", fix=fix)
    for file in files:
        yield _of_file(path / file, file)


def _of_file(path: Path, name: str) -> LoadedNetwork:
    checkpoint = read_network(path)
    return LoadedNetwork(name, checkpoint.state, "", checkpoint)


def _row(zoo: Zoo, row: int) -> LoadedNetwork:
    facts: Any = zoo.table.iloc[row]
    state = zoo.layout(row).unflatten(torch.from_numpy(zoo.weights([row])[0].copy()))
    return LoadedNetwork(str(facts["model_id"]), state, str(facts["architecture"] or ""))


def _from_hub(text: str) -> Path:
    if "/" not in text or Path(text).suffix in SUFFIXES:
        raise DataError("no such file or folder", where=text, expected=EXPECTED)
    try:
        source = parse_source(text)
    except WscoreError as error:
        raise DataError("no such file or folder", where=text, expected=EXPECTED) from error
    return download(source.name, source.revision, patterns=[f"*{suffix}" for suffix in ENDINGS])
