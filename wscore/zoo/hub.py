"""Data sets on the Hugging Face Hub, with an answer within seconds when it is out of reach."""

import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wscore.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict

ENDPOINT = "https://huggingface.co"
PROBE_SECONDS = 3.0
OFFLINE_FIX = "see `HF_ENDPOINT` and `HF_HUB_OFFLINE`, or use local files (`data.root`, `zoo.path`)"


def load_hub_dataset(repository: str, revision: str | None) -> "DatasetDict":
    """Return all splits of a Hub data set at a revision (null: the newest).

    With `HF_HUB_OFFLINE=1` only the local cache is read. Otherwise the endpoint (`HF_ENDPOINT`) is first tried with one TCP
    connection of at most 3 s, since the client's own retries take much longer.

    Raises:
        DataError: if the Hub can't be reached, or has no such data set or revision.
    """
    check_reachable(repository)
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        content = load_dataset(repository, revision=revision)
    except (DatasetNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError("can't be loaded from the Hub", where=repository, got=reason, fix=OFFLINE_FIX) from error
    assert isinstance(content, DatasetDict)
    return content


def check_reachable(repository: str) -> None:
    """Return if the Hub's endpoint accepts a TCP connection within 3 s, or only the local cache is asked for.

    Raises:
        DataError: naming the endpoint if it doesn't.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return
    endpoint = os.environ.get("HF_ENDPOINT") or ENDPOINT
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    proxied = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    if proxied:
        return
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PROBE_SECONDS):
            return
    except OSError as error:
        raise DataError(
            "the Hub can't be reached", where=repository, got=f"{endpoint}: {error}", fix=OFFLINE_FIX
        ) from error
