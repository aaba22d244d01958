"""The stage fetch_zoo on a data set of the Hub: stopped in a download, out of reach, not there."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants

from stages.fetch_zoo import main
from tests.unit.conftest import PROXIES
from tests.unit.hub_server import Fault, HubServer, Pointer, Repository
from wscore.config import read_yaml
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[3]
OPTIONS = ("--out", "zoo", "--report", "report.csv", "--metrics", "zoo.json")
COMMIT = "1" * 40


@pytest.fixture
def work(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A hub with a table in two files, and params.yaml that reads it."""
    monkeypatch.chdir(tmp_path)
    files: dict[str, bytes | Pointer] = {}
    for number in range(2):
        stream = io.BytesIO()
        vectors = list(np.random.default_rng(number).standard_normal((3, 40)).astype(np.float32))
        pd.DataFrame({"weights": vectors}).to_parquet(stream)
        oid = hashlib.sha256(stream.getvalue()).hexdigest()
        hub.objects[oid] = stream.getvalue()
        files[f"data/part-{number}.parquet"] = Pointer(oid, len(stream.getvalue()))
    hub.repositories["datasets/me/nets"] = Repository(False, [(COMMIT, files)])
    hub.repositories["datasets/me/texts"] = Repository(False, [(COMMIT, {"README.md": b"x"})])
    write_params("me/nets")
    return hub


def write_params(path: str) -> None:
    params = read_yaml(ROOT / "params.yaml")
    params["zoo"].update(source="hub", path=path)
    Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")  # JSON is YAML


def start(hub: HubServer) -> "subprocess.Popen[str]":
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(Path("cache").resolve()), "HF_HUB_DISABLE_XET": "1"}
    given = {name: value for name, value in os.environ.items() if name not in PROXIES}
    environment = {**given, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WSCORE_TRACKING": "off"}
    command = [sys.executable, "-m", "stages.fetch_zoo", *OPTIONS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts background jobs deaf to Ctrl-C

    return subprocess.Popen(command, env=environment, text=True, preexec_fn=listen, **pipes)  # noqa: PLW1509


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_download_that_is_stopped_ends_at_once_and_goes_on(
    work: HubServer, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would hold the connection for ever: only the client can end it."""
    work.faults = [Fault(r"GET /datasets/me/nets/resolve/.*part-1", "stalled")]
    process = start(work)
    assert work.stalled.wait(120)
    process.send_signal(number)
    text = process.communicate(timeout=120)[1]
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + 2), text
    assert "Traceback" not in text
    assert not Path("zoo").exists()
    assert not Path("zoo.json").exists()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("cache/hub").resolve()))
    main(OPTIONS)
    assert len(Zoo(Path("zoo"))) == 6
    assert COMMIT in Path("zoo/source.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("me/gone", "me/gone: can't be loaded from the Hub; got 404, no such repository, revision or file"),
        ("me/texts", "me/texts: no parquet files here; expected a table of networks"),
        ("./no/such/folder", "./no/such/folder: can't be loaded from the Hub; got Repo id must be in the form"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(work: HubServer, path: str, message: str) -> None:
    write_params(path)
    with pytest.raises(SystemExit) as stop:
        main(OPTIONS)
    assert message in str(stop.value)
    assert "\n" not in str(stop.value)
    assert not Path("zoo").exists()
