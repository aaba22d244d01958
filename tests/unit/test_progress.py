import re
import sys

import pytest

from wscore import progress


def test_a_line_at_a_time_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    for _ in progress.progress_bar(range(3), desc="reading", unit="file"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"reading: file {done} of 3" for done in (0, 1, 2, 3)]
    assert lines[-1].endswith("about 0 s left")


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.progress_bar(range(3))) == [0, 1, 2]
    assert not capsys.readouterr().err


def test_a_bar_on_a_terminal_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = progress.progress_bar(total=4, initial=1, unit="network")
    bar.update(1)
    assert re.search(r"50%.*\| network 2 of 4, .*, about .* left", str(bar))
    bar.close()


@pytest.mark.parametrize(
    ("done", "total", "rate", "words"),
    [
        (1, 21, 1 / 33, "group 1 of 21, 33 s each, about 11 min left"),
        (40, 1000, 12.0, "group 40 of 1,000, 12 per second, about 80 s left"),
        (0, 5, None, "group 0 of 5"),
        (5, None, 0.5, "group 5, 2 s each"),
    ],
)
def test_words_of_a_bar(done: int, total: int | None, rate: float | None, words: str) -> None:
    state = {"n": done, "total": total, "initial": 0, "elapsed": 1.0, "rate": rate, "unit": "group"}
    assert progress.describe(state) == words
