"""Checksums of a published folder, to detect missing and altered files.

    checksums.json   {"format": 1, "files": {"config.json": "sha256...", "model.safetensors": "sha256...", ...}}

Cards and TensorBoard files are listed but not checked: they can be edited without affecting the model.
"""

import hashlib
from pathlib import Path

from wscore.errors import DataError, ModelError
from wscore.io import read_json, write_json

CHECKSUMS = "checksums.json"
FORMAT = 1
FREE = ("README.md", ".gitattributes")
READ = ("*.json", "*.safetensors")  # files of a model
AGAIN = "publish it again (`dvc repro publish`) or fetch it again"


def write_checksums(folder: Path) -> None:
    """Write checksums.json for all files in a folder, except hidden ones."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    kept = {
        name: file_sha256(path) for name, path in names.items() if name != CHECKSUMS and not path.name.startswith(".")
    }
    write_json(Path(folder) / CHECKSUMS, {"format": FORMAT, "files": kept})


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a published folder by its name.

    Raises:
        ModelError: if the folder was not written by wscore, or has another format.
    """
    path = Path(folder) / CHECKSUMS
    if not path.is_file():
        raise ModelError("is no published model: checksums.json is missing", where=folder, fix=AGAIN)
    try:
        content = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from error
    version = content.get("format") if isinstance(content, dict) else None
    files = content.get("files") if isinstance(content, dict) else None
    if version != FORMAT or not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        fix = "update wscore" if isinstance(version, int) and version > FORMAT else AGAIN
        raise ModelError("unknown format", where=path, expected=f"format {FORMAT}", got=f"format {version}", fix=fix)
    for name in files:
        confined(Path(folder), name)
    return files


def confined(folder: Path, name: str) -> Path:
    """Return the path of a file of a published folder, after checking that it is inside the folder.

    Raises:
        ModelError: if the name is absolute, contains `..`, or links out of the folder (except into the Hub's cache).
    """
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or any(component in ("", ".", "..") or component.endswith(":") for component in parts):
        raise ModelError("names a file outside of the folder", where=folder / CHECKSUMS, got=name[:200], fix=AGAIN)
    path, place = folder / name, folder.absolute()
    roots = [place.resolve()]
    cached = [above.parent.parent for above in (place, *place.parents) if above.parent.name == "snapshots"]
    roots += [root / "blobs" for repository in cached for root in (repository, repository.parent)]  # old and new caches
    if not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
        raise ModelError("is a link out of the folder", where=path, got=path.resolve(), fix=AGAIN)
    return path


def verify(folder: Path) -> None:
    """Check every file of a published folder against its checksum.

    Raises:
        ModelError: naming the first file that is missing, altered or not listed.
    """
    files = read_checksums(folder)
    if not files:
        raise ModelError("names no file", where=Path(folder) / CHECKSUMS, fix=AGAIN)
    there = [path.relative_to(folder) for pattern in READ for path in Path(folder).rglob(pattern)]
    added = sorted(path.as_posix() for path in there if path.as_posix() not in files and path.name != CHECKSUMS)
    added = [name for name in added if "runs" not in name.split("/") and not name.startswith(".")]
    if added:
        raise ModelError(f"is not named in {CHECKSUMS}", where=Path(folder) / added[0], fix=AGAIN)
    for name, expected in files.items():
        path = confined(Path(folder), name)
        if path.name in FREE or "runs" in path.relative_to(folder).parts:
            continue
        if not path.is_file():
            raise ModelError("is missing", where=path, fix=AGAIN)
        if file_sha256(path) != expected:
            raise ModelError("was altered", where=path, expected=f"the SHA-256 in {CHECKSUMS}", fix=AGAIN)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
