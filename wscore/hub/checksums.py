"""Fingerprints of the files of a published folder, by which a missing or altered one is found out.

    checksums.json   {"format": 1, "files": {"config.json": "sha256...", "model.safetensors": "sha256...", ...}}

Cards and TensorBoard files stand in it and are not checked: they may be edited without harm to the model.
"""

import hashlib
from pathlib import Path

from wscore.errors import DataError, ModelError
from wscore.io import read_json, write_json

CHECKSUMS = "checksums.json"
FORMAT = 1
FREE = ("README.md", ".gitattributes")
AGAIN = "publish it again (`dvc repro publish`) or fetch it again"


def write_checksums(folder: Path) -> None:
    """Write checksums.json over the files below a folder, hidden ones left out."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    kept = {name: digest(path) for name, path in names.items() if name != CHECKSUMS and not path.name.startswith(".")}
    write_json(Path(folder) / CHECKSUMS, {"format": FORMAT, "files": kept})


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a published folder by its name.

    Raises:
        ModelError: if the folder was not made by wscore, or by a version of another format.
    """
    path = Path(folder) / CHECKSUMS
    if not path.is_file():
        raise ModelError("is no published model: checksums.json is missing", where=folder, fix=AGAIN)
    try:
        content = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT or not isinstance(content.get("files"), dict):
        fix = "update wscore" if isinstance(found, int) and found > FORMAT else AGAIN
        raise ModelError("unknown format", where=path, expected=f"format {FORMAT}", got=f"format {found}", fix=fix)
    return content["files"]


def verify(folder: Path) -> None:
    """Return if every file of a published folder is there and as it was written.

    Raises:
        ModelError: naming the first file that is missing or altered.
    """
    for name, expected in read_checksums(folder).items():
        path = Path(folder) / name
        if path.name in FREE or "runs" in path.relative_to(folder).parts:
            continue
        if not path.is_file():
            raise ModelError("is missing", where=path, fix=AGAIN)
        if digest(path) != expected:
            raise ModelError("was altered", where=path, expected=f"the SHA-256 in {CHECKSUMS}", fix=AGAIN)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
