"""Section `publish:`: what is published, where and under which name."""

from typing import Annotated, Literal

import msgspec

from wscore.config import Section

Part = Literal["encoder", "heads", "codec", "autoencoder", "dictionary", "predictor"]
Table = Literal["zoo", "representations"]


class PublishConfig(Section, frozen=True):
    """What is packed and uploaded (section `publish:`)."""

    target: Literal["none", "folder", "hub"]
    parts: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1)]
    layout: Literal["one", "separate"]
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    repo_id: str | None
    private: bool
    license: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
    datasets: tuple[Table, ...]

    def __post_init__(self) -> None:
        if self.target == "hub" and self.repo_id is None:
            raise ValueError("target hub needs repo_id: owner/name on the Hub")
        if len(set(self.datasets)) < len(self.datasets) or len(set(self.parts)) < len(self.parts):
            raise ValueError("datasets or parts has a duplicate")
        if "heads" in self.parts and "encoder" not in self.parts:
            raise ValueError("parts with heads need the encoder, whose latents heads read")

    def repository(self, part: str) -> str | None:
        """Return the repository of a model (`encoder`, `heads/accuracy`) or data set (`zoo`), if one is named."""
        alone = self.layout == "separate" or part in Table.__args__
        return f"{self.repo_id}-{part.replace('/', '-')}" if self.repo_id and alone else self.repo_id
