"""What is true of every file of the repository."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.contract.imports import ROOT

PYTHON = sorted(
    path for folder in ("wscore", "stages", "studies", "tests", "benchmarks") for path in ROOT.glob(f"{folder}/**/*.py")
)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("docs/**/*.md")]
LONGEST = 50
# Written in halves, so that this file does not match itself.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/("
    + "|".join(("wo" + "rk", "ro" + "ot", "ho" + r"me/\w+", "Us" + r"ers/\w+"))
    + r")/",
    "the history of its making": "|".join(
        ("proto" + r"type[ds]?\b", r"\bses" + r"sion \d", r"\biss" + r"ue #?\d", r"\bproto" + r"\d")
    ),
    "unfinished work": "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")),
}


def tracked() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("reason", sorted(FORBIDDEN))
def test_no_file_holds(reason: str) -> None:
    pattern = re.compile(FORBIDDEN[reason])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_function_is_longer_than_fifty_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in PYTHON
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
        if node.end_lineno - node.lineno >= LONGEST
    ]
    assert not long, "\n".join(long)


def test_no_large_or_generated_file_is_in_git() -> None:
    large = [
        f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes"
        for path in tracked()
        if path.stat().st_size > 1_000_000
    ]
    generated = [path for path in tracked() if path.suffix in (".safetensors", ".parquet", ".pyc", ".db", ".npy")]
    assert not large
    assert not generated


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text_of(page))
        assert not [link for link in links if not (page.parent / link).exists()], page.name


def test_links_to_a_section_of_another_page_name_one_of_its_headings() -> None:
    for page in PAGES:
        for name, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", text_of(page)):
            headings = re.findall(r"^#+ (.+)$", text_of(page.parent / name if name else page), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {name}#{anchor}"


def test_the_readme_is_a_front_page() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 120


def test_make_commands_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", text_of(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)", text_of(page)))
        assert named <= targets, page.name


def test_every_direct_dependency_is_pinned() -> None:
    project = text_of(ROOT / "pyproject.toml")
    listed = re.findall(r'^  "([A-Za-z0-9._-]+)(?:\[\w+\])?>=', project, re.MULTILINE)
    pinned = {
        line.partition("==")[0].lower().replace("_", "-") for line in text_of(ROOT / "constraints.txt").splitlines()
    }
    assert listed
    assert not [name for name in listed if name.lower().replace("_", "-") not in pinned]


def test_the_workflow_runs_what_the_local_check_runs() -> None:
    assert "bash .ci/run" in text_of(ROOT / ".github/workflows/ci.yml")
    assert "make check" in text_of(ROOT / ".ci/run")
