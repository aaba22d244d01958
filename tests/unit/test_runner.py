"""Stage scripts: options from the signature, help that helps, one line and status 1 for a bad input."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from threadpoolctl import threadpool_limits

from wscore.config import Section
from wscore.errors import DataError
from wscore.runner import Run, Stage, stage
from wscore.tracking import Tracker

ROOT = Path(__file__).parents[2]


class Demo(Section):
    size: int


@pytest.fixture(autouse=True)
def in_a_folder_with_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("demo: {size: 3}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)


def failing(error: BaseException) -> Stage:
    @stage(demo=Demo)
    def main(run: Run) -> str:
        raise error

    return main


def failure(main: Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, Any]:
    """Return what the process would print on stderr and its exit status."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert capsys.readouterr().out == ""
    code = caught.value.code
    return (code, 1) if isinstance(code, str) else ("", code)


def test_options_come_from_the_signature(capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    @stage(demo=Demo)
    def main(
        run: Run,
        *,
        out_folder: Path,
        parts: list[Path],
        task: str,
        count: int,
        rate: float,
        mode: Literal["fast", "slow"],
        names: list[str],
        extra: Path | None = None,
    ) -> str:
        seen.update(run=run, out_folder=out_folder, parts=parts, task=task, count=count, rate=rate, mode=mode)
        seen.update(names=names, extra=extra)
        return f"done with size {run.params['demo'].size}"

    text = "--out-folder a/b --parts x y --task t --count 3 --rate 1e-3 --mode fast --names u v"
    main(text.split())
    assert capsys.readouterr().out == "done with size 3\n"
    run = seen.pop("run")
    assert seen == {
        "out_folder": Path("a/b"), "parts": [Path("x"), Path("y")], "task": "t", "count": 3, "rate": 1e-3,
        "mode": "fast", "names": ["u", "v"], "extra": None,
    }  # fmt: skip
    assert run.params == {"demo": Demo(size=3)}
    assert isinstance(run.tracker, Tracker)
    main([*text.split(), "--extra", "z"])
    assert seen["extra"] == Path("z")


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "the following arguments are required: --zoo, --mode"),
    (["--zoo", "z", "--mode", "odd"], "--mode: invalid choice: 'odd' (choose from 'fast', 'slow')"),
    (["--zoo", "z", "--mode", "fast", "--more", "m"], "unrecognized arguments: --more m"),
    (["--zoo", "z", "--mode", "fast", "--count", "x"], "--count: invalid int value: 'x'"),
])  # fmt: skip
def test_wrong_command_line_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    @stage()
    def main(run: Run, *, zoo: Path, mode: Literal["fast", "slow"], count: int = 1) -> str:
        raise AssertionError

    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"usage: python -m {main.module} [-h] --zoo PATH --mode")


def test_help_tells_what_the_stage_does_with_which_files_and_params(capsys: pytest.CaptureFixture[str]) -> None:
    @stage(demo=Demo, tokens=Demo)
    def main(run: Run, *, zoo: Path, out: Path) -> str:
        """Tokenize a zoo, 100% of it.

        Args:
            run: the run.
            zoo: folder with the rows,
                as `fetch_zoo` makes it.
            out: new folder, 5% larger.
        """
        return str((run, zoo, out))

    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Tokenize a zoo, 100% of it." in text
    assert "--zoo PATH folder with the rows, as `fetch_zoo` makes it." in text
    assert "--out PATH new folder, 5% larger." in text
    assert "Reads these sections of params.yaml: demo, tokens." in text
    assert "the run" not in text


def test_bad_input_is_one_line_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError("is broken,\nvery broken", where="data/zoo", fix="run `dvc repro fetch_zoo`")
    line, code = failure(failing(error), capsys)
    assert line == "test_runner: data/zoo: is broken, very broken; run `dvc repro fetch_zoo`"
    assert code == 1


@pytest.mark.parametrize(("content", "message"), [
    (None, "test_runner: params.yaml: no such file; run from the root of the repository"),
    ("demo: [", "test_runner: params.yaml: is not valid YAML; got "),
    ("demo: {size: x}", "test_runner: params.yaml: demo.size: does not fit; expected a whole number; got the text 'x'"),
    ("other: {}", "test_runner: params.yaml: demo: section is missing"),
])  # fmt: skip
def test_unreadable_params_are_one_line(content: str | None, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if content is None:
        Path("params.yaml").unlink()
    else:
        Path("params.yaml").write_text(content)
    line, _ = failure(failing(AssertionError("the stage ran")), capsys)
    assert line.startswith(message)


@pytest.mark.parametrize(("error", "message"), [
    (OSError(errno.ENOSPC, "No space left", "data/x"), "data/x: No space left; free some space and run again"),
    (OSError(errno.ENOSPC, "No space left"), "No space left; free some space and run again"),
    (OSError("1000 requested and 12 written"), "No space left on device; free some space and run again"),
    (PermissionError(errno.EACCES, "Denied", "out"), "out: Denied; check the permissions and run again"),
    (OSError(errno.EROFS, "Read-only", "out"), "out: Read-only; check the permissions and run again"),
])  # fmt: skip
def test_full_or_closed_disk_is_one_line(error: OSError, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(failing(error), capsys) == (f"test_runner: {message}", 1)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file"), ValueError("x"), OSError("x")])
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        failing(error)([])


def test_ctrl_c_prints_one_line_and_exits_as_shells_expect(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="130"):
        failing(KeyboardInterrupt())([])
    assert capsys.readouterr() == ("", "test_runner: interrupted\n")


def test_name_is_the_one_in_dvc_yaml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DVC_STAGE", "train_heads@accuracy")
    line, _ = failure(failing(DataError("is broken")), capsys)
    assert line == "train_heads@accuracy: is broken"


@pytest.mark.parametrize(("given", "openmp", "expected"), [("3", "1", 3), (None, None, 2), (None, "1", 1)])
def test_threads_do_not_depend_on_the_cores(
    given: str | None,
    openmp: str | None,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in (("WSCORE_THREADS", given), ("OMP_NUM_THREADS", openmp)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    @stage(demo=Demo)
    def main(run: Run) -> str:
        return str(torch.get_num_threads())

    before = torch.get_num_threads()
    with threadpool_limits(before):
        torch.set_num_threads(1)  # what OpenMP would read at the start
        main([])
        torch.set_num_threads(before)
    assert capsys.readouterr().out == f"{expected}\n"


def test_only_the_first_of_several_processes_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    stage()(lambda run: f"done with {run.name}")([])
    assert capsys.readouterr().out == ""


def test_a_script_run_by_python_knows_its_name_and_prints_warnings_as_one_line(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "demo.py").write_text("""
from pathlib import Path
from wscore.runner import Run, stage
from wscore.errors import DataError, WscoreWarning
import warnings

@stage()
def main(run: Run, *, out: Path) -> str:
    warnings.warn("3 rows skipped", WscoreWarning)
    warnings.warn("another", UserWarning)
    raise DataError("is broken", where=out)

if __name__ == "__main__":
    main()
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WSCORE_TRACKING": "off"}
    command = [sys.executable, "-m", "scripts.demo"]
    broken = subprocess.run([*command, "--out", "x"], env=environment, capture_output=True, text=True, check=False)
    lines = broken.stderr.splitlines()
    assert (broken.returncode, broken.stdout, lines[0], lines[-1]) == (
        1, "", "demo: warning: 3 rows skipped", "demo: x: is broken",
    )  # fmt: skip
    assert "UserWarning: another" in lines[1]
    unused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert unused.stderr.startswith("usage: python -m scripts.demo [-h] --out PATH")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_script_leaves_no_half_written_output(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("""
from pathlib import Path
from time import sleep
from wscore.io import atomic_folder
from wscore.runner import Run, stage

@stage()
def main(run: Run, *, out: Path) -> str:
    with atomic_folder(out) as folder:
        (folder / "half").touch()
        print("ready", flush=True)
        sleep(60)
    return "done"

if __name__ == "__main__":
    main()
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WSCORE_TRACKING": "off"}
    command = [sys.executable, "-m", "slow", "--out", "result"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def listen() -> None:
        signal.signal(
            number, signal.SIG_DFL
        )  # a shell starts background jobs deaf to Ctrl-C, and children inherit that

    with subprocess.Popen(command, env=environment, text=True, preexec_fn=listen, **pipes) as process:  # noqa: PLW1509
        ready = process.stdout and process.stdout.readline()
        process.send_signal(number)
        rest = process.communicate()
    assert (ready, rest, process.returncode) == ("ready\n", ("", "slow: interrupted\n"), 130)
    assert [path.name for path in tmp_path.iterdir() if "result" in path.name] == []
