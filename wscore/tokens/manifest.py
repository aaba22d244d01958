"""Manifest of a cache folder: its source zoo and configuration, and size and hash of its files."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from wscore.config import to_plain
from wscore.errors import DataError
from wscore.io import content_hash, read_json, write_json
from wscore.tokens.config import TokensConfig

FORMAT = 1
FILES = (
    "tokens.npy",
    "index.parquet",
    "layouts.json",
    "tokenizer.json",
    "normalizer.json",
    "symmetry.json",
    "references.safetensors",
)
REBUILD = "run `dvc repro tokenize`"


def write_cache_manifest(folder: Path, *, zoo: str, config: TokensConfig, max_tokens: int) -> None:
    """Write manifest.json for the other files of a cache; `zoo` is the identity of the source zoo."""
    plain = recipe(config)
    files = {name: {"bytes": (folder / name).stat().st_size, "hash": _hash_file(folder / name)} for name in FILES}
    manifest = {
        "format": FORMAT,
        "identity": content_hash(f"tokens {FORMAT}", zoo, msgspec.json.encode(plain, order="sorted")),
        "zoo": zoo,
        "config": plain,
        "max_tokens": max_tokens,
        "files": files,
    }
    write_json(folder / "manifest.json", manifest)


def recipe(config: TokensConfig) -> dict[str, Any]:
    """Return the parameters that determine the tokens."""
    return {name: value for name, value in to_plain(config).items() if name in TokensConfig.__struct_fields__}


def read_cache_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest after checking the files: the size of all, the content of all except tokens.npy.

    Raises:
        DataError: if the folder is not a cache, or a file is missing, altered or of another version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError("no token cache here: manifest.json is missing", where=folder, fix=REBUILD)
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError("is of another version", where=path, expected=f"format {FORMAT}", fix=REBUILD)
    for name in FILES:
        _check_size(folder / name, manifest["files"][name]["bytes"])
    _check_content(folder, manifest, FILES[1:])
    return manifest


def verify_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Check the hash of every file.

    Raises:
        DataError: naming the first altered file.
    """
    _check_content(folder, manifest, FILES)


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise DataError("file of the token cache is missing", where=path, fix=REBUILD)
    size = path.stat().st_size
    if size != expected:
        raise DataError("was altered", where=path, expected=f"{expected} bytes", got=f"{size} bytes", fix=REBUILD)


def _check_content(folder: Path, manifest: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if _hash_file(folder / name) != manifest["files"][name]["hash"]:
            raise DataError("was altered: its hash is not that of the manifest", where=folder / name, fix=REBUILD)


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
