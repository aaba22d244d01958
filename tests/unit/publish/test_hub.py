"""Uploads, against a hub on this machine."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from tests.unit.publish.hub_server import TOKEN, HubServer
from wscore.errors import PublishError
from wscore.publish.config import PublishConfig
from wscore.publish.hub import check_repo_id, upload


def config(repo_id: str | None = "me/zoo", *, private: bool = True) -> PublishConfig:
    return PublishConfig(name="zoo", repo_id=repo_id, private=private, license="mit")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    (tmp_path / "encoder/model.safetensors").write_bytes(b"weights")
    (tmp_path / ".hidden").write_text("not for others")
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    close_session()


def test_without_an_id_nothing_is_asked(folder: Path, hub: HubServer) -> None:
    assert upload(folder, config(None)) is None
    assert hub.requests == []


def test_everything_but_hidden_files_arrives(folder: Path, hub: HubServer) -> None:
    address = upload(folder, config())
    assert address is not None
    assert address.startswith(hub.address)
    assert hub.repositories["me/zoo"]["private"] is True
    assert hub.repositories["me/zoo"]["files"] == {
        "README.md": (folder / "README.md").read_bytes(),
        "encoder/model.safetensors": b"weights",
    }


def test_an_existing_repository_is_updated(folder: Path, hub: HubServer) -> None:
    upload(folder, config())
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# New\n")
    upload(folder, config())
    assert b"# New" in hub.repositories["me/zoo"]["files"]["README.md"]


def test_public_on_request(folder: Path, hub: HubServer) -> None:
    upload(folder, config(private=False))
    assert hub.repositories["me/zoo"]["private"] is False


@pytest.mark.parametrize(
    "repo_id", ["zoo", "me/zoo/more", "me/../zoo", "me /zoo", "-me/zoo", "me/", "https://hub/me/zoo"]
)
def test_a_malformed_id_is_refused(repo_id: str) -> None:
    with pytest.raises(PublishError, match=r"publish\.repo_id: malformed repository id; expected owner/name; got "):
        check_repo_id(repo_id)


def test_a_missing_token_is_named(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"no token.*HF_TOKEN in the environment.*local folder is whole"):
        upload(folder, config())
    assert hub.requests == []


def test_a_wrong_token_is_an_error_that_does_not_show_it(
    folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(PublishError, match=r"the upload failed.*401") as caught:
        upload(folder, config())
    assert "hf_wrong" not in str(caught.value) + caplog.text
    assert (folder / "encoder/model.safetensors").read_bytes() == b"weights"


def test_a_closed_port_is_told_at_once(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    started = time.monotonic()
    with pytest.raises(PublishError, match=r"can't be reached.*refused"):
        upload(folder, config())
    assert time.monotonic() - started < 10


def test_a_silent_server_is_given_up(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wscore.publish.hub.TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(PublishError, match="the upload failed"):
            upload(folder, config())
