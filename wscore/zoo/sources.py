"""Where a zoo comes from: `zoo.source` names a function that writes it to a folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wscore.errors import ConfigError, DataError
from wscore.io import atomic_folder
from wscore.zoo.config import ZooConfig
from wscore.zoo.folder import read_folder
from wscore.zoo.generate import generate_zoo
from wscore.zoo.hub import download_zoo
from wscore.zoo.images import ImagesConfig, load_images
from wscore.zoo.store import Zoo, write_layouts


def fetch_zoo(config: ZooConfig, data: ImagesConfig, out: Path) -> int:
    """Write the zoo that a configuration names and return how many checkpoints were set aside.

    Raises:
        ConfigError: if a parameter that the source needs is missing.
        DataError: if images, checkpoints or rows are missing, unreadable or not finite.
    """
    return SOURCES[config.source](config, data, out)


def check_zoo(zoo: Zoo) -> None:
    """Return if every row is finite and as long as its layout says.

    Raises:
        DataError: naming the first row that is not.
    """
    unknown = set(zoo.table["layout"].astype(str)) - set(zoo.layouts)
    if unknown:
        raise DataError("layouts are missing", where=zoo.folder / "layouts.json", got=sorted(unknown)[:3])
    sizes = [zoo.layouts[str(name)].size for name in zoo.table["layout"]]
    for row, weights in zoo.stream():
        where = f"{zoo.folder}: {zoo.table['model_id'].iloc[row]}"
        if len(weights) != sizes[row]:
            raise DataError("weights don't fit the layout", where=where, expected=sizes[row], got=len(weights))
        if not np.isfinite(weights).all():
            raise DataError("holds weights that are not finite", where=where, got=int((~np.isfinite(weights)).sum()))


def _generate(config: ZooConfig, data: ImagesConfig, out: Path) -> int:
    return generate_zoo(config, load_images(data), out)


def _folder(config: ZooConfig, _: ImagesConfig, out: Path) -> int:
    read_folder(config, out)
    return 0


def _hub(config: ZooConfig, _: ImagesConfig, out: Path) -> int:
    """Copy a published zoo, from a local folder or from the Hub at its pinned revision."""
    if config.path is None:
        raise ConfigError(
            "is missing", where="zoo.path", expected="a data set id on the Hub or a local copy", got="null"
        )
    local = Path(config.path)
    zoo = Zoo(local if local.is_dir() else download_zoo(config.path, config.revision))
    check_zoo(zoo)
    with atomic_folder(out) as temporary:
        (temporary / "rows").mkdir()
        for part in zoo.parts:
            shutil.copyfile(part, temporary / "rows" / part.name)
        write_layouts(temporary, zoo.layouts.values())
    return 0


SOURCES: dict[str, Callable[[ZooConfig, ImagesConfig, Path], int]] = {
    "generate": _generate,
    "folder": _folder,
    "hub": _hub,
}
