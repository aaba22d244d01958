"""A hub on this machine, and clients that know no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from tests.unit.hub_server import TOKEN, HubServer

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


class _Clock:
    """Stands for the module `time` in the client, whose pauses it leaves out."""

    def __getattr__(self, name: str) -> object:
        import time

        return (lambda _: None) if name == "sleep" else getattr(time, name)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub that takes large files by LFS; the client's cache is empty, and neither it nor we pause before we try again."""
    server = HubServer()
    cache = tmp_path_factory.mktemp("hub-cache")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    # The client reads the environment when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time", _Clock())
    monkeypatch.setattr("wscore.hub.client.FIRST_PAUSE", 0.0)
    yield server
    server.stop()
    close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published folder in small."""
    from wscore.hub.checksums import write_checksums

    folder = tmp_path / "published"
    (folder / "encoder").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    (folder / "encoder/model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "encoder/config.json").write_text("{}")
    (folder / ".hidden").write_text("not for others")
    write_checksums(folder)
    return folder
