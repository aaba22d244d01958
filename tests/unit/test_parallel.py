"""Maps over items in one process and in several; all functions are importable by name, as the workers need them."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wscore.errors import DataError, WscoreError
from wscore.parallel import parallel_map

ROOT = Path(__file__).parents[2]
LOCKS = ("worker-0.lock", "worker-1.lock")


def square(number: int) -> tuple[int, int]:
    return number * number, torch.get_num_threads()


def refuse(number: int) -> int:
    if number == 1:
        raise DataError("does not fit", where="item 1")
    return number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def hold(path: Path) -> None:
    """Take a lock that the system frees when the process has ended, and never come to an end."""
    stream = path.open("w")
    fcntl.flock(stream, fcntl.LOCK_EX)
    path.with_suffix(".taken").touch()
    signal.pause()


def is_free(path: Path) -> bool:
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_each_computed_on_one_thread(workers: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(parallel_map(square, range(5), workers, where="here")) == [(n * n, 1) for n in range(5)]
        assert list(parallel_map(square, [], workers, where="here")) == []
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_as_they_are_finished_and_an_error_as_it_is(workers: int) -> None:
    found = parallel_map(refuse, [0, 2, 3, 1], workers, where="here", in_order=False)
    with pytest.raises(DataError, match="item 1: does not fit"):
        assert set(found) <= {0, 2, 3}


def test_a_dead_worker_is_reported_with_the_parameter() -> None:
    with pytest.raises(WscoreError, match=r"zoo\.workers: a worker process died; got 2 workers; run again.*is kept"):
        list(parallel_map(die, range(4), 2, where="zoo.workers"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    """As a stage does, SIGTERM is taken as Ctrl-C; the signal reaches the parent alone."""
    (tmp_path / "stopped.py").write_text(
        "import signal, sys; from pathlib import Path\n"
        "from tests.unit.test_parallel import LOCKS, hold; from wscore.parallel import parallel_map\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "    list(parallel_map(hold, [Path(name) for name in LOCKS], 2, where='here'))\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "stopped.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: len(list(tmp_path.glob("*.taken"))) == 2)
    process.send_signal(number)
    process.wait(60)
    if number == signal.SIGKILL:  # nobody could wait for the workers
        wait_for(lambda: all(is_free(tmp_path / name) for name in LOCKS))
    assert all(is_free(tmp_path / name) for name in LOCKS)


def test_workers_take_the_environment_of_their_parent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("first", "second"):
        monkeypatch.setenv("OF_THE_PARENT", value)
        assert list(parallel_map(os.getenv, ["OF_THE_PARENT"] * 2, 2, where="here")) == [value, value]
