"""MLflow's page of this clone's runs: `make ui`.

MLflow opens on a page for traces of language models; the runs have an address of their own.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from contextlib import closing, suppress
from pathlib import Path

from wscore.errors import DataError
from wscore.tracking import EXPERIMENT, STORE, find_root

HOST = "127.0.0.1"
TRIES = 120


def runs_address(store: Path, port: int) -> str:
    """Return the address of the table of runs.

    Raises:
        DataError: if no run was tracked here.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT experiment_id FROM experiments WHERE name = ?", (name,)).fetchone()
    except sqlite3.Error:
        row = None
    if row is None:
        raise DataError("no runs here", where=store, fix="run `make repro` with WSCORE_TRACKING on")
    return f"http://{HOST}:{port}/#/experiments/{row[0]}/runs?workflowType=machine_learning"


def main(arguments: list[str] | None = None) -> None:
    """Serve the runs, print their address, and open it where there is a screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    options, others = parser.parse_known_args(arguments)
    store = find_root() / STORE
    try:
        address = runs_address(store, options.port)
    except DataError as error:
        sys.exit(f"ui: {error}")
    sys.stdout.write(f"Runs: {address}\n")
    sys.stdout.flush()
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform in ("darwin", "win32"):
        threading.Thread(target=_open, args=(address,), daemon=True).start()
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", HOST, "--port", str(options.port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with suppress(KeyboardInterrupt):
        served = [*command, "--backend-store-uri", f"sqlite:///{store}", *others]
        sys.exit(subprocess.run(served, env=environment, check=False).returncode)  # noqa: S603


def _open(address: str) -> None:
    """Open a page once its server answers."""
    for _ in range(TRIES):
        try:
            urllib.request.urlopen(address.partition("#")[0] + "health", timeout=1).close()  # noqa: S310
        except OSError:
            time.sleep(0.5)
        else:
            webbrowser.open(address)
            return


if __name__ == "__main__":
    main()
