"""MLflow tracking that never interrupts training: one parent run per pipeline run, one child run per stage.

    with open_tracker("train_autoencoder", {"ae": config}) as tracker:
        tracker.log_metrics({"train_loss": 0.1}, step=1)

Runs are stored at `MLFLOW_TRACKING_URI`, else in one SQLite file and one artifact folder in the root of the clone, also
for stages that DVC runs in a temporary folder. `WSCORE_TRACKING=off` disables tracking. Stages find their parent run by
its tag `wscore.pipeline`, derived from DVC's environment variables (see `pipeline_identity`).

Any failure of MLflow, its database or its server warns once, and the run continues with `NullTracker`. After a failure of
`MLFLOW_TRACKING_URI` the later stages of the same `dvc repro` or `dvc exp run` do not try again. Only this module imports
mlflow, and only when a tracker is opened.
"""

import http.client
import importlib
import logging
import os
import re
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

import psutil
from filelock import FileLock

from wscore.config import PARAMS, flatten, parse_yaml, read_yaml
from wscore.errors import ConfigError, WscoreError, WscoreWarning
from wscore.io import is_first_process, write_text
from wscore.preflight import is_dvc

EXPERIMENT = "wscore"
PIPELINE_TAG = "wscore.pipeline"
STORE = "mlflow.db"
GIVEN_UP = "wscore-tracking-off"  # names the pipeline run in which the server failed
SERVER = "MLFLOW_TRACKING_URI"
SHORTEST_SECRET = 4  # characters that are hidden wherever they occur
LOCK_SECONDS = 120.0
FLUSH_SECONDS = 10.0
FLUSH_COUNT = 500
PARAMS_PER_REQUEST = 100
SHOWN = 3  # changed parameters in the name of a run
# Settings of the user take precedence. Read by mlflow on use. By default a request fails after some 9 seconds.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@runtime_checkable
class Tracker(Protocol):
    """Logger of one stage."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers of this stage; nested mappings become dotted names, other values are skipped."""

    def log_artifact(self, path: Path) -> None:
        """Store one file (a figure, a table) with this stage's run."""

    def log_artifacts(self, folder: Path) -> None:
        """Store all files in a folder with this stage's run."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Attach text to this stage's run."""

    def summarize(self, metrics: Mapping[str, Any], note: str, picture: Path) -> None:
        """Show final numbers, a Markdown text and a picture with the parent run."""


class NullTracker:
    """A tracker that does nothing."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path) -> None:
        """Do nothing."""

    def log_artifacts(self, folder: Path) -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Do nothing."""

    def summarize(self, metrics: Mapping[str, Any], note: str, picture: Path) -> None:
        """Do nothing."""

    def close(self, status: str) -> None:
        """Do nothing."""


class Pipeline(NamedTuple):
    """Identity of one pipeline run.

    Attributes:
        key: shared by all stages of one pipeline run, different for each run.
        name: of the parent run in the MLflow UI: the parameters that differ from the last commit, else the time.
    """

    key: str
    name: str


@contextmanager
def open_tracker(stage_name: str, params: Mapping[str, Any]) -> Iterator[Tracker]:
    """Yield the tracker of one stage; its run ends as FINISHED, FAILED (exception) or KILLED (Ctrl-C).

    Args:
        stage_name: name of the child run.
        params: sections by name, logged with dotted names (`ae.latent_dim`).

    Raises:
        ConfigError: if `WSCORE_TRACKING` is neither on nor off.
    """
    tracker = GuardedTracker()
    if is_enabled() and not given_up():
        tracker.attempt(lambda: tracker.use(_start(stage_name, params)))
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def is_enabled() -> bool:
    """Return whether this process tracks: `WSCORE_TRACKING` is not off and this is the first process of torchrun."""
    setting = os.environ.get("WSCORE_TRACKING", "on").strip().lower() or "on"
    if setting not in ("on", "off", "1", "0", "true", "false"):
        raise ConfigError("is not understood", where="WSCORE_TRACKING", expected="on or off", got=repr(setting))
    return setting in ("on", "1", "true") and is_first_process()


class GuardedTracker:
    """Wrapper around a tracker: its first failure warns and replaces it with `NullTracker`."""

    def __init__(self) -> None:
        self.inner: MlflowTracker | NullTracker = NullTracker()

    def use(self, inner: "MlflowTracker") -> None:
        """Forward all calls to `inner` from now on."""
        self.inner = inner

    def attempt(self, action: Callable[[], None]) -> None:
        """Run an action on the tracker; on failure warn and stop tracking."""
        try:
            action()
        except _failures() as error:
            self.inner = NullTracker()
            _give_up()
            reason = without_secrets(" ".join(str(error).split()))[:300] or type(error).__name__
            warnings.warn(f"MLflow tracking is off for the rest of this run: {reason}", WscoreWarning, stacklevel=4)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """See `Tracker`."""
        self.attempt(lambda: self.inner.log_metrics(metrics, step))

    def log_artifact(self, path: Path) -> None:
        """See `Tracker`."""
        self.attempt(lambda: self.inner.log_artifact(path))

    def log_artifacts(self, folder: Path) -> None:
        """See `Tracker`."""
        self.attempt(lambda: self.inner.log_artifacts(folder))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self.attempt(lambda: self.inner.set_tags(tags))

    def summarize(self, metrics: Mapping[str, Any], note: str, picture: Path) -> None:
        """See `Tracker`."""
        self.attempt(lambda: self.inner.summarize(metrics, note, picture))

    def close(self, status: str) -> None:
        """Send remaining metrics and end the run with this status."""
        self.attempt(lambda: self.inner.close(status))


class MlflowTracker:
    """A child run in MLflow and its parent; metrics are buffered and sent in batches. Passes on MLflow's exceptions.

    Args:
        client: a `mlflow.MlflowClient`.
        run_id: the stage's run.
        parent_id: the pipeline's run.
    """

    def __init__(self, client: Any, run_id: str, parent_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self.parent_id = parent_id
        self.waiting: list[Any] = []
        self.flushed = time.monotonic()

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """See `Tracker`."""
        self.waiting.extend(_metrics(metrics, step))
        if len(self.waiting) >= FLUSH_COUNT or time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the buffered metrics."""
        waiting, self.waiting = self.waiting, []
        for batch in _chunks(waiting, FLUSH_COUNT):
            self.client.log_batch(self.run_id, metrics=batch)
        self.flushed = time.monotonic()

    def log_artifact(self, path: Path) -> None:
        """See `Tracker`."""
        self.client.log_artifact(self.run_id, str(path))

    def log_artifacts(self, folder: Path) -> None:
        """See `Tracker`."""
        self.client.log_artifacts(self.run_id, str(folder))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, clean_name(name), str(value))

    def summarize(self, metrics: Mapping[str, Any], note: str, picture: Path) -> None:
        """See `Tracker`."""
        for batch in _chunks(_metrics(metrics, None), FLUSH_COUNT):
            self.client.log_batch(self.parent_id, metrics=batch)
        self.client.set_tag(self.parent_id, "mlflow.note.content", note)
        self.client.log_artifact(self.parent_id, str(picture))

    def close(self, status: str) -> None:
        """Send remaining metrics and end both runs; after a failed stage the parent stays FAILED until it is rerun."""
        self.flush()
        error = sys.exception()
        if error is not None:
            self.set_tags({"wscore.error": f"{type(error).__name__}: {error}"[:500]})
        self.client.set_terminated(self.run_id, status)
        if status != "FINISHED" or self.client.get_run(self.parent_id).info.status == "RUNNING":
            self.client.set_terminated(self.parent_id, status)


def clean_name(name: str) -> str:
    """Return a valid MLflow name: other characters become `_`, at most 250 characters."""
    cleaned = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    cleaned = "/".join(segment for segment in cleaned.split("/") if segment.strip(". "))
    return cleaned[:250] or "_"


def find_root(start: Path | None = None) -> Path:
    """Return the root of the clone: `DVC_ROOT`, else the nearest parent folder with `.dvc` or `.git`, else the start."""
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"]).resolve()
    here = (start or Path.cwd()).resolve()
    return next((p for p in (here, *here.parents) if (p / ".dvc").is_dir() or (p / ".git").exists()), here)


def pipeline_identity() -> Pipeline:
    """Return the identity of the pipeline run that this process belongs to.

    From `WSCORE_PIPELINE_ID`, else the DVC experiment with its baseline, else the outermost `dvc` or `make repro`
    (process id and start time), else this process.
    """
    if given := os.environ.get("WSCORE_PIPELINE_ID"):
        return Pipeline(f"id:{given}", given)
    experiment, baseline = os.environ.get("DVC_EXP_NAME"), os.environ.get("DVC_EXP_BASELINE_REV", "")
    what = changed_params()
    if experiment:
        return Pipeline(f"exp:{baseline[:7]}:{experiment}", f"{what} ({experiment})" if what else experiment)
    dvc = _dvc_process()
    name = what or time.strftime("%Y-%m-%d %H:%M")
    return Pipeline(_process_key(dvc or psutil.Process()), name if dvc else "single stage")


def changed_params() -> str:
    """Return what params.yaml has in another way than the last commit, or than the baseline of a DVC experiment."""
    with suppress(OSError, subprocess.CalledProcessError, WscoreError):
        revision = os.environ.get("DVC_EXP_BASELINE_REV", "HEAD")
        command = ["git", "show", f"{revision}:./{PARAMS}"]
        committed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        before, now = flatten(parse_yaml(committed, PARAMS)), flatten(read_yaml(PARAMS))
        changed = [f"{key}={value}" for key, value in now.items() if (key, value) not in before.items()]
        return ", ".join([*changed[:SHOWN], *([f"{len(changed) - SHOWN} more"] if len(changed) > SHOWN else [])])[:200]
    return ""


def _dvc_process() -> psutil.Process | None:
    """Return the process of DVC that runs this stage, or the `make repro` that runs several of them."""
    return next((process for process in reversed(psutil.Process().parents()) if is_dvc(process)), None)


def _process_key(process: psutil.Process) -> str:
    return f"process:{socket.gethostname()}:{process.pid}:{int(process.create_time())}"


def given_up() -> bool:
    """Return whether the server of `MLFLOW_TRACKING_URI` failed in an earlier stage of this pipeline run."""
    with suppress(OSError, psutil.Error):
        return (_scratch(find_root()) / GIVEN_UP).read_text(encoding="utf-8") == _attempt_key()
    return False


def _give_up() -> None:
    """Let the later stages of this pipeline run do without the server."""
    with suppress(OSError, psutil.Error):
        key = _attempt_key()
        if key:
            write_text(_scratch(find_root()) / GIVEN_UP, key)


def _attempt_key() -> str:
    """Return what stages share that DVC runs in one go with one server; empty for single stages and the local store."""
    dvc = _dvc_process()
    return f"{_process_key(dvc)} {without_secrets(os.environ[SERVER])}" if dvc and os.environ.get(SERVER) else ""


def without_secrets(text: str) -> str:
    """Return a text without user and password in URLs, and without those of the tracking server."""
    server = re.sub(r"^[\w+.-]+://", "", os.environ.get(SERVER, ""))
    userinfo = server.rpartition("@")[0]
    password = userinfo.partition(":")[2]
    named = [os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("PASSWORD", "TOKEN")]
    for secret in (userinfo, unquote(userinfo), password, unquote(password), *named):
        text = text.replace(secret, "***") if len(secret) >= SHORTEST_SECRET else text
    return re.sub(r"(?<=://)[^/\s@]*@", "***@", text)


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of MLflow, its database layer and its server connection (those of requests are OSErrors)."""
    if "mlflow.exceptions" not in sys.modules:
        return OSError, ImportError, psutil.Error
    from alembic.util import CommandError
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return OSError, ImportError, psutil.Error, MlflowException, SQLAlchemyError, CommandError, ParseError


def _start(stage_name: str, params: Mapping[str, Any]) -> MlflowTracker:
    root = find_root()
    server = os.environ.get(SERVER)
    _prepare(server)
    with FileLock(_scratch(root) / "wscore-tracking.lock", timeout=LOCK_SECONDS):
        client = _client(server) if server else _local_client(root)
        experiment = _experiment(client, root)
        parent = _parent(client, experiment)
    tags = {**_common_tags(root), "mlflow.parentRunId": parent, "dvc.stage": stage_name}
    run = client.create_run(experiment, tags=tags, run_name=stage_name).info.run_id
    _log_params(client, run, dict(params))
    return MlflowTracker(client, run, parent)


def _prepare(server: str | None) -> None:
    """Limit retries, fail fast if the server does not answer, and import MLflow, which takes seconds."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print user and password
    if server and server.startswith(("http://", "https://")):
        _probe(server)
    importlib.import_module("mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _local_client(root: Path) -> Any:
    """Return a client of the SQLite store in the root of the clone; a new store appears there when it is complete."""
    path, scratch = root / STORE, _scratch(root)
    _move_unfinished(path)
    if not path.exists():
        for remnant in scratch.glob(f"{STORE}.*"):
            remnant.unlink()
        temporary = scratch / f"{STORE}.{os.getpid()}"
        _client(f"sqlite:///{temporary}")
        temporary.replace(path)
    return _client(f"sqlite:///{path}")


def _client(uri: str) -> Any:
    """Return an MLflow client; this creates the tables of a new SQLite store, which only one process may do."""
    from mlflow import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # in MLflow's own use of SQLAlchemy
        return MlflowClient(tracking_uri=uri)


def _move_unfinished(path: Path) -> None:
    """Move a SQLite store aside that MLflow did not finish creating, with its journal; it can't be repaired."""
    if not path.is_file() or _is_finished(path):
        return
    aside = next(name for n in range(1000) if not (name := path.with_name(f"{path.name}.unfinished-{n}")).exists())
    for end in ("-journal", "-wal", "-shm", ""):
        side = path.with_name(path.name + end)
        if side.exists():
            side.replace(aside.with_name(aside.name + end))
    message = (
        f"{path.name} was not completely created in an interrupted run; it is now {aside.name}, and a new one is made"
    )
    warnings.warn(message, WscoreWarning, stacklevel=2)


def _is_finished(path: Path) -> bool:
    """Return whether MLflow finished creating a store: its last step adds the first experiment."""
    try:
        with closing(sqlite3.connect(path)) as database:
            return database.execute("SELECT count(*) FROM experiments").fetchone()[0] > 0
    except sqlite3.OperationalError as error:  # such as a store that another process is writing to
        return "no such table" not in str(error)
    except sqlite3.DatabaseError:
        return False


def _probe(server: str) -> None:
    """Ask a server for its health; any answer will do.

    Raises:
        ConnectionError: if there is none within the timeout of a request, name resolution included.
    """
    url = urlsplit(server)
    address = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    timeout = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            opener = urllib.request.build_opener()
            opener.open(f"{address}{url.path.rstrip('/')}/health", timeout=timeout).close()
        except urllib.error.HTTPError:
            outcome.append(None)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None)
            outcome.append(None if isinstance(reason, ssl.SSLError) else error)  # MLflow has certificates of its own
        else:
            outcome.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    error = outcome[0] if outcome else TimeoutError(f"no answer in {timeout:g} s")
    if error is not None:
        raise ConnectionError(f"no MLflow server at {address} ({error})") from error


def _scratch(root: Path) -> Path:
    """Return the folder of lock and temporary files, on the same disk as the store."""
    folder = root / ".dvc" / "tmp" if (root / ".dvc").is_dir() else root / ".cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _experiment(client: Any, root: Path) -> str:
    """Return the id of the experiment, created with an absolute artifact folder unless a server stores artifacts."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    folder = None if client.tracking_uri.startswith("http") else (root / "mlartifacts").as_uri()
    existing = client.get_experiment_by_name(name)
    if existing is not None and existing.lifecycle_stage == "deleted":
        client.restore_experiment(existing.experiment_id)
    if existing is not None and not os.environ.get(SERVER) and existing.artifact_location != folder:
        # The clone was moved: new runs must not write to the old location.
        client.rename_experiment(existing.experiment_id, f"{name} (moved, {existing.experiment_id})")
        existing = None
    return existing.experiment_id if existing is not None else client.create_experiment(name, artifact_location=folder)


def _parent(client: Any, experiment: str) -> str:
    """Return the id of the parent run, now RUNNING; the first stage creates it and logs all of params.yaml."""
    pipeline = pipeline_identity()
    key = pipeline.key.replace("'", "_").replace('"', "_")
    runs = client.search_runs([experiment], filter_string=f"tags.`{PIPELINE_TAG}` = '{key}'", max_results=1)
    if runs:
        client.update_run(runs[0].info.run_id, status="RUNNING")
        return runs[0].info.run_id
    tags = {**_common_tags(find_root()), PIPELINE_TAG: key}
    run = client.create_run(experiment, tags=tags, run_name=pipeline.name).info.run_id
    if PARAMS.is_file():
        _log_params(client, run, read_yaml(PARAMS))
    return run


def _common_tags(root: Path) -> dict[str, str]:
    tags = {
        "mlflow.user": psutil.Process().username(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": _git_revision(root),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    return {name: value for name, value in tags.items() if value}


def _git_revision(root: Path) -> str:
    if "DVC_EXP_BASELINE_REV" in os.environ:
        return os.environ["DVC_EXP_BASELINE_REV"]
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""


def _log_params(client: Any, run: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [
        Param(clean_name(key), "null" if value is None else str(value)) for key, value in flatten(params).items()
    ]
    for batch in _chunks(entries, PARAMS_PER_REQUEST):
        client.log_batch(run, params=batch)


def _metrics(metrics: Mapping[str, Any], step: int | None) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    numbers = {name: _number(value) for name, value in _leaves(metrics)}
    return [Metric(clean_name(name), value, now, step or 0) for name, value in numbers.items() if value is not None]


def _leaves(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _number(value: Any) -> float | None:
    return None if isinstance(value, str | bytes) or not hasattr(value, "__float__") else float(value)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
