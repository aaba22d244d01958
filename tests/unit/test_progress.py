import pytest

from wscore import progress


def test_a_line_at_a_time_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    for _ in progress.progress_bar(range(3), desc="reading", unit=" file"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"reading {done} of 3 file" for done in (0, 1, 2, 3)]
    assert lines[-1].endswith("00:00 left")


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.progress_bar(range(3))) == [0, 1, 2]
    assert not capsys.readouterr().err
