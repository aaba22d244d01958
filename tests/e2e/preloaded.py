"""A Python that has loaded the large libraries: each command is a fork of it and starts two seconds earlier.

    python preloaded.py SOCKET        waits for commands

`installed` writes an executable `python` that hands over its arguments, environment, folder and streams. Modules of the
clone are loaded by each command anew.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

LIBRARIES = ("matplotlib.figure", "mlflow", "pandas", "pyarrow.parquet", "scipy.stats", "sklearn.ensemble", "torch")
CLIENT = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode())
    server.shutdown(socket.SHUT_WR)
    status = server.recv(16)
sys.exit(int(status or b"1"))
"""


@contextmanager
def installed(folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Let the executable `python` in a new folder start commands from a Python that has loaded the libraries."""
    with TemporaryDirectory() as place:  # names of sockets are short
        address = str(Path(place) / "socket")
        folder.mkdir()
        client = Path(place) / "client.py"
        client.write_text(CLIENT.format(address=address), encoding="utf-8")
        (folder / "python").write_text(f"#!/bin/sh\nexec '{sys.executable}' -ISs '{client}' \"$@\"\n", encoding="utf-8")
        (folder / "python").chmod(0o755)
        command = [sys.executable, __file__, address]
        with subprocess.Popen(command, env=dict(env), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield
            finally:
                server.kill()


def accept(address: str) -> tuple[list[str], str]:
    """Return arguments and folder of a command in a fork that has its environment and streams; the caller waits for more."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for name in LIBRARIES:
            import_module(name)
        while True:
            connection = server.accept()[0]
            if os.fork() == 0:
                server.close()
                return handle(connection)
            connection.close()


def handle(connection: socket.socket) -> tuple[list[str], str]:
    """Return in a fork that runs the command; this process sends its exit status and ends."""
    streams = socket.recv_fds(connection, 1, 3)[1]
    with connection.makefile("rb") as file:
        arguments, environment, folder = json.load(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    return arguments, folder


def main() -> None:
    """Wait for commands, and run each in a fork as Python would: `-m module`, or the path of a script."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    arguments, folder = accept(sys.argv[1])
    os.chdir(folder)
    module = arguments[0] == "-m"
    sys.argv = arguments[1:] if module else arguments
    sys.path[0] = folder if module else str(Path(arguments[0]).parent)
    if module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
