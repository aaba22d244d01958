"""Locating published models in a folder or on the Hub, at a pinned revision."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from wscore.errors import ModelError
from wscore.hub.checksums import CHECKSUMS
from wscore.hub.client import bound_waiting, check_reachable, client_errors, download, is_offline, persist
from wscore.hub.upload import check_repo_id

FIX = "see `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`, or name a folder"
LOCAL = ("models", "data")  # folders of the pipeline: never looked for on the Hub
EXPECTED = "a folder of published models, or owner/name or owner/name@revision on the Hub"


class Source(NamedTuple):
    """Location of published models.

    Attributes:
        name: a folder, or `owner/name` on the Hub.
        revision: commit, tag or branch on the Hub; None is the newest.
    """

    name: str
    revision: str | None


def parse_source(text: str | Path, revision: str | None = None) -> Source:
    """Return the location of models from a folder, `owner/name` or `owner/name@revision`.

    Raises:
        PublishError: if it is neither a folder nor a well-formed id.
        ModelError: if a path is not a folder, or two revisions are given.

    >>> parse_source("owner/name@4f1c2ab")
    Source(name='owner/name', revision='4f1c2ab')
    """
    name = str(text)
    if Path(name).is_dir():
        return Source(name, None)
    if Path(name).exists() or name.startswith(("/", "./", "../", "~")) or isinstance(text, Path):
        raise ModelError("no such folder", where=name, expected=EXPECTED)
    if name.split("/", maxsplit=1)[0] in LOCAL:
        raise ModelError(
            "no published models here", where=name, fix="run `dvc repro publish`, or name others with --model"
        )
    name, _, pinned = name.partition("@")
    if pinned and revision and pinned != revision:
        raise ModelError("two revisions are named", where=name, got=f"{pinned} and {revision}")
    check_repo_id(name, where=str(text), expected=EXPECTED)
    return Source(name, pinned or revision)


def fetch(text: str | Path, revision: str | None = None, *, part: str = "", **client: Any) -> Path:
    """Return the folder of a published model, downloaded if it is on the Hub.

    Args:
        text: a folder, `owner/name` or `owner/name@revision`. An existing folder takes precedence over an id.
        revision: commit, tag or branch on the Hub; null is the newest.
        part: subfolder, such as `encoder`, if there are several models.
        client: further options of `huggingface_hub.snapshot_download`.

    Raises:
        PublishError: if the id is malformed.
        DataError: if the Hub can't be reached or denies access.
        ModelError: if there is no such model.
    """
    source = parse_source(text, revision)
    folder = Path(source.name)
    if not folder.is_dir():
        if part and source.revision is None and not exists(source):  # one repository per model
            alone = Source(f"{source.name}-{part.replace('/', '-')}", None)
            source = alone if exists(alone) else source
        first = [f"{part}/*", CHECKSUMS, "config.json"] if part else None
        folder = download(source.name, source.revision, patterns=first, fix=FIX, **client)
        if part and not (folder / part).is_dir() and (folder / "config.json").is_file():
            folder = download(source.name, source.revision, fix=FIX, **client)  # a repository of this part only
    return locate(folder, part)


def exists(source: Source) -> bool:
    """Return whether a repository exists on the Hub; true unless the Hub reports that it does not.

    Offline, whether it was fetched before.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.file_download import repo_folder_name

    if is_offline():
        return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=source.name, repo_type="model")).is_dir()
    check_reachable(source.name, fix=FIX)
    bound_waiting()
    try:
        persist(lambda: HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None).model_info(source.name))
    except RepositoryNotFoundError:
        return False
    except client_errors():
        return True  # the download raises the error
    return True


def locate(folder: Path, part: str = "") -> Path:
    """Return the folder of a part: a subfolder, or the folder itself if it contains a single model.

    Raises:
        ModelError: if neither is the case.
    """
    for place in (folder / part, folder):
        if (place / "config.json").is_file():
            return place
    names = [path.parent.relative_to(folder).as_posix() for path in sorted(folder.rglob("config.json"))]
    raise ModelError("no such model here", where=folder / part, expected="config.json", got=", ".join(names) or "none")
