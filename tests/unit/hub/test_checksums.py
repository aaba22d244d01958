"""Published folders stay within themselves: names, links and lists of files that were tampered with are named."""

import json

import pytest

from wscore.errors import DataError, ModelError
from wscore.hub.checksums import read_checksums, verify, write_checksums
from wscore.io import read_json


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    (place / "runs").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "README.md", "runs/events"):
        (place / name).write_text(name)
    write_checksums(place)
    verify(place)
    return place


def rewrite(folder, files):
    (folder / "checksums.json").write_text(json.dumps({"format": 1, "files": files}))


@pytest.mark.parametrize(
    "name", ["../README.md", "runs/../../x", "/etc/passwd", "a//b", "./a", "..", "", "C:/x", "a\\..\\..\\b", "a\0b"]
)
def test_names_that_lead_out_are_refused(folder, name):
    rewrite(folder, {**read_checksums(folder), name: "0" * 64})
    for check in (read_checksums, verify):
        with pytest.raises(ModelError, match="names a file outside of the folder"):
            check(folder)


def test_links_out_of_the_folder_are_refused_and_those_of_the_cache_of_the_hub_are_not(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "runs" / "link").symlink_to(tmp_path / "secret")
    rewrite(folder, {**read_checksums(folder), "runs/link": "0" * 64})
    with pytest.raises(ModelError, match="is a link out of the folder"):
        verify(folder)
    cached = tmp_path / "models--me--zoo"
    (cached / "blobs").mkdir(parents=True)
    place = cached / "snapshots" / "abc"
    place.mkdir(parents=True)
    (cached / "blobs" / "1").write_text("{}")
    (place / "config.json").symlink_to("../../blobs/1")
    write_checksums(place)
    verify(place)
    (place / "other.json").symlink_to(tmp_path / "secret")
    rewrite(place, {**read_checksums(place), "other.json": "0" * 64})
    with pytest.raises(ModelError, match="is a link out of the folder"):
        verify(place)


def test_files_that_are_read_are_listed(folder):
    rewrite(folder, {})
    with pytest.raises(ModelError, match="names no file"):
        verify(folder)
    write_checksums(folder)
    (folder / "layouts.json").write_text("{}")
    with pytest.raises(ModelError, match=r"layouts\.json: is not named in checksums\.json"):
        verify(folder)
    (folder / "layouts.json").unlink()
    (folder / "notes.txt").write_text("mine")
    verify(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[", "[" * 100_000, "9" * 5000, '{"format": 1, "files": {"a": 1}}', '{"format": 1, "files": []}', "null"],
)
def test_malformed_lists_are_named(folder, text):
    (folder / "checksums.json").write_text(text)
    with pytest.raises(ModelError):
        verify(folder)


def test_json_without_bounds_is_a_named_error(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    for text in ("[" * 100_000, "9" * 5000, "\x00"):
        path.write_text(text)
        with pytest.raises(DataError, match="is not valid JSON"):
            read_json(path)
    monkeypatch.setattr("wscore.io.LARGEST_JSON", 3)
    path.write_text("[1, 2]")
    with pytest.raises(DataError, match="is too long"):
        read_json(path)


def test_every_digit_of_a_checksum_counts(folder):
    files = read_checksums(folder)
    digest = files["config.json"]
    rewrite(folder, {**files, "config.json": digest[:-1] + ("0" if digest[-1] != "0" else "1")})
    with pytest.raises((DataError, ModelError), match=r"config\.json"):
        verify(folder)
