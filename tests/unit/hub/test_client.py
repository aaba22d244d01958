import socket
import threading
from pathlib import Path

import pytest

from wscore.errors import DataError
from wscore.hub import client as hub


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "bound_waiting", lambda: None)


@pytest.fixture
def closed(monkeypatch):
    """An endpoint on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    return port


@pytest.mark.parametrize("load", [hub.load_hub_dataset, hub.download_zoo])
def test_an_endpoint_out_of_reach_is_named_after_one_bounded_try(closed, load, monkeypatch):
    tries, connect = [], socket.create_connection

    def count(address, timeout):
        tries.append((address, timeout))
        return connect(address, timeout)

    monkeypatch.setattr(socket, "create_connection", count)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the client was started"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the client was started"))
    with pytest.raises(
        DataError, match=rf"a/b: the Hub can't be reached; got http://127\.0\.0\.1:{closed}.*HF_ENDPOINT"
    ):
        load("a/b", None)
    assert tries == [(("127.0.0.1", closed), 3.0)]


def test_a_silent_network_is_given_up_after_the_probe(monkeypatch):
    waited = []

    def connect(address, timeout):
        waited.append((address, timeout))
        raise TimeoutError("timed out")

    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(DataError, match=r"https://hub\.example: timed out"):
        hub.check_reachable("a/b")
    assert waited == [(("hub.example", 443), 3.0)]


def test_offline_mode_and_proxies_are_not_probed(closed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        hub.check_reachable("a/b")
    with monkeypatch.context() as patch:
        patch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
        hub.check_reachable("a/b")
    with pytest.raises(DataError):
        hub.check_reachable("a/b")


@pytest.fixture
def listener(monkeypatch):
    """A server that answers connection by connection with the bytes in `answers`, None being silence; it counts them."""
    answers, held = [], []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for answer in answers:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(1 << 16)
                    connection.sendall(answer)
                    connection.close()

        def start(*wanted):
            answers.extend(wanted)
            threading.Thread(target=serve, daemon=True).start()
            return held

        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "ANSWERED", set())
        yield start
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


def test_an_endpoint_that_answers_anything_is_reachable_and_asked_once(listener):
    held = listener(b"HTTP/1.1 404 Not Found\r\n\r\n", None)
    hub.check_reachable("a/b")
    hub.check_reachable("a/b")  # a connection is enough now
    assert len(hub.ANSWERED) == 1
    assert len(held) <= 2


@pytest.mark.parametrize(("answer", "reason"), [(None, "timed out"), (b"", "without an answer")])
def test_an_endpoint_that_accepts_and_says_nothing_is_out_of_reach(listener, answer, reason, monkeypatch):
    assert hub.PROBE_SECONDS + hub.ANSWER_SECONDS <= 10
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.2)
    listener(answer)
    with pytest.raises(DataError, match=rf"a/b: the Hub can't be reached; got http://127\.0\.0\.1:\d+: .*{reason}"):
        hub.check_reachable("a/b")
    assert not hub.ANSWERED


@pytest.mark.parametrize("error", [FileNotFoundError("no such data set\nmore"), ValueError("no such data set")])
def test_what_the_client_raises_becomes_one_line(monkeypatch, error):
    import datasets

    def refuse(*_, **__):
        raise error

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    for load in (hub.load_hub_dataset, hub.download_zoo):
        with pytest.raises(DataError, match=r"a/b at abc: can't be loaded from the Hub; got no such data set; see"):
            load("a/b", "abc")


def test_revision_and_configuration_reach_the_client(monkeypatch):
    import datasets

    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return datasets.DatasetDict()

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets, "load_dataset", load)
    hub.load_hub_dataset("a/b", "abc", name="cropped")
    cache = str(Path(datasets.config.HF_DATASETS_CACHE, "pinned", "abc"))
    assert asked == [(("a/b", "cropped"), {"revision": "abc", "cache_dir": cache})]
