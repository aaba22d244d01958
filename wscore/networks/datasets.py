"""Data sets of a zoo: every network is trained and evaluated on the images of its own data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from wscore.config import Section
from wscore.errors import ConfigError
from wscore.late import pd
from wscore.networks.factories import UNKNOWN, NetworkRunner, find_way
from wscore.networks.images import Images, ImagesConfig, Normalization, load_images
from wscore.networks.layout import Layout

__all__ = ["UNKNOWN", "DataConfig", "NetworkKey", "NetworkRunner", "Tasks", "as_tasks", "kinds_of", "load_tasks"]

Name = Annotated[str, msgspec.Meta(min_length=1)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]


class DataConfig(Section):
    """Image data sets and factories of imported networks (section `data:`)."""

    dataset: Name | Names
    root: str | dict[Name, str] | None
    revision: str | dict[Name, str] | None
    size: Annotated[int, msgspec.Meta(ge=4, le=512)] | None
    max_train: Annotated[int, msgspec.Meta(ge=10)] | None
    max_test: Annotated[int, msgspec.Meta(ge=10)] | None
    normalize: Normalization | dict[Name, Normalization | None] | None
    factories: dict[Name, Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets, in order."""
        return (self.dataset,) if isinstance(self.dataset, str) else self.dataset

    def __post_init__(self) -> None:
        """Reject repeated data sets, and folders or revisions that are ambiguous among several data sets."""
        if len(set(self.datasets)) < len(self.datasets):
            raise ConfigError(
                "lists a data set twice", where="data.dataset", got=list(self.datasets), fix="list each once"
            )
        for key in ("root", "revision", "normalize"):
            value = getattr(self, key)
            if key != "normalize" and isinstance(value, str) and len(self.datasets) > 1:
                example = f"{{{self.datasets[0]}: {value}}}"
                raise ConfigError(
                    "is ambiguous for several data sets", where=f"data.{key}", expected=f"such as {example}", got=value
                )
            unknown = sorted(set(value) - set(self.datasets)) if isinstance(value, dict) else []
            if unknown:
                raise ConfigError(
                    "not in data.dataset", where=f"data.{key}.{unknown[0]}", expected=", ".join(self.datasets)
                )

    def each(self) -> list[ImagesConfig]:
        """Return the configuration of each data set."""
        return [
            ImagesConfig(
                dataset=name,
                root=_of(self.root, name),
                revision=_of(self.revision, name),
                size=self.size,
                max_train=self.max_train,
                max_test=self.max_test,
                normalize=_of(self.normalize, name),
            )
            for name in self.datasets
        ]

    def only(self, what: str) -> ImagesConfig:
        """Return the configuration of the single data set that `what` requires.

        Raises:
            ConfigError: if there are several.
        """
        if len(self.datasets) > 1:
            expected, got = f"one data set: {what} cannot mix several", list(self.datasets)
            raise ConfigError("is a list", where="data.dataset", expected=expected, got=got, fix="name one of them")
        return self.each()[0]


class NetworkKey(NamedTuple):
    """Key shared by networks that are built and run in the same way.

    Attributes:
        architecture: JSON for `wscore.networks.architectures.parse`, or empty.
        factory: cell of the column `factory`, or empty.
        task: name of their data set, or empty.
    """

    architecture: str
    factory: str
    task: str


class Tasks:
    """Images of every data set of a zoo, and how to run its networks.

    Args:
        images: of each data set, with distinct names.
        factories: {name: "package.module:function"} of imported networks.
    """

    def __init__(self, images: Sequence[Images], factories: Mapping[str, str] | None = None) -> None:
        self.images = tuple(images)
        self.factories = dict(factories or {})
        self._by_name = {dataset.name: dataset for dataset in images}
        self._ways: dict[tuple[NetworkKey, str], NetworkRunner] = {}

    def key(self, dataset: object) -> str:
        """Return the name of the images for a value of the column `dataset`; empty if there are none.

        If there is one data set, it is used for all networks, whatever the value.
        """
        if len(self.images) == 1:
            return self.images[0].name
        return str(dataset) if str(dataset) in self._by_name else ""

    def of(self, key: str) -> Images | None:
        """Return the images of a key."""
        return self._by_name.get(key)

    def way(self, kind: NetworkKey, layout: Layout) -> NetworkRunner:
        """Return how networks of a kind are run on their images, or why they cannot be.

        Raises:
            ConfigError: if a factory cannot be imported.
        """
        code = (kind, layout.identity)
        if code not in self._ways:
            images = self.of(kind.task)
            self._ways[code] = (
                NetworkRunner(None, f"data.dataset lists {', '.join(self._by_name)} and not their data set")
                if images is None
                else find_way(kind.architecture, kind.factory, layout, images, self.factories)
            )
        return self._ways[code]

    def map(self, change: Callable[[Images], Images]) -> Tasks:
        """Return a copy with transformed images."""
        return Tasks([change(dataset) for dataset in self.images], self.factories)


def load_tasks(config: DataConfig | ImagesConfig) -> Tasks:
    """Return the configured images.

    Raises:
        DataError: if a data set is unknown, its files are missing or malformed, or the Hub cannot be reached.
    """
    if isinstance(config, ImagesConfig):
        return Tasks([load_images(config)])
    return Tasks([load_images(dataset) for dataset in config.each()], config.factories)


def as_tasks(images: Images | Tasks) -> Tasks:
    """Wrap a single data set as `Tasks`; return `Tasks` unchanged."""
    return images if isinstance(images, Tasks) else Tasks([images])


def kinds_of(table: pd.DataFrame, tasks: Tasks | None) -> list[NetworkKey]:
    """Return the kind of every row of a zoo's table; without tasks all are equal."""
    columns = [_texts(table, name) for name in ("architecture", "factory", "dataset")]
    return [
        NetworkKey(architecture, factory, "" if tasks is None else tasks.key(dataset))
        for architecture, factory, dataset in zip(*columns, strict=True)
    ]


def _texts(table: pd.DataFrame, name: str) -> list[str]:
    return table[name].fillna("").astype(str).tolist() if name in table else [""] * len(table)


def _of(value: Any, name: str) -> Any:
    """Return a parameter of one data set: of a mapping its entry, else the value of all."""
    return value.get(name) if isinstance(value, Mapping) else value
