"""Tracking: one parent per pipeline run, one child per stage, and no failure of MLflow ever stops a stage."""

import http.server
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wscore import tracking
from wscore.config import Section
from wscore.errors import ConfigError, WscoreWarning
from wscore.tracking import GuardedTracker, MlflowTracker, NullTracker, Tracker, open_tracker

ROOT = Path(__file__).parents[2]
PARAMS = "ae: {latent_dim: 64, lr: 1.0e-05}\nzoo: {families: [mlp, cnn], path: null}\n"


class Model(Section):
    latent_dim: int
    sizes: tuple[int, ...]
    path: str | None


SECTIONS = {"ae": Model(latent_dim=64, sizes=(1, 2), path=None)}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone in a temporary folder, tracking on, outside DVC; what tracking sets in the environment is undone."""
    others = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "RANK", "WSCORE_PIPELINE_ID")
    for name in (*tracking.PATIENCE, "MLFLOW_TRACKING_URI", *others):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    clone = tmp_path / "a clone"
    clone.mkdir()
    (clone / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(clone)
    monkeypatch.setenv("DVC_ROOT", str(clone))
    monkeypatch.setenv("WSCORE_TRACKING", "on")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite store; copying it saves each test the seconds that making one takes."""
    folder = tmp_path_factory.mktemp("store")
    tracking._client(f"sqlite:///{folder / 'mlflow.db'}")
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path) -> Callable[[], Any]:
    """Put a store into the clone; the result opens it, as `mlflow ui` would."""
    shutil.copy(empty_store, "mlflow.db")
    path = Path("mlflow.db").resolve()

    def reader() -> "Reader":
        return Reader(tracking._client(f"sqlite:///{path}"))

    return reader


class Reader:
    """What is in a store."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.experiment = client.get_experiment_by_name("wscore")
        runs = list(client.search_runs([self.experiment.experiment_id]))
        self.parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        self.children = {run.info.run_name: run for run in runs if run not in self.parents}

    def artifacts(self, run: Any) -> list[str]:
        return sorted(item.path for item in self.client.list_artifacts(run.info.run_id))


class FakeClient:
    """Counts what it is asked for, and fails from the n-th call on."""

    def __init__(self, fail_from: int = 10**9, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.fail_from = fail_from
        self.error = error or ConnectionError("the server went away")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            if len(self.calls) >= self.fail_from:
                raise self.error
            return SimpleNamespace(info=SimpleNamespace(status="RUNNING"))

        return call


def guarded(client: FakeClient) -> GuardedTracker:
    tracker = GuardedTracker()
    tracker.use(MlflowTracker(client, "child", "parent"))
    return tracker


def warnings_of(action: Callable[[], Any]) -> list[str]:
    with pytest.warns(WscoreWarning) as caught:
        action()
    return [str(warning.message) for warning in caught]


def run_stage() -> None:
    """A stage that logs everything; nothing of it may fail."""
    with open_tracker("stage", SECTIONS) as tracker:
        use_all(tracker)
    Path("result").write_text("done")


def use_all(tracker: Any) -> None:
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.summarize({"loss": 1.0}, "note", Path("params.yaml"))
    tracker.log_artifact(Path("params.yaml"))
    tracker.log_artifacts(Path())
    tracker.set_tags({"a": 1})
    tracker.close("FINISHED")


# --- without MLflow ---


@pytest.mark.parametrize("setting", ["off", "0", "False", " OFF "])
def test_off_does_nothing(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCORE_TRACKING", setting)
    with open_tracker("a", {}) as tracker:
        assert isinstance(tracker, Tracker)
        use_all(tracker)
    assert sorted(path.name for path in Path().iterdir()) == ["params.yaml"]


def test_null_tracker_has_the_same_face() -> None:
    assert isinstance(NullTracker(), Tracker)
    use_all(NullTracker())


def test_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCORE_TRACKING", "of")
    with pytest.raises(ConfigError, match="WSCORE_TRACKING: is not understood; expected on or off; got 'of'"):
        open_tracker("a", {}).__enter__()


def test_only_the_first_of_several_processes_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert not tracking.is_enabled()
    monkeypatch.setenv("RANK", "0")
    assert tracking.is_enabled()


# --- failures ---


@pytest.mark.parametrize("fail_from", range(1, 9))
def test_the_first_failure_warns_once_and_nothing_is_sent_afterwards(fail_from: int) -> None:
    client = FakeClient(fail_from)
    tracker = guarded(client)
    warned = warnings_of(lambda: (use_all(tracker), use_all(tracker)))
    assert warned == ["MLflow tracking is off for the rest of this run: the server went away"]
    assert len(client.calls) == fail_from


def test_errors_of_mlflow_its_database_and_its_server_are_all_caught(empty_store: Path) -> None:
    from alembic.util import CommandError
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import ChunkedEncodingError, ReadTimeout
    from sqlalchemy.exc import OperationalError

    rest = RestException({"error_code": "INTERNAL_ERROR", "message": "x"})
    database = OperationalError("insert", {}, Exception("database is locked"))
    others = (ReadTimeout("x"), ChunkedEncodingError("x"), CommandError("x"), ParseError("x"), MlflowException("x"))
    for error in (rest, database, *others):
        with pytest.warns(WscoreWarning):
            guarded(FakeClient(1, error)).set_tags({"a": 1})
    with pytest.raises(ZeroDivisionError):
        guarded(FakeClient(1, ZeroDivisionError())).set_tags({"a": 1})


def test_a_refused_port_warns_once_before_mlflow_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(tracking, "_client", None)
    (warned,) = warnings_of(run_stage)
    assert f"no MLflow server at http://127.0.0.1:{port}" in warned
    assert Path("result").exists()


def test_retries_are_few_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    tracking._prepare(None)
    retries, backoff = (os.environ[f"MLFLOW_HTTP_REQUEST_{name}"] for name in ("MAX_RETRIES", "BACKOFF_FACTOR"))
    assert (retries, backoff, os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("1", "1", "77")
    assert os.environ["MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER"] == "false"
    timeout, jitter = float(tracking.PATIENCE["MLFLOW_HTTP_REQUEST_TIMEOUT"]), 1
    assert timeout * (1 + int(retries)) + jitter < 10


@pytest.fixture
def silent_server() -> Iterator["SilentServer"]:
    """A server that accepts connections and does not answer, but to its first requests if told so."""
    server = SilentServer()
    yield server
    server.stop()


class SilentServer:
    """Attributes: port, connections, and how many of them are answered with 404."""

    def __init__(self) -> None:
        self.connections: list[socket.socket] = []
        self.answered = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self) -> None:
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            if len(self.connections) <= self.answered:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def stop(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        for connection in (*self.connections, self.socket):
            connection.close()


def test_a_silent_server_is_given_up_before_mlflow_is_asked(
    silent_server: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_server.port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.3")
    monkeypatch.setattr(tracking, "_client", None)
    (warned,) = warnings_of(run_stage)
    assert f"no MLflow server at http://127.0.0.1:{silent_server.port}" in warned
    assert len(silent_server.connections) == 1


@pytest.mark.parametrize("retries", [0, 1])
def test_a_server_that_falls_silent_is_given_up_after_the_retries(
    retries: int, silent_server: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent_server.answered = 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_server.port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    assert len(warnings_of(run_stage)) == 1
    assert len(silent_server.connections) == 1 + 1 + retries  # the probe, one request, its retries


PIPELINE = r"""
import os, subprocess, sys
stage = "from wscore.tracking import open_tracker\nwith open_tracker('stage', {}):\n    pass"
for _ in range(3):
    subprocess.run([sys.executable, "-c", stage], check=True)
"""


def test_after_one_failure_the_later_stages_of_a_pipeline_run_do_not_try_again(
    tmp_path: Path, silent_server: SilentServer
) -> None:
    """A script called dvc runs three stages, twice: each run tries once."""
    (tmp_path / "dvc").write_text(PIPELINE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_HTTP_REQUEST_TIMEOUT": "0.3"}
    environment["MLFLOW_TRACKING_URI"] = f"http://name:secret@127.0.0.1:{silent_server.port}"
    for runs in (1, 2):
        command = [sys.executable, tmp_path / "dvc"]
        said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert said.stderr.count("MLflow tracking is off for the rest of this run") == 1
        assert len(silent_server.connections) == runs
        assert "secret" not in said.stderr + said.stdout
    kept = [path.read_text() for path in Path().rglob("*") if path.is_file() and path.name != "params.yaml"]
    assert kept
    assert not [text for text in kept if "secret" in text]


def test_a_single_stage_tries_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for _ in range(2):
        assert len(warnings_of(run_stage)) == 1


@pytest.mark.parametrize(("uri", "text"), [
    ("http://me:pass%40word@host:1/x", "failed: http://me:pass%40word@host:1/x, pass@word"),
    ("https://me:p/a:s@host", "Max retries for https://me:p/a:s@host/api with me:p/a:s"),
    ("postgresql+psycopg://u:hunter22@db/x", "connection to u:hunter22 at postgresql+psycopg://u:hunter22@db/x"),
    ("", "see https://else:hunter22@host/"),
])  # fmt: skip
def test_user_and_password_are_never_shown(uri: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-me")
    (warned,) = warnings_of(lambda: guarded(FakeClient(1, ConnectionError(f"{text} token-of-me"))).set_tags({"a": 1}))
    assert not [word for word in ("pass@word", "pass%40word", "p/a:s", "hunter22", "token-of-me") if word in warned]
    assert "***" in warned


def test_mlflow_prints_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    tracking._prepare(None)
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", b"[]", b'{"experiment": 3}'])
def test_a_server_that_is_no_mlflow_warns_once(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *values: Any) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        assert len(warnings_of(run_stage)) == 1
        server.shutdown()


@pytest.mark.parametrize("uri", ["sqlite:///params.yaml/x.db", "nonsense://x", "file:///tmp/x"])
def test_a_store_that_cannot_be_opened_warns_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert len(warnings_of(run_stage)) == 1


def test_a_server_behind_a_proxy_is_asked_through_it(
    silent_server: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent_server.answered = 1
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{silent_server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    tracking._probe("http://mlflow.example.org")
    assert len(silent_server.connections) == 1


# --- the local store ---


def half_made(path: Path, rows: str = "") -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            f"CREATE TABLE experiments (experiment_id INTEGER); {rows} CREATE TABLE runs (run_uuid TEXT)"
        )


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.write_bytes(b"SQLite format 3\0" * 99), half_made])
def test_a_store_that_is_half_made_is_moved_aside_and_a_new_one_made(
    make: Callable[[Path], Any], empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def client(uri: str) -> None:
        path = Path(uri.removeprefix("sqlite:///"))
        made.append(path.name)
        if not path.exists():
            shutil.copy(empty_store, path)

    monkeypatch.setattr(tracking, "_client", client)
    for number in range(2):
        make(Path("mlflow.db"))
        (warned,) = warnings_of(lambda: tracking._local_client(Path.cwd()))
        assert (
            f"mlflow.db was not completely created in an interrupted run; it is now mlflow.db.unfinished-{number}"
            in warned
        )
        assert Path(f"mlflow.db.unfinished-{number}").is_file()
        assert Path("mlflow.db").read_bytes() == empty_store.read_bytes()
        Path("mlflow.db").unlink()
    assert made == [f"mlflow.db.{os.getpid()}", "mlflow.db"] * 2


def test_a_store_that_is_finished_or_in_use_or_of_others_stays(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, "mlflow.db")
    half_made(tmp_path / "old.db", "INSERT INTO experiments VALUES (0);")
    for path in (Path("mlflow.db"), tmp_path / "old.db"):
        tracking._move_unfinished(path)
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert tracking._is_finished(path)
        assert path.is_file()


def test_a_store_that_is_interrupted_while_it_is_made_leaves_nothing_in_its_place(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(uri: str) -> None:
        half_made(Path(uri.removeprefix("sqlite:///")))
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "_client", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracking._local_client(Path.cwd())
    assert not Path("mlflow.db").exists()
    (remnant,) = Path(".cache").iterdir()
    copied: list[str] = []

    def client(uri: str) -> None:
        copied.append(uri)
        shutil.copy(empty_store, uri.removeprefix("sqlite:///"))

    remnant.rename(remnant.with_name("mlflow.db.1"))  # as of a process that is gone
    monkeypatch.setattr(tracking, "_client", client)
    tracking._local_client(Path.cwd())
    assert Path("mlflow.db").exists()
    assert list(Path(".cache").iterdir()) == []


# --- batches, names, places ---


def test_metrics_are_sent_in_batches_and_all_of_them_in_the_end() -> None:
    client = FakeClient()
    tracker = MlflowTracker(client, "child", "parent")
    for step in range(600):
        tracker.log_metrics({"a": step, "b": {"c": 2.0}}, step=step)
    tracker.close("FINISHED")
    batches = [options["metrics"] for name, _, options in client.calls if name == "log_batch"]
    assert max(map(len, batches)) <= tracking.FLUSH_COUNT
    assert len(batches) <= 4
    sent = {(metric.key, metric.step): metric.value for batch in batches for metric in batch}
    assert len(sent) == 1200
    assert sent["a", 599] == 599
    assert sent["b.c", 0] == 2.0


def test_params_are_sent_in_batches_that_servers_take(empty_store: Path) -> None:
    client = FakeClient()
    tracking._log_params(client, "run", {"many": {f"p{number}": number for number in range(250)}})
    assert [len(options["params"]) for _, _, options in client.calls] == [100, 100, 50]


def test_old_metrics_are_sent_when_a_new_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    client, clock = FakeClient(), iter([0.0, 5.0, 11.0, 11.0])
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    tracker = MlflowTracker(client, "child", "parent")
    tracker.log_metrics({"a": 1.0}, step=1)
    assert client.calls == []
    tracker.log_metrics({"a": 1.0}, step=2)
    assert [len(options["metrics"]) for _, _, options in client.calls] == [2]


def test_what_is_no_number_is_left_out() -> None:
    import numpy as np
    import torch

    metrics = {"a": True, "b": np.float32(0.5), "c": torch.tensor(2), "d": "text", "e": None, "f": [1.0], "g": {"h": 1}}
    assert {m.key: m.value for m in tracking._metrics(metrics, None)} == {"a": 1.0, "b": 0.5, "c": 2.0, "g.h": 1.0}


@pytest.mark.parametrize(("name", "expected"), [
    ("ae.val.mse", "ae.val.mse"), ("R²", "R_"), ("conv1/weight [0]", "conv1/weight _0_"), ("a//b", "a/b"),
    ("../a", "a"), ("/a/", "a"), ("", "_"), ("x" * 300, "x" * 250), ("a:b-c_d e", "a:b-c_d e"),
])  # fmt: skip
def test_names_are_put_into_mlflows_alphabet(name: str, expected: str, empty_store: Path) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert tracking.clean_name(name) == expected
    _validate_metric_name(expected)


def test_root_is_dvcs_or_the_nearest_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.find_root() == tmp_path / "a clone"
    monkeypatch.delenv("DVC_ROOT")
    deep = tmp_path / "repository" / "deep" / "deeper"
    deep.mkdir(parents=True)
    assert tracking.find_root(deep) == deep
    (tmp_path / "repository" / ".git").write_text("gitdir: elsewhere")
    assert tracking.find_root(deep) == tmp_path / "repository"
    (deep.parent / ".dvc").mkdir()
    assert tracking.find_root(deep) == deep.parent


# --- what identifies a pipeline run ---


def test_identity_comes_from_the_users_id_then_from_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "lat64")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123456789abcdef")
    assert tracking.pipeline_identity() == ("exp:0123456:lat64", "lat64")
    monkeypatch.setenv("WSCORE_PIPELINE_ID", "mine")
    assert tracking.pipeline_identity() == ("id:mine", "mine")


def test_stages_of_one_dvc_process_share_an_identity_and_two_processes_do_not(tmp_path: Path) -> None:
    """A script called dvc starts two stages through a shell each, as dvc does."""
    stage_code = "import wscore.tracking as t; print(t.pipeline_identity().key, flush=True)"
    (tmp_path / "stage.py").write_text(stage_code)
    (tmp_path / "dvc").write_text("""
import subprocess, sys
for _ in range(2):
    subprocess.run(["/bin/sh", "-c", f"true; {sys.executable} {sys.argv[1]}; true"], check=True)
""")

    def repro() -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, tmp_path / "dvc", tmp_path / "stage.py"]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split("\n")[
            :2
        ]

    first, second = repro(), repro()
    assert first[0] == first[1] != second[0] == second[1]
    alone = tracking.pipeline_identity()
    assert alone.name == "single stage"
    assert f":{os.getpid()}:" in alone.key


def test_a_pipeline_run_is_named_by_the_parameters_that_differ_from_the_last_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking.changed_params() == ""  # no git, no params.yaml
    committed = "ae: {latent_dim: 256, lr: 0.1}\nsae: {k: 4}\n"
    Path("params.yaml").write_text(committed)
    for command in (["init"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "a"]):
        subprocess.run(["git", *command], check=True, capture_output=True)
    assert tracking.changed_params() == ""
    Path("params.yaml").write_text(committed.replace("256", "64"))
    assert tracking.changed_params() == "ae.latent_dim=64"
    Path("params.yaml").write_text("ae: {latent_dim: 1, lr: 2, a: 3, b: 4}\nsae: {k: 5}\n")
    assert tracking.changed_params() == "ae.latent_dim=1, ae.lr=2, ae.a=3, 2 more"


# --- a real store ---


def test_one_parent_one_child_per_stage_with_params_tags_metrics_and_files(
    store: Callable[[], Reader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "lat64")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123456789abcdef")
    temporary = tmp_path / "temporary"  # DVC runs `--temp` experiments elsewhere, with their own params.yaml
    temporary.mkdir()
    (temporary / "params.yaml").write_text(PARAMS.replace("64", "128"))
    (temporary / "curve.png").write_bytes(b"png")
    (temporary / "plots").mkdir()
    (temporary / "plots" / "curve.csv").write_text("a\n1\n")
    monkeypatch.chdir(temporary)

    with open_tracker("train_autoencoder", SECTIONS) as tracker:
        for step in range(3):
            tracker.log_metrics({"train_loss": 1.0 / (step + 1), "R²": 0.5}, step=step)
        tracker.set_tags({"note": "text"})
        tracker.log_artifact(Path("curve.png"))
    with open_tracker("evaluate", {}) as tracker:
        tracker.summarize({"autoencoder": {"mse": 0.25}}, "| mse | 0.25 |", Path("curve.png"))
        tracker.log_artifacts(Path("plots"))

    found = store()
    assert found.experiment.artifact_location == (tmp_path / "a clone" / "mlartifacts").as_uri()
    (parent,) = found.parents
    assert (parent.info.run_name, parent.info.status) == ("lat64", "FINISHED")
    assert parent.data.params["ae.latent_dim"] == "128"
    assert parent.data.params["zoo.families"] == '["mlp","cnn"]'
    assert parent.data.metrics == {"autoencoder.mse": 0.25}
    assert parent.data.tags["wscore.pipeline"] == "exp:0123456:lat64"
    assert parent.data.tags["mlflow.note.content"] == "| mse | 0.25 |"
    assert found.artifacts(parent) == ["curve.png"]
    child = found.children["train_autoencoder"]
    assert child.info.status == "FINISHED"
    assert child.data.params == {"ae.latent_dim": "64", "ae.sizes": "[1,2]", "ae.path": "null"}
    expected = {
        "mlflow.parentRunId": parent.info.run_id, "dvc.stage": "train_autoencoder", "dvc.exp_name": "lat64",
        "note": "text", "dvc.baseline_rev": "0123456789abcdef", "mlflow.source.git.commit": "0123456789abcdef",
    }  # fmt: skip
    assert expected.items() <= child.data.tags.items()
    history = found.client.get_metric_history(child.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 0.5), (2, 1.0 / 3)]
    assert child.data.metrics["R_"] == 0.5
    assert found.artifacts(child) == ["curve.png"]
    assert found.artifacts(found.children["evaluate"]) == ["curve.csv"]
    assert not (temporary / "mlartifacts").exists()
    assert not (temporary / "mlflow.db").exists()


def test_failed_and_interrupted_stages_are_marked_and_a_rerun_mends_the_parent(
    store: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSCORE_PIPELINE_ID", "one")
    with pytest.raises(ZeroDivisionError):
        run_broken_stage()
    with open_tracker("other", {}):
        assert store().parents[0].info.status == "RUNNING"
        with pytest.raises(KeyboardInterrupt), open_tracker("stopped", {}):
            raise KeyboardInterrupt
    found = store()
    assert found.children["broken"].info.status == "FAILED"
    assert found.children["broken"].data.metrics == {"before": 1.0}
    assert found.children["broken"].data.tags["wscore.error"] == "ZeroDivisionError: no reason"
    assert found.children["stopped"].info.status == "KILLED"
    assert found.children["other"].info.status == "FINISHED"
    assert [parent.info.status for parent in found.parents] == ["KILLED"]
    with open_tracker("again", {}):
        pass
    assert [parent.info.status for parent in store().parents] == ["FINISHED"]


def run_broken_stage() -> None:
    with open_tracker("broken", {}) as tracker:
        tracker.log_metrics({"before": 1.0})
        raise ZeroDivisionError("no reason")


def test_many_params_are_logged(store: Callable[[], Reader]) -> None:
    Path("params.yaml").write_text("many: {" + ", ".join(f"p{number}: {number}" for number in range(250)) + "}")
    with open_tracker("stage", {}):
        pass
    assert len(store().parents[0].data.params) == 250


def test_a_moved_clone_and_a_deleted_experiment_are_put_right(
    store: Callable[[], Reader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_tracker("first", {}):
        pass
    moved = tmp_path / "moved"
    shutil.copytree(Path(), moved)
    monkeypatch.setenv("DVC_ROOT", str(moved))
    with open_tracker("second", {}) as tracker:
        tracker.log_artifact(Path("params.yaml"))
    found = Reader(tracking._client(f"sqlite:///{moved / 'mlflow.db'}"))
    assert found.experiment.artifact_location == (moved / "mlartifacts").as_uri()
    assert list(found.children) == ["second"]
    assert found.artifacts(found.children["second"]) == ["params.yaml"]
    found.client.delete_experiment(found.experiment.experiment_id)
    with open_tracker("third", {}):
        pass
    assert "third" in Reader(found.client).children


@pytest.mark.slow
def test_stages_at_once_on_a_fresh_store_share_one_parent(tmp_path: Path) -> None:
    """Without the lock all but one fail: `table alembic_version already exists`."""
    code = """
import sys
from wscore.tracking import open_tracker
with open_tracker(sys.argv[1], {}) as tracker:
    print("ready", flush=True)
    sys.stdin.readline()
    tracker.log_metrics({"a": 1.0}, step=1)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WSCORE_PIPELINE_ID": "together"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    names = ["first", "second"]
    stages = [
        subprocess.Popen([sys.executable, "-c", code, name], env=environment, text=True, **pipes) for name in names
    ]
    ready = [process.stdout and process.stdout.readline() for process in stages]  # all are open at once
    outputs = [process.communicate("go\n") for process in stages]
    assert (ready, outputs) == (["ready\n"] * 2, [("", "")] * 2)
    found = Reader(tracking._client(f"sqlite:///{tmp_path / 'a clone' / 'mlflow.db'}"))
    assert len(found.parents) == 1
    assert sorted(found.children) == names
    assert {run.data.metrics["a"] for run in found.children.values()} == {1.0}
    assert {run.info.status for run in (*found.parents, *found.children.values())} == {"FINISHED"}
