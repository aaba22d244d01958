"""Before the pipeline runs: git, DVC's lock file, and changes inside local folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from wscore import preflight
from wscore.errors import WscoreError
from wscore.preflight import (
    FOLDERS,
    RECORD,
    RWLOCK,
    check_git,
    cut_damaged_record,
    folder_fingerprint,
    note_folders,
    remove_damaged_lock,
)

ROOT = Path(__file__).parents[2]
HALF = '{"write": {"data/zoo": {"pid": 12'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    return folder


def params(clone: Path, zoo: dict, base: dict | None = None) -> None:
    (clone / "params.yaml").write_text(json.dumps({"zoo": zoo, "base": base or {"source": "train", "path": None}}))


def test_without_git_one_line_says_what_to_do(clone: Path) -> None:
    with pytest.raises(
        WscoreError, match=r"clone: is no git repository, which DVC needs; run `git init` here, or `dvc"
    ):
        check_git(clone)
    (clone / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    check_git(clone)
    (clone / ".dvc" / "config.local").unlink()
    (clone.parent / ".git").write_text("gitdir: elsewhere")
    check_git(clone)


@pytest.mark.parametrize("content", [HALF, "", "[", "\x00", "3"])
def test_a_half_written_lock_of_a_dead_process_is_removed_with_one_line(clone: Path, content: str) -> None:
    (clone / RWLOCK).write_text(content)
    line = remove_damaged_lock(clone)
    assert "rwlock: was half-written by a killed process and is removed" in line
    assert "\n" not in line
    assert not (clone / RWLOCK).exists()
    assert remove_damaged_lock(clone) == ""


def test_a_lock_that_is_whole_or_being_written_or_of_a_living_process_stays(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / RWLOCK).write_text('{"write": {"data/zoo": {"pid": 1, "cmd": "dvc repro"}}, "read": {}}')
    assert remove_damaged_lock(clone) == ""
    (clone / RWLOCK).write_text(HALF)
    with FileLock(clone / ".dvc" / "tmp" / "rwlock.lock"):
        assert remove_damaged_lock(clone) == ""
    monkeypatch.setattr(preflight, "_dvc_processes", lambda root: iter([root]))
    assert remove_damaged_lock(clone) == ""
    assert (clone / RWLOCK).read_text() == HALF


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.97])
def test_stages_at_the_end_of_a_half_written_record_are_dropped(clone: Path, share: float) -> None:
    stage = "    cmd: run\n    deps:\n    - path: a\n      hash: md5\n      md5: 87ac02e42cf9dd37\n      size: {}\n"
    text = "schema: '2.0'\nstages:\n" + "".join(f"  stage_{n}:\n{stage.format(n)}" for n in range(40))
    (clone / RECORD).write_text(text)
    assert cut_damaged_record(clone) == ""
    assert (clone / RECORD).read_text() == text
    length = text.index("size", int(share * len(text))) + 5  # `size:` has no number
    (clone / RECORD).write_text(text[:length])
    assert "half-written by a killed process" in cut_damaged_record(clone)
    left = (clone / RECORD).read_text() if (clone / RECORD).exists() else ""
    assert text.startswith(left)
    assert len(text[:length]) - len(left) < 200
    assert cut_damaged_record(clone) == ""


def test_a_record_stays_while_dvc_runs(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone / RECORD).write_text("schema: '2.0'\nsta")
    monkeypatch.setattr(preflight, "_dvc_processes", lambda root: iter([root]))
    assert cut_damaged_record(clone) == ""
    assert (clone / RECORD).read_text() == "schema: '2.0'\nsta"


def test_a_process_of_dvc_is_told_by_its_command_and_folder(clone: Path) -> None:
    (clone / "dvc").write_text("import sys; print('up', flush=True); sys.stdin.read()")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "dvc", "repro"], cwd=clone, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert [found.pid for found in preflight._dvc_processes(clone)] == [process.pid]
        process.communicate()
    assert list(preflight._dvc_processes(clone)) == []


def test_a_fingerprint_changes_with_names_sizes_and_times_and_not_with_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "a.pt"
    file.write_text("1")
    seen = [folder_fingerprint(tmp_path)]
    for change in (
        lambda: file.write_text("22"),
        lambda: os.utime(file, ns=(0, 7)),
        lambda: file.rename(file.with_name("b.pt")),
        lambda: (tmp_path / "c.pt").symlink_to("nowhere"),
    ):
        change()
        seen.append(folder_fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    assert folder_fingerprint(tmp_path) == seen[-1]


def test_changes_inside_local_folders_are_noted_for_the_stages_that_read_them(clone: Path) -> None:
    (clone / "data").mkdir()
    params(clone, {"source": "generate", "path": None})
    assert note_folders(clone) == ""
    assert json.loads((clone / FOLDERS).read_text()) == {"zoo": None, "base": None}
    (clone / "nets").mkdir()
    (clone / "nets" / "a.pt").write_text("1")
    params(clone, {"source": "folder", "path": "nets"}, {"source": "folder", "path": str(clone / "nets")})
    assert note_folders(clone) == "zoo.path, base.path: the folder is new or has changed"
    first = json.loads((clone / FOLDERS).read_text())
    assert first["zoo"] == first["base"] == folder_fingerprint(clone / "nets")
    assert note_folders(clone) == ""
    params(clone, {"source": "hub", "path": "owner/name"}, {"source": "folder", "path": "nets"})
    assert note_folders(clone) == ""
    assert json.loads((clone / FOLDERS).read_text()) == {"zoo": None, "base": first["base"]}


def test_the_file_in_the_repository_is_that_of_the_default_parameters(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    note_folders(tmp_path)
    assert (tmp_path / FOLDERS).read_text() == (ROOT / FOLDERS).read_text()


def test_the_command_prints_one_line_and_no_traceback(clone: Path) -> None:
    params(clone, {"source": "folder", "path": "."})
    command = [sys.executable, "-m", "wscore.preflight"]
    run = lambda: subprocess.run(  # noqa: E731
        command, cwd=clone, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    refused = run()
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "run `git init` here" in refused.stderr
    (clone / ".git").mkdir()
    (clone / RWLOCK).write_text(HALF)
    mended = run()
    assert (mended.returncode, mended.stderr.count("\n")) == (0, 2)
    assert "zoo.path: the folder is new" in mended.stderr
