"""Before the pipeline runs (`make repro`): a git repository, DVC's lock file, and what lies in local folders of networks.

python -m wscore.preflight
"""

import configparser
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from wscore.config import PARAMS, read_yaml
from wscore.errors import WscoreError
from wscore.io import content_hash, read_json, write_json, write_text
from wscore.late import ruamel_yaml

RWLOCK, RECORD = Path(".dvc/tmp/rwlock"), Path("dvc.lock")
FOLDERS = Path("data/folders.json")  # a parameter file of dvc.yaml: fetch_zoo reads `zoo`, train_base reads `base`
SECTIONS = ("zoo", "base")


def main() -> None:
    """Check and repair the clone in the current folder; exits with 1 and one line if the pipeline can't run."""
    try:
        check_git(Path.cwd())
        for line in (remove_damaged_lock(Path.cwd()), cut_damaged_record(Path.cwd()), note_folders(Path.cwd())):
            sys.stderr.write(f"{line}\n" if line else "")
    except WscoreError as error:
        sys.exit(f"preflight: {error}")


def check_git(root: Path) -> None:
    """Check that DVC finds a git repository, or was told to do without.

    Raises:
        WscoreError: with the remedy.
    """
    config = configparser.ConfigParser()
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    told = config.get("core", "no_scm", fallback="false").strip().lower() == "true"
    if not told and not any((folder / ".git").exists() for folder in (root, *root.parents)):
        fix = "run `git init` here, or `dvc config core.no_scm true` to do without git"
        raise WscoreError("is no git repository, which DVC needs", where=root, fix=fix)


def remove_damaged_lock(root: Path) -> str:
    """Remove the lock file of DVC if a killed process left it half-written; return what was done, or nothing.

    It is kept while a process of DVC runs in the clone.
    """
    path = root / RWLOCK
    if not path.is_file() or _is_json(path) or _is_in_use(path) or any(_dvc_processes(root)):
        return ""
    path.unlink()
    return f"{path}: was half-written by a killed process and is removed"


def cut_damaged_record(root: Path) -> str:
    """Drop stages at the end of a dvc.lock that a killed process left half-written; return what was done, or nothing.

    DVC runs them again, or takes their outputs from its cache of runs.
    """
    path = root / RECORD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text or _is_record(text) or any(_dvc_processes(root)):
        return ""
    starts = [match.start() for match in re.finditer(r"^  (?=\S)", text, re.MULTILINE)]
    whole = next((text[:start] for start in reversed(starts) if _is_record(text[:start])), "")
    write_text(path, whole) if whole else path.unlink()
    return f"{path}: was half-written by a killed process; its last stages are looked up or run again"


def _is_record(text: str) -> bool:
    """Return whether DVC reads a text as dvc.lock."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # noqa: TID251 - the check that DVC makes itself
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(ruamel_yaml.YAML(typ="safe").load(text))
    except (ruamel_yaml.YAMLError, Invalid):
        return False
    return True


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (ValueError, RecursionError):
        return False


def _is_in_use(path: Path) -> bool:
    """Return whether a process is writing the lock file: DVC holds a lock on the file beside it meanwhile."""
    try:
        FileLock(path.with_name("rwlock.lock"), timeout=0).acquire().lock.release()
    except Timeout:
        return True
    return False


def _dvc_processes(root: Path) -> Iterator[psutil.Process]:
    """Yield the other processes of DVC that work in a clone."""
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and is_dvc(process)
                and Path(process.cwd()).resolve().is_relative_to(root.resolve())
            ):
                yield process
        except psutil.Error:
            continue


def is_dvc(process: psutil.Process) -> bool:
    """Return whether a process is one of DVC, or `wscore.repro`, which runs some."""
    try:
        words = process.cmdline()[:3]
    except psutil.Error:
        return False
    module = words[1:] in (["-m", "dvc"], ["-m", "wscore.repro"])
    return module or any(Path(word).name in ("dvc", "dvc.exe") for word in words[:2])


def note_folders(root: Path) -> str:
    """Write fingerprints of the local folders that `zoo.path` and `base.path` name, so that their changes rerun stages.

    Returns:
        what changed, or nothing.
    """
    params, path = read_yaml(root / PARAMS), root / FOLDERS
    now = {name: _fingerprint(root, params.get(name)) for name in SECTIONS}
    before = read_json(path) if path.is_file() else {}
    if before == now:
        return ""
    write_json(path, now)
    changed = [f"{name}.path" for name in SECTIONS if now[name] is not None and before.get(name) != now[name]]
    return f"{', '.join(changed)}: the folder is new or has changed" if changed else ""


def _fingerprint(root: Path, section: Any) -> str | None:
    plain = section if isinstance(section, dict) else {}
    path, unused = plain.get("path"), plain.get("source") in ("generate", "train")
    return folder_fingerprint(root / path) if isinstance(path, str) and not unused and (root / path).is_dir() else None


def folder_fingerprint(folder: Path) -> str:
    """Return a hash of the names, sizes and times of the files in a folder, hidden ones left out; contents are not read."""
    lines = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(place, folder)
        for name in sorted(name for name in files if not name.startswith(".")):
            try:
                stat = os.stat(os.path.join(place, name))  # noqa: PTH116, PTH118 - of millions of files
            except OSError:
                lines.append(f"{inside}/{name}")
                continue
            lines.append(f"{inside}/{name} {stat.st_size} {stat.st_mtime_ns}")
    return content_hash("\n".join(lines))


if __name__ == "__main__":
    main()
