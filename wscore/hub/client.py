"""Downloads from the Hugging Face Hub with bounded waiting: fails within seconds if the Hub can't be reached.

`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN` and the proxy variables are respected.
"""

import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

from wscore.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict

ENDPOINT = "https://huggingface.co"
PROBE_SECONDS, ANSWER_SECONDS = 3.0, 7.0
SILENCE_SECONDS = 60.0  # timeout of a request; the client has none by default
LONGEST_PAUSE = 60.0  # maximum Retry-After of a busy Hub
ATTEMPTS = 4
FIRST_PAUSE = 1.0  # seconds before the second attempt, doubled for each further one
ENOUGH = 15.0  # seconds of failed attempts, including the client's retries, after which there are no more
WAITS = ("connect", "read", "write", "pool")
PASSING = (429, 500, 502, 503, 504)
ZOO_FILES = ("*.parquet", "layouts.json")
FIX = "see `HF_ENDPOINT` and `HF_HUB_OFFLINE`, or use local files (`data.root`, `zoo.path`)"
T = TypeVar("T")
STOPPED = threading.Event()  # set by Ctrl-C
RESPONSES: WeakSet[Any] = WeakSet()  # responses that may still be read
ANSWERED: set[str] = set()  # endpoints


class HubError(OSError):
    """The Hub timed out, or requested too long a pause; not retried by the client."""


def load_hub_dataset(repository: str, revision: str | None, *, name: str | None = None) -> "DatasetDict":
    """Return all splits of a Hub data set at a revision (null: the newest); `name` selects a configuration.

    With `HF_HUB_OFFLINE=1` only the local cache is read. Otherwise the endpoint (`HF_ENDPOINT`) is tested first
    (`check_reachable`), since the client's retries take much longer.

    Raises:
        DataError: if the Hub can't be reached, or has no such data set or revision.
    """
    check_reachable(repository)
    bound_waiting()
    from datasets import DatasetDict, config, load_dataset

    # Offline the client uses the revision cached last, so each pinned one gets a separate cache.
    cache = None if revision is None else str(Path(config.HF_DATASETS_CACHE, "pinned", revision))
    try:
        with stopped_by_signals():
            content = load_dataset(repository, name, revision=revision, cache_dir=cache)
    except client_errors() as error:
        raise rejected(repository, revision, error) from error
    assert isinstance(content, DatasetDict)
    return content


def download_zoo(repository: str, revision: str | None) -> Path:
    """Return the local copy of a published zoo or table at a revision (null: the newest), downloading missing files.

    The name of the folder is the commit. An interrupted download resumes without fetching complete files again.

    Raises:
        DataError: if the Hub can't be reached, or has no such data set or revision.
    """
    return download(repository, revision, kind="dataset", patterns=ZOO_FILES)


def download(
    repository: str,
    revision: str | None,
    *,
    kind: Literal["model", "dataset"] = "model",
    patterns: Sequence[str] | None = None,
    fix: str = FIX,
    **client: Any,
) -> Path:
    """Return the local copy of a repository at a revision (null: the newest), downloading missing files.

    Args:
        repository: `owner/name`.
        revision: commit, tag or branch.
        kind: of repository.
        patterns: download only files that match one of them.
        fix: advice in the error.
        client: further options of `huggingface_hub.snapshot_download`.

    Raises:
        DataError: if the Hub can't be reached or times out, the repository or revision does not exist, or access is denied.
    """
    check_reachable(repository, fix=fix)
    bound_waiting()
    from huggingface_hub import snapshot_download

    allowed = None if patterns is None else list(patterns)

    def fetch() -> str:
        return snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=allowed, **client)

    try:
        with stopped_by_signals():
            return Path(persist(fetch))
    except client_errors() as error:
        raise rejected(repository, revision, error, fix=fix) from error


def check_reachable(repository: str, *, fix: str = FIX) -> None:
    """Check that the endpoint accepts a connection within 3 s and answers within 7 s; skipped offline and behind a proxy.

    An endpoint that answered once in this process is only connected to.

    Raises:
        DataError: naming the endpoint, if it does not.
    """
    if is_offline() or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    endpoint = os.environ.get("HF_ENDPOINT") or ENDPOINT
    url = urlsplit(endpoint)
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        with socket.create_connection((url.hostname or "", port), timeout=PROBE_SECONDS) as connection:
            if endpoint not in ANSWERED:
                _ask(connection, url.hostname or "", secure=url.scheme != "http")
                ANSWERED.add(endpoint)
    except (OSError, ValueError) as error:
        raise DataError("the Hub can't be reached", where=repository, got=f"{endpoint}: {error}", fix=fix) from error


def _ask(connection: socket.socket, host: str, *, secure: bool) -> None:
    """Return once a server has sent something over HTTP; what it says about certificates or paths does not matter.

    Raises:
        OSError: if it sends nothing.
    """
    connection.settimeout(ANSWER_SECONDS)
    with suppress(ssl.SSLError):
        channel = ssl.create_default_context().wrap_socket(connection, server_hostname=host) if secure else connection
        with channel:
            channel.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            if not channel.recv(1):
                raise ConnectionError("closed the connection without an answer")


def is_offline() -> bool:
    """Return whether offline mode is on (`HF_HUB_OFFLINE`)."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def bound_waiting() -> None:
    """Set timeouts on the Hub's shared HTTP client, keeping its hooks.

    Without a timeout, a server that accepts a connection and never responds would block forever; with a plain timeout the
    client would retry six times. A request that times out, or a response with a Retry-After of more than a minute, raises
    a `HubError` at once. Large files use this client too (`HF_HUB_DISABLE_XET`): the client of Xet, a compiled library,
    waits forever for an upload that is never confirmed.
    """
    from huggingface_hub import constants, get_session, set_client_factory

    constants.HF_HUB_DISABLE_XET = True  # the environment variable is read only on import
    session = get_session()
    kind = type(session)
    if getattr(kind, "patience", None) == SILENCE_SECONDS:
        return
    base, hooks = getattr(kind, "impatient", kind), session.event_hooks
    client: Any = type("PatientClient", (base,), {"impatient": base, "patience": SILENCE_SECONDS, "send": _send(base)})
    set_client_factory(lambda: client(event_hooks=hooks, follow_redirects=True, timeout=SILENCE_SECONDS))


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Abort the transfers of the block on Ctrl-C and, if handled alike, SIGTERM.

    Otherwise the client, whose threads ignore signals, would first finish the files in transfer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: Any) -> None:
        STOPPED.set()
        threading.Thread(target=_hang_up, daemon=True).start()  # in a thread: this one may hold a lock that it needs
        usual[signal.Signals(number)](number, frame)  # pyright: ignore[reportCallIssue, reportOptionalCall]

    try:
        for number, handler in usual.items():
            if callable(handler):
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        STOPPED.clear()


def _hang_up() -> None:
    """Shut down all connections with pending responses."""
    for response in list(RESPONSES):
        stream = response.extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def persist(call: Callable[[], T]) -> T:
    """Return the result of a call, retried after transient errors: a busy or failing server, a lost connection.

    Raises the last error; denied access, timeouts and missing files are raised at once.
    """
    start, attempt = time.monotonic(), 1
    while True:
        try:
            return call()
        except client_errors() as error:
            if attempt == ATTEMPTS or not _passes(error) or time.monotonic() - start > ENOUGH:
                raise
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        attempt += 1


def client_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the Hub's client; its HTTP library depends on its version."""
    return (_transport(), OSError, ValueError, RuntimeError)


def explain_hub_error(error: Exception) -> str:
    """Return the first line of an error of the Hub's client, with the token masked."""
    error = _root(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons = {
        401: "401, the token is missing, wrong or expired",
        403: "403, the token has no right to this",
        404: "404, no such repository, revision or file, or no right to read it",
        429: "429, too many requests",
    }
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if status in reasons:
        text = f"{reasons[status]} ({text})"
    token = os.environ.get("HF_TOKEN", "").strip()
    return text.replace(token, "***") if token else text


def rejected(repository: str, revision: str | None, error: Exception, *, fix: str = FIX) -> DataError:
    """Return the user-facing error for an exception of the Hub's client."""
    where = repository if revision is None else f"{repository} at {revision}"
    return DataError("can't be loaded from the Hub", where=where, got=explain_hub_error(error), fix=fix)


def _transport() -> type[Exception]:
    from huggingface_hub.errors import HfHubHTTPError

    return next(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception) and kind is not OSError)


def _root(error: Exception) -> Exception:
    """Return the cause that the client wraps in other errors."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    wraps = isinstance(error, RuntimeError | LocalEntryNotFoundError)
    return _root(error.__cause__) if wraps and isinstance(error.__cause__, client_errors()) else error


def _passes(error: Exception) -> bool:
    error = _root(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in PASSING
    lost = isinstance(error, _transport()) and "Timeout" not in type(error).__name__
    return lost and not isinstance(error, OSError)


def _send(base: Any) -> Callable[..., Any]:
    """Return a method `send` of an HTTP client with timeouts."""
    silence = getattr(sys.modules[base.__module__.partition(".")[0]], "TimeoutException", TimeoutError)

    def send(self: Any, request: Any, **options: Any) -> Any:
        if STOPPED.is_set():
            raise HubError("stopped")
        timeouts = request.extensions.get("timeout", {})
        limits = {name: SILENCE_SECONDS if timeouts.get(name) is None else timeouts[name] for name in WAITS}
        request.extensions = {**request.extensions, "timeout": limits}  # some calls set no timeout
        try:
            response = base.send(self, request, **options)
        except silence as error:
            raise HubError(f"no answer from {request.url.host} ({error or type(error).__name__})") from error
        RESPONSES.add(response)
        pause = response.headers.get("Retry-After", "")
        if response.status_code in PASSING and pause.isdecimal() and int(pause) > LONGEST_PAUSE:
            raise HubError(f"{response.status_code}, the Hub asks to wait for {int(pause):,} s")
        return response

    return send
