"""Filling in the README."""

from pathlib import Path

import pytest

from wscore.errors import PublishError
from wscore.report.readme import BEGIN, END, copy_picture, fill_table, main


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    readme, table = tmp_path / "README.md", tmp_path / "table.md"
    readme.write_text(f"# Head\n\n{BEGIN}\n| old |\n{END}\n\ntail\n")
    table.write_text("\n| new |\n|---|\n\n")
    fill_table(readme, table)
    once = readme.read_text()
    assert once == f"# Head\n\n{BEGIN}\n| new |\n|---|\n{END}\n\ntail\n"
    fill_table(readme, table)
    assert readme.read_text() == once


@pytest.mark.parametrize("text", ["# Head\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"])
def test_a_readme_without_its_markers_stays_as_it_is(tmp_path: Path, text: str) -> None:
    readme, table = tmp_path / "README.md", tmp_path / "table.md"
    readme.write_text(text)
    table.write_text("| new |")
    with pytest.raises(PublishError, match="markers are missing"):
        fill_table(readme, table)
    assert readme.read_text() == text


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"table\.md: no such file; run `make repro` first"):
        fill_table(tmp_path / "README.md", tmp_path / "table.md")
    with pytest.raises(PublishError, match=r"summary\.png: no such file"):
        copy_picture(tmp_path / "summary.png", tmp_path / "docs.png")


def test_the_command_fills_in_table_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text(f"{BEGIN}\n{END}\n")
    Path("table.md").write_text("| new |\n")
    Path("summary.png").write_bytes(b"picture")
    monkeypatch.setattr("sys.argv", ["readme", "--table", "table.md", "--picture", "summary.png"])
    main()
    assert "| new |" in Path("README.md").read_text()
    assert Path("docs/summary.png").read_bytes() == b"picture"
