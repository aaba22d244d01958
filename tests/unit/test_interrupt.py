"""Ctrl-C before a stage runs, while it imports: one line, no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wscore.interrupt import INTERRUPTED, leave_on_interrupt

ROOT = Path(__file__).parents[2]
SLOW = "print('importing', flush=True)\nfrom time import sleep\nsleep(60)\n"


def interrupted(tmp_path: Path, *command: str, ignored: bool = False) -> tuple[int, str]:
    """Return exit status and standard error of a Python process that is interrupted once it has printed a line."""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DVC_STAGE": "", "WSCORE_TRACKING": "off"}

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    line = [sys.executable, *command]
    with subprocess.Popen(line, cwd=tmp_path, env=environment, text=True, preexec_fn=listen, **pipes) as process:  # noqa: PLW1509
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        if ignored:
            process.terminate()
        error = process.communicate()[1]
    return process.returncode, error


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package of stages with a slow one, and wscore."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "wscore").symlink_to(ROOT / "wscore")
    (tmp_path / "stages" / "__init__.py").write_text((ROOT / "stages" / "__init__.py").read_text())
    (tmp_path / "stages" / "slow.py").write_text(SLOW)
    return tmp_path


def test_during_the_imports_of_a_stage(package: Path) -> None:
    assert interrupted(package, "-m", "stages.slow") == (INTERRUPTED, "slow: interrupted\n")


def test_where_it_is_ignored_it_stays_ignored(package: Path) -> None:
    assert interrupted(package, "-m", "stages.slow", ignored=True) == (-signal.SIGTERM, "")


def test_during_the_imports_of_a_command(package: Path) -> None:
    (package / "torch.py").write_text(SLOW)
    assert interrupted(package, "-m", "wscore.cli.main", "inspect", "x") == (
        INTERRUPTED,
        "wscore inspect: interrupted\n",
    )


def test_packages_of_stages_and_studies_do_the_same_and_only_for_python_m() -> None:
    texts = [(ROOT / name / "__init__.py").read_text().partition("\n")[2] for name in ("stages", "studies")]
    assert texts[0] == texts[1]
    usual = "signal.default_int_handler"
    code = f"import signal; signal.signal(2, {usual}); import stages; assert signal.getsignal(2) is {usual}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_another_handler_is_left_alone() -> None:
    own = lambda *_: None  # noqa: E731
    usual = signal.signal(signal.SIGINT, own)
    try:
        assert leave_on_interrupt("x") is own
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, usual)
