"""Import graph of the repository, read from the source without importing anything.

python -m tests.contract.imports stages/train_heads.py     print the files that a stage runs, as deps for dvc.yaml
python -m tests.contract.imports --write                   put them into dvc.yaml and those of the studies, for every stage
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"python -m ((?:stages|studies\.\w+)\.\w+)")


def module_file(name: str) -> Path | None:
    """Return the repository file of a dotted module name, or None for third parties and names inside a module."""
    path = ROOT.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


def package_of(path: Path) -> str:
    """Return the dotted package that holds a source file."""
    return ".".join(path.relative_to(ROOT).parent.parts)


@cache
def imported_names(path: Path) -> tuple[tuple[str, int], ...]:
    """Return (dotted name, line) of everything that a source file imports, at the top or inside functions.

    `from a import b` counts as `a.b`; blocks under `if TYPE_CHECKING:` are never run and do not count.
    """
    return tuple(_walk(ast.parse(path.read_text(encoding="utf-8")), package_of(path)))


def _walk(node: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - child.level] if child.level else []
            base = ".".join([*parents, *([child.module] if child.module else [])])
            yield from ((f"{base}.{alias.name}", child.lineno) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for part in child.orelse:
                yield from _walk(part, package)
        else:
            yield from _walk(child, package)


def imported_files(path: Path) -> dict[Path, int]:
    """Return the repository files that a source file imports, with the line of the first import.

    `__init__.py` counts only where a name is taken from it: those of the packages are empty (another test sees to it),
    and the top one only forwards names.
    """
    files: dict[Path, int] = {}
    for name, line in imported_names(path):
        target = module_file(name) or module_file(name.rpartition(".")[0])
        is_bare_package = target is not None and target.name == "__init__.py" and module_file(name) == target
        if target is not None and not is_bare_package:
            files.setdefault(target, line)
    return files


@cache
def closure(path: Path) -> frozenset[str]:
    """Return the repository files that running a source file may load, itself included, as sorted relative paths."""
    found, todo = {path}, [path]
    while todo:
        current = todo.pop()
        if current.name == "__init__.py":
            continue
        new = set(imported_files(current)) - found
        found |= new
        todo += new
    return frozenset(str(item.relative_to(ROOT)) for item in found)


def pipeline() -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.yaml by name, with what stands under `do:` of a repeated stage lifted up."""
    return _stages(ROOT / "dvc.yaml")


def study_files() -> list[Path]:
    """Return the pipelines off the default path, which plain `dvc repro` leaves alone: studies/NAME/dvc.yaml."""
    return sorted(ROOT.glob("studies/*/dvc.yaml"))


def studies() -> dict[str, dict[str, Any]]:
    """Return the stages of all studies by name."""
    found = [_stages(file) for file in study_files()]
    names = [name for stages in found for name in stages]
    assert len(names) == len(set(names)), f"stages of one name in two studies: {names}"
    return {name: entry for stages in found for name, entry in stages.items()}


def _stages(file: Path) -> dict[str, dict[str, Any]]:
    stages = YAML(typ="safe").load(file.read_text(encoding="utf-8"))["stages"]
    return {name: entry.get("do", entry) for name, entry in stages.items()}


def script(command: str) -> Path:
    """Return the stage script that a `cmd` of dvc.yaml runs."""
    found = COMMAND.search(command)
    if found is None:
        raise ValueError(f"no `python -m stages.NAME` or `python -m studies.STUDY.NAME` in {command!r}")
    path = module_file(found[1])
    if path is None:
        raise FileNotFoundError(found[1])
    return path


def module_name(command: str) -> str:
    """Return the dotted name of the module that a `cmd` of dvc.yaml runs."""
    return ".".join(script(command).relative_to(ROOT).with_suffix("").parts)


def write_deps() -> None:
    """Replace the source files among the deps of every stage, leaving data, order and comments alone."""
    for file in (ROOT / "dvc.yaml", *study_files()):
        _write_deps(file)


def _write_deps(file: Path) -> None:
    yaml = YAML(typ="rt")
    yaml.width = 140
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(file.read_text(encoding="utf-8"))
    for entry in content["stages"].values():
        body = entry.get("do", entry)
        kept = [dep for dep in body.get("deps", []) if not str(dep).endswith(".py")]
        deps = body.setdefault("deps", [])
        deps[:] = [*kept, *sorted(closure(script(body["cmd"])))]
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def main() -> None:
    """Print or write deps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", type=Path, nargs="*")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        write_deps()
    for path in options.scripts:
        sys.stdout.writelines(f"      - {name}\n" for name in sorted(closure(path.resolve())))


if __name__ == "__main__":
    main()
