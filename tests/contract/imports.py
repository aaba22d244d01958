"""Import graph of the repository, read from the source without importing anything.

python -m tests.contract.imports stages/train_heads.py     print the folders and files that a stage depends on
python -m tests.contract.imports --write                   put them into dvc.yaml and those of the studies, for every stage
"""

import argparse
import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
#: Modules that cannot change what a stage writes: messages, tracking, the command line and transfers to and from the Hub.
INERT = (
    "wscore/errors.py", "wscore/interrupt.py", "wscore/late.py", "wscore/lru.py", "wscore/needs.py", "wscore/preflight.py",
    "wscore/presets.py", "wscore/progress.py", "wscore/runner.py", "wscore/tracking.py",
    "wscore/hub/client.py", "wscore/hub/fetch.py", "wscore/hub/upload.py",
)  # fmt: skip
#: The one among them that reads code of later stages, to foresee what these will miss.
FORESEEING = ROOT / "wscore/needs.py"
WIDTH = 150
DEPS = re.compile(r"^( *)deps:(?: \[[^]]*\]\n|\n(?:\1 +- .*\n)*)", re.MULTILINE)
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
        if current.name == "__init__.py" or current == FORESEEING:
            continue
        new = set(imported_files(current)) - found
        found |= new
        todo += new
    return frozenset(str(item.relative_to(ROOT)) for item in found)


def dependencies(path: Path) -> list[str]:
    """Return what a stage script depends on: folders of wscore of which it uses most files, and else single files.

    A folder counts where the stage uses more than half of its modules and, by the same rule, each folder inside: a
    change to plots in `heads/evaluation` must not retrain heads. INERT modules are left out. Files beside a module that
    have its name (`page.html`) belong to it.
    """
    used = {name for name in closure(path) if name not in INERT and not name.endswith("__init__.py")}
    found: set[str] = set()
    for name in used:
        parents = [str(parent) for parent in reversed(Path(name).parents)][2:] if name.startswith("wscore/") else []
        found.add(next((folder for folder in parents if is_used(folder, used)), name))
    beside = {
        str(data.relative_to(ROOT)) for name in found for data in (ROOT / name).parent.glob(f"{Path(name).stem}.*")
    }
    return sorted(found | {name for name in beside if (ROOT / name).is_file()})


def is_used(folder: str, used: Set[str]) -> bool:
    """Return whether a folder is a dependency as a whole, see `dependencies`."""
    inside = {str(path.relative_to(ROOT)) for path in modules_in(ROOT / folder)}
    folders = {str(path.parent.relative_to(ROOT)) for path in modules_in(ROOT / folder, "*/*.py")}
    return 2 * len(inside & used) >= len(inside) + bool(inside) and all(is_used(inner, used) for inner in folders)


def modules_in(folder: Path, pattern: str = "*.py") -> list[Path]:
    """Return the modules of a folder; package files are empty and don't count."""
    return [path for path in folder.glob(pattern) if path.name != "__init__.py"]


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
    """Replace the code among the deps of every stage, leaving data, order and comments alone."""
    for file in (ROOT / "dvc.yaml", *study_files()):
        _write_deps(file)


def _write_deps(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for entry in _stages(file).values():
        deps = [*(dep for dep in entry.get("deps", []) if not is_code(dep)), *dependencies(script(entry["cmd"]))]
        start = text.index(entry["desc"])
        old = DEPS.search(text, start)
        assert old is not None, f"{file}: no deps after {entry['desc']!r}"
        text = text[: old.start()] + listing(deps, old[1]) + text[old.end() :]
    file.write_text(text, encoding="utf-8")


def listing(deps: Sequence[str], indent: str) -> str:
    """Return `deps: [...]` in lines of even width."""
    inner = f"{indent}  "
    lines = textwrap.wrap(", ".join(deps), WIDTH, initial_indent=inner, subsequent_indent=inner, break_on_hyphens=False)
    return "\n".join([f"{indent}deps: [", *lines, f"{indent}]\n"])


def is_code(dep: str) -> bool:
    """Return whether a dep is a source file or a folder of them, and not data."""
    return Path(dep).parts[0] in ("wscore", "stages", "studies") and "results" not in Path(dep).parts


def main() -> None:
    """Print or write deps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", type=Path, nargs="*")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        write_deps()
    for path in options.scripts:
        sys.stdout.writelines(f"{name}\n" for name in dependencies(path.resolve()))


if __name__ == "__main__":
    main()
