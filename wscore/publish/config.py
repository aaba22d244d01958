"""What is published under which name (section `publish:`)."""

from typing import Annotated

import msgspec

from wscore.config import Section


class PublishConfig(Section, frozen=True):
    """Section `publish:`.

    Args:
        name: title of the model cards; letters, digits, `-`, `_` and `.`.
        repo_id: `owner/name` on the Hub; null keeps the local folder only.
        private: whether a repository made by the upload is private.
        license: SPDX identifier, in lower case, of the published weights.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    repo_id: str | None
    private: bool
    license: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
