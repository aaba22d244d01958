"""The import graph itself: what it follows and what it leaves out."""

from pathlib import Path

import pytest

from tests.contract import imports


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "wscore/__init__.py": "VERSION = 1\n",
        "wscore/zoo/__init__.py": "",
        "wscore/zoo/store.py": "import numpy\nfrom . import layout\n",
        "wscore/zoo/layout.py": "from wscore.io import read\n",
        "wscore/io.py": "def read():\n    import wscore.lazy\n",
        "wscore/lazy.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wscore.never\n",
        "wscore/never.py": "",
        "wscore/version.py": "from wscore import VERSION\n",
        "stages/__init__.py": "",
        "stages/one.py": "from wscore.zoo.store import Zoo\n",
        "stages/two.py": "from wscore.zoo import layout\nimport wscore.version\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    return tmp_path


def test_follows_relative_and_lazy_imports_but_not_type_checking(repository: Path) -> None:
    wanted = {"stages/one.py", "wscore/zoo/store.py", "wscore/zoo/layout.py", "wscore/io.py", "wscore/lazy.py"}
    assert imports.closure(repository / "stages/one.py") == wanted


def test_takes_a_package_file_only_for_a_name_in_it(repository: Path) -> None:
    wanted = {
        "stages/two.py",
        "wscore/zoo/layout.py",
        "wscore/io.py",
        "wscore/lazy.py",
        "wscore/version.py",
        "wscore/__init__.py",
    }
    assert imports.closure(repository / "stages/two.py") == wanted


def test_writes_deps_and_keeps_data_and_comments(repository: Path) -> None:
    text = (
        "stages:\n  one: # first\n    foreach: ${x}\n    do:\n      cmd: python -m stages.one --out ${item}\n"
        "      deps:\n        - data/zoo\n        - wscore/gone.py\n      outs:\n        - out\n"
    ).replace("      deps", "      desc: Some words\n      deps")
    (repository / "dvc.yaml").write_text(text)
    for _ in range(2):
        imports.write_deps()
        assert imports.pipeline()["one"]["deps"] == ["data/zoo", *imports.dependencies(repository / "stages/one.py")]
    written = (repository / "dvc.yaml").read_text()
    assert "one: # first" in written
    assert written.endswith("      outs:\n        - out\n")


def test_a_folder_counts_if_most_of_it_and_of_each_folder_inside_is_used(repository: Path) -> None:
    used = ["zoo/store.py", "sae/a.py", "sae/b.py", "sae/deep/c.py", "heads/a.py", "heads/b.py"]
    others = ["sae/unused.py", "heads/plots/unused.py", "errors.py"]
    for name in [*used, *others]:
        (repository / "wscore" / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / "wscore" / name).write_text("")
    modules = [name.removesuffix(".py").replace("/", ".") for name in [*used, "errors.py"]]
    (repository / "stages/three.py").write_text("".join(f"import wscore.{name}\n" for name in modules))
    assert imports.dependencies(repository / "stages/three.py") == [
        "stages/three.py", "wscore/heads/a.py", "wscore/heads/b.py", "wscore/sae", "wscore/zoo/store.py",
    ]  # fmt: skip
