"""Uploads, against a hub on this machine, with the real client over HTTP."""

import logging
import socket
from pathlib import Path

import pytest

from tests.unit.hub_server import READER, Fault, HubServer
from wscore.errors import PublishError
from wscore.hub.checksums import write_checksums
from wscore.hub.client import download
from wscore.hub.upload import Upload, check_repo_id, upload

NAME = "me/zoo"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, for large files


def push(folder: Path, *, private: bool = True) -> str:
    return upload([Upload(NAME, folder)], private=private)[0]


def content(folder: Path) -> dict[str, bytes]:
    """Return what is to arrive."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def arrived(hub: HubServer) -> dict[str, bytes]:
    return {path: data for path, data in hub.files(NAME).items() if path != ".gitattributes"}


def commits(hub: HubServer) -> int:
    return len(hub.repositories[f"models/{NAME}"].commits) - 1


def test_nothing_to_upload_asks_nothing(hub: HubServer) -> None:
    assert upload([]) == []
    assert hub.requests == []


def test_everything_but_hidden_files_arrives(folder: Path, hub: HubServer) -> None:
    assert push(folder).startswith(hub.address)
    assert hub.repositories[f"models/{NAME}"].private is True
    assert arrived(hub) == content(folder)
    assert commits(hub) == 1


def test_without_a_change_there_is_no_commit(folder: Path, hub: HubServer) -> None:
    first = push(folder)
    assert push(folder) == first
    assert commits(hub) == 1
    assert hub.count("PUT /storage") == 1


def test_a_changed_file_is_one_commit_and_what_stayed_is_not_sent_again(folder: Path, hub: HubServer) -> None:
    push(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# New\n")
    push(folder)
    assert arrived(hub) == content(folder)
    assert commits(hub) == 2
    assert hub.count("PUT /storage") == 1


def test_files_that_are_no_longer_ours_go_and_those_of_others_stay(folder: Path, hub: HubServer) -> None:
    push(folder)
    hub.repositories[f"models/{NAME}"].commits[-1][1]["notes.txt"] = b"of somebody else"
    (folder / "encoder/config.json").unlink()
    write_checksums(folder)
    push(folder)
    assert arrived(hub) == {**content(folder), "notes.txt": b"of somebody else"}


def test_a_repository_that_exists_is_used(folder: Path, hub: HubServer) -> None:
    from huggingface_hub import HfApi

    HfApi(endpoint=hub.address).create_repo(NAME, private=False)
    push(folder)
    assert hub.repositories[f"models/{NAME}"].private is False
    assert arrived(hub) == content(folder)


def test_public_on_request(folder: Path, hub: HubServer) -> None:
    push(folder, private=False)
    assert hub.repositories[f"models/{NAME}"].private is False


def test_data_sets_are_repositories_of_their_own(folder: Path, hub: HubServer) -> None:
    upload([Upload(NAME, folder), Upload("me/zoo-zoo", folder, "dataset")])
    assert set(hub.repositories) == {"models/me/zoo", "datasets/me/zoo-zoo"}


@pytest.mark.parametrize(
    "repo_id", ["zoo", "me/zoo/more", "me/../zoo", "me /zoo", "-me/zoo", "me/", "https://hub/me/zoo", "", "me/zoo.git"]
)
def test_a_malformed_id_is_refused(repo_id: str) -> None:
    with pytest.raises(PublishError, match=r"publish\.repo_id: malformed repository id; expected owner/name; got "):
        check_repo_id(repo_id)


def test_a_missing_token_is_named(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"no token.*HF_TOKEN in the environment.*local folder is complete"):
        push(folder)
    assert hub.requests == []


def test_offline_mode_is_respected(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE"):
        push(folder)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "reason"), [("hf_wrongwrongwrong", "401, the token"), (READER, "403, the token has")]
)
def test_a_refusal_is_named_and_the_token_not_shown(
    folder: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    token: str,
    reason: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    before = content(folder)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PublishError, match=rf"publish\.repo_id=me/zoo: the upload failed; got {reason}") as caught:
        push(folder)
    assert token not in str(caught.value) + caplog.text
    assert content(folder) == before


@pytest.mark.parametrize(
    ("request_", "how"),
    [
        ("POST /api/repos/create", 500), ("POST /api/repos/create", "cut"), ("preupload", 503), ("preupload", "cut"),
        ("lfs/objects/batch", 429), ("PUT /storage", 500), ("PUT /storage", "cut"), ("commit/main", 429),
        ("resolve/main/checksums.json", 500),
    ],
)  # fmt: skip
def test_an_error_that_passes_is_got_over(folder: Path, hub: HubServer, request_: str, how: int | str) -> None:
    hub.faults = [Fault(request_, how)]
    push(folder)
    assert arrived(hub) == content(folder)


@pytest.mark.parametrize(("how", "reason"), [(500, "500"), (429, "429, too many requests"), ("cut", ".")])
def test_an_error_that_stays_is_told_once(folder: Path, hub: HubServer, how: int | str, reason: str) -> None:
    hub.faults = [Fault("POST /api/repos/create", how, times=None)]
    before = content(folder)
    with pytest.raises(PublishError, match=rf"the upload failed; got .*{reason}"):
        push(folder)
    assert hub.count("POST /api/repos/create") == 4
    assert content(folder) == before


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(folder: Path, hub: HubServer) -> None:
    hub.faults = [Fault("preupload", 429, times=None, headers={"Retry-After": "3600"})]
    with pytest.raises(PublishError, match="429, the Hub asks to wait for 3,600 s"):
        push(folder)
    assert hub.count("preupload") == 1


def test_an_interrupted_upload_goes_on_where_it_was(folder: Path, hub: HubServer) -> None:
    (folder / "decoder.safetensors").write_bytes(b"more weights")
    write_checksums(folder)
    hub.faults = [Fault("commit/main", 403)]
    with pytest.raises(PublishError, match="403"):
        push(folder)
    assert hub.count("PUT /storage") == 2
    push(folder)
    assert hub.count("PUT /storage") == 2
    assert arrived(hub) == content(folder)


def test_a_closed_port_is_told_at_once(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(PublishError, match=r"can't be reached.*refused"):
        push(folder)


@pytest.mark.parametrize("request_", ["POST /api/repos/create", "preupload", "PUT /storage", "commit/main"])
def test_a_silent_server_is_given_up_at_once(
    folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    """One wait, not the six of the client; the published folder stays as it was."""
    monkeypatch.setattr("wscore.hub.client.SILENCE_SECONDS", 0.3)
    before = content(folder)
    hub.faults = [Fault(request_, "silent", times=None)]
    with pytest.raises(PublishError, match=r"the upload failed; got no answer from 127\.0\.0\.1"):
        push(folder)
    assert hub.count(request_) == 1
    assert content(folder) == before


def test_large_files_go_by_http_where_xet_is_offered(
    folder: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of Xet has no timeout setting."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.xet = tmp_path / "xet"
    hub.know(folder)
    push(folder)
    assert content(download(NAME, None)) == content(folder)
    assert hub.count("PUT /storage") == 1
    assert hub.count("GET .*xet-") == 0
