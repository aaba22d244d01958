"""Upload of published folders to the Hugging Face Hub with bounded waiting; the token comes from the environment only.

Files of an earlier upload are identified by `checksums.json` in the root of the repository: those that the new one no
longer lists are deleted; files that others added are kept.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from wscore.errors import DataError, PublishError
from wscore.hub.checksums import CHECKSUMS, read_checksums
from wscore.hub.client import bound_waiting, check_reachable, client_errors, explain_hub_error, is_offline, persist

if TYPE_CHECKING:
    from huggingface_hub import HfApi

AGAIN = "the local folder is complete; fix this and run `dvc repro publish`"
MESSAGE = "Publish with wscore"
KEPT = (".gitattributes", "README.md")  # never deleted


class Upload(NamedTuple):
    """A repository and its content.

    Attributes:
        repo_id: `owner/name`.
        folder: with the complete content.
        kind: of repository.
    """

    repo_id: str
    folder: Path
    kind: Literal["model", "dataset"] = "model"


def upload(uploads: Sequence[Upload], *, private: bool = True) -> list[str]:
    """Upload folders, each as one repository, and return the URL of the newest commit of each.

    The token is read from `HF_TOKEN`; `HF_ENDPOINT`, `HF_HUB_OFFLINE` and the proxy variables are respected. Existing
    repositories are updated, and unchanged if the content is the same; new ones are private by default. Interrupted
    uploads resume without transferring files again.

    Raises:
        PublishError: if an id is malformed, the token is missing, the Hub can't be reached in 3 s, times out or denies
            access.
    """
    for item in uploads:
        check_repo_id(item.repo_id)
    if not uploads:
        return []
    where = f"publish.repo_id={uploads[0].repo_id}"
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise PublishError("no token for the Hub", where=where, expected="HF_TOKEN in the environment", fix=AGAIN)
    if is_offline():
        raise PublishError("offline mode is on", where=where, got="HF_HUB_OFFLINE", fix=f"unset it; {AGAIN}")
    try:
        check_reachable(uploads[0].repo_id)
    except DataError as error:
        raise PublishError("the Hub can't be reached", where=where, got=error.__cause__, fix=AGAIN) from error
    return [_push(item, private, token) for item in uploads]


def check_repo_id(repo_id: str, *, where: str = "publish.repo_id", expected: str = "owner/name") -> None:
    """Check that an id has the form `owner/name` and is valid on the Hub.

    Raises:
        PublishError: if it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        fine = repo_id.count("/") == 1
    except HFValidationError:
        fine = False
    if not fine:
        raise PublishError("malformed repository id", where=where, expected=expected, got=repo_id)


def _push(item: Upload, private: bool, token: str) -> str:
    from huggingface_hub import HfApi

    bound_waiting()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token, library_name="wscore")
    try:
        persist(lambda: api.create_repo(item.repo_id, repo_type=item.kind, private=private, exist_ok=True))
        stale = persist(lambda: _stale_files(api, item))
        commit = persist(
            lambda: api.upload_folder(
                repo_id=item.repo_id,
                repo_type=item.kind,
                folder_path=item.folder,
                commit_message=MESSAGE,
                ignore_patterns=[".*", "*/.*"],
                delete_patterns=stale or None,
            )
        )
    except client_errors() as error:
        where = f"publish.repo_id={item.repo_id}"
        raise PublishError("the upload failed", where=where, got=explain_hub_error(error), fix=AGAIN) from None
    return commit.commit_url


def _stale_files(api: "HfApi", item: Upload) -> list[str]:
    """Return the files of an earlier upload that the new one no longer contains."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = api.hf_hub_download(item.repo_id, CHECKSUMS, repo_type=item.kind)
    except EntryNotFoundError:
        return []  # a new repository, or one not uploaded by wscore
    try:
        before = json.loads(Path(path).read_text(encoding="utf-8"))["files"]
    except (ValueError, TypeError, KeyError):
        return []
    current = read_checksums(item.folder)
    return sorted(
        str(name) for name in before if name not in current and not _is_pattern(str(name)) and name not in KEPT
    )


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")
