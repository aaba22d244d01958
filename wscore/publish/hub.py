"""Upload of a published folder to the Hugging Face Hub: bounded in time, with the token from the environment only."""

import os
from pathlib import Path

from wscore.errors import DataError, PublishError
from wscore.publish.config import PublishConfig
from wscore.zoo.hub import check_reachable

TIMEOUT = 60.0  # seconds without an answer; the client itself would wait for ever
AGAIN = "the local folder is whole; put it right and `dvc repro publish`"
MESSAGE = "Publish with wscore"


def upload(folder: Path, config: PublishConfig) -> str | None:
    """Upload a folder as one model repository and return its address; nothing happens without `publish.repo_id`.

    The token is read from `HF_TOKEN`; `HF_ENDPOINT`, `HF_HUB_OFFLINE` and the proxy variables are respected. A
    repository that exists is updated; a new one is private if `publish.private` says so.

    Raises:
        PublishError: if the id is malformed, the token is missing, the Hub can't be reached in 3 s, or it refuses.
    """
    if config.repo_id is None:
        return None
    where = f"publish.repo_id={config.repo_id}"
    check_repo_id(config.repo_id)
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise PublishError("no token for the Hub", where=where, expected="HF_TOKEN in the environment", fix=AGAIN)
    try:
        check_reachable(config.repo_id)
    except DataError as error:
        raise PublishError("the Hub can't be reached", where=where, got=error.__cause__, fix=AGAIN) from error
    return _push(folder, config.repo_id, config.private, token)


def check_repo_id(repo_id: str) -> None:
    """Return if an id has the form `owner/name` that the Hub takes.

    Raises:
        PublishError: if it has not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(
            "malformed repository id", where="publish.repo_id", expected="owner/name", got=repo_id
        ) from error
    if repo_id.count("/") != 1:
        raise PublishError("malformed repository id", where="publish.repo_id", expected="owner/name", got=repo_id)


def _push(folder: Path, repo_id: str, private: bool, token: str) -> str:
    from huggingface_hub import HfApi

    _bound_waiting()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token, library_name="wscore")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=MESSAGE, ignore_patterns=[".*"])
    except _client_errors() as error:
        reason = str(error).replace(token, "***").strip().partition("\n")[0] or type(error).__name__
        raise PublishError("the upload failed", where=f"publish.repo_id={repo_id}", got=reason, fix=AGAIN) from None
    return commit.commit_url


def _bound_waiting() -> None:
    """Give the Hub's shared HTTP client a time limit, keeping its hooks."""
    from huggingface_hub import get_session, set_client_factory

    session = get_session()
    kind, hooks = type(session), session.event_hooks
    set_client_factory(lambda: kind(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT))


def _client_errors() -> tuple[type[Exception], ...]:
    """Return what the Hub's client raises; which HTTP library it is built on depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    transport = tuple(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception))
    return (*transport, OSError, ValueError, RuntimeError)
