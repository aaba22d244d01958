"""Filling in README.md and docs/results.md."""

import json
from pathlib import Path

import pytest

from tests.unit.report.test_table import parts
from wscore.errors import PublishError
from wscore.report.readme import BEGIN, END, copy_picture, fill_table, main


def test_only_the_text_between_the_markers_changes(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Head\n\n{BEGIN}\n| old |\n{END}\n\ntail\n")
    fill_table(readme, "\n| new |\n|---|\n\n")
    once = readme.read_text()
    assert once == f"# Head\n\n{BEGIN}\n| new |\n|---|\n{END}\n\ntail\n"
    fill_table(readme, "| new |\n|---|")
    assert readme.read_text() == once


@pytest.mark.parametrize("text", ["# Head\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"])
def test_a_readme_without_its_markers_stays_unchanged(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(PublishError, match="markers are missing"):
        fill_table(readme, "| new |")
    assert readme.read_text() == text


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"summary\.png: no such file; run `make repro` first"):
        copy_picture(tmp_path / "summary.png", tmp_path / "docs.png")


def test_the_command_writes_both_tables_and_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("docs", "metrics"):
        Path(folder).mkdir()
    for name, value in parts().items():
        Path(f"metrics/{name}.json").write_text(json.dumps({name: value}))
    Path("README.md").write_text(f"{BEGIN}\n{END}\n")
    Path("summary.png").write_bytes(b"picture")
    monkeypatch.setattr("sys.argv", ["readme", "--metrics", "metrics", "--picture", "summary.png"])
    main()
    assert "| compress networks (20.2x smaller) |" in Path("README.md").read_text()
    assert "| agreement with the original ↑ |" in Path("docs/results.md").read_text()
    assert Path("docs/summary.png").read_bytes() == b"picture"
