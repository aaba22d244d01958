"""Data sets on the Hugging Face Hub, with an answer within seconds when it is out of reach."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wscore.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict

ENDPOINT = "https://huggingface.co"
PROBE_SECONDS = 3.0
SILENCE_SECONDS = 60.0  # without an answer; the client itself would wait for ever
ZOO_FILES = ["*.parquet", "layouts.json"]
FIX = "see `HF_ENDPOINT` and `HF_HUB_OFFLINE`, or use local files (`data.root`, `zoo.path`)"


def load_hub_dataset(repository: str, revision: str | None, *, name: str | None = None) -> "DatasetDict":
    """Return all splits of a Hub data set at a revision (null: the newest); `name` picks one of its configurations.

    With `HF_HUB_OFFLINE=1` only the local cache is read. Otherwise the endpoint (`HF_ENDPOINT`) is first tried with one
    TCP connection of at most 3 s, since the client's own retries take much longer.

    Raises:
        DataError: if the Hub can't be reached, or has no such data set or revision.
    """
    check_reachable(repository)
    bound_waiting()
    from datasets import DatasetDict, load_dataset

    try:
        content = load_dataset(repository, name, revision=revision)
    except client_errors() as error:
        raise _refused(repository, revision, error) from error
    assert isinstance(content, DatasetDict)
    return content


def download_zoo(repository: str, revision: str | None) -> Path:
    """Return the local copy of a published zoo or table at a revision (null: the newest), downloading what is missing.

    The name of the folder is the commit. An interrupted download goes on where it was.

    Raises:
        DataError: if the Hub can't be reached, or has no such data set or revision.
    """
    check_reachable(repository)
    bound_waiting()
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=ZOO_FILES)
    except client_errors() as error:
        raise _refused(repository, revision, error) from error
    return Path(folder)


def check_reachable(repository: str) -> None:
    """Return if the endpoint accepts a TCP connection within 3 s, or is behind a proxy, or is not to be asked.

    Raises:
        DataError: naming the endpoint if it doesn't.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    endpoint = os.environ.get("HF_ENDPOINT") or ENDPOINT
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PROBE_SECONDS):
            return
    except OSError as error:
        raise DataError("the Hub can't be reached", where=repository, got=f"{endpoint}: {error}", fix=FIX) from error


def bound_waiting() -> None:
    """Give the Hub's shared HTTP client a time limit, keeping its hooks."""
    from huggingface_hub import get_session, set_client_factory

    session = get_session()
    kind, hooks = type(session), session.event_hooks
    set_client_factory(lambda: kind(event_hooks=hooks, follow_redirects=True, timeout=SILENCE_SECONDS))


def client_errors() -> tuple[type[Exception], ...]:
    """Return what the Hub's client raises; which HTTP library it is built on depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    transport = tuple(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception))
    return (*transport, OSError, ValueError, RuntimeError)


def _refused(repository: str, revision: str | None, error: Exception) -> DataError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    where = repository if revision is None else f"{repository} at {revision}"
    return DataError("can't be loaded from the Hub", where=where, got=reason, fix=FIX)
