"""Ctrl-C while modules are imported: one line instead of a traceback through other libraries."""

import os
import signal
import sys
import threading
from typing import Any

INTERRUPTED = 128 + signal.SIGINT


def leave_on_interrupt(name: str) -> Any:
    """Let Ctrl-C end this process at once with one line, and return the previous handler.

    Nothing is cleaned up, so this is for times in which nothing is written. Without effect where Ctrl-C is ignored or
    handled otherwise.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler and threading.current_thread() is threading.main_thread():

        def leave(*_: object) -> None:
            os.write(2, f"{name}: interrupted\n".encode())
            os._exit(INTERRUPTED)

        signal.signal(signal.SIGINT, leave)
    return usual


def stage_name() -> str:
    """Return the name of the stage that `python -m` runs: that in dvc.yaml, else its module."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv[:-1] else "wscore"
    return os.environ.get("DVC_STAGE") or module.rpartition(".")[2]
