"""Zoo and representations as data sets: read by `datasets` from a folder, as a stream and from a hub, and by wscore itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.unit.hub_server import HubServer
from wscore.hub.client import download_zoo
from wscore.hub.upload import Upload, upload
from wscore.io import write_json
from wscore.publish.config import PublishConfig
from wscore.publish.dataset import write_representations, write_zoo
from wscore.publish.provenance import Provenance
from wscore.zoo.store import Zoo

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, for large files
CONFIG = PublishConfig(
    target="folder",
    parts=("encoder", "heads"),
    layout="one",
    name="digits",
    repo_id=None,
    private=True,
    license="mit",
    datasets=("zoo",),
)
ORIGIN = Provenance("abc", "def", "0123", 24, 12, (), (), {})
LOAD = """
import json, sys
from datasets import load_dataset
answers = []
for source, revision, streaming, *names in json.loads(sys.argv[1]):
    found = {}
    for name in (None, *names):
        table = load_dataset(source, name, revision=revision, streaming=streaming)
        split = table["train"]
        row = next(iter(split))
        numbers = "weights" if "weights" in row else "latent"
        found[name or "default"] = {
            "splits": sorted(table), "type": str(split.features[numbers]),
            "family": split.features["family"].int2str(row["family"]),
            "model_id": row["model_id"], numbers: row[numbers], "rows": sum(1 for _ in split),
        }
    answers.append(found)
print(json.dumps(answers))
"""


def split_by_run(zoo: Zoo) -> list[str]:
    """Return the split of each network."""
    runs = sorted(set(zoo.table["run_id"]))
    splits = dict.fromkeys(runs, "train") | {runs[0]: "validation", runs[1]: "test"}
    return [splits[run] for run in zoo.table["run_id"]]


@pytest.fixture(scope="module")
def published(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = Zoo(tiny_zoo)
    splits = dict(zip(zoo.table["model_id"], split_by_run(zoo), strict=True))
    folder = tmp_path_factory.mktemp("dataset") / "zoo"
    folder.mkdir()
    write_zoo(folder, zoo, splits, ORIGIN, CONFIG)
    return folder


@pytest.fixture
def latents(tiny_zoo: Path) -> np.ndarray:
    """Stand for what an encoder makes of each network, (n, 5)."""
    return np.random.default_rng(0).standard_normal((len(Zoo(tiny_zoo)), 5), dtype=np.float32)


@pytest.fixture
def representations(tiny_zoo: Path, latents: np.ndarray, tmp_path: Path) -> Path:
    zoo, made, folder = Zoo(tiny_zoo), tmp_path / "made", tmp_path / "representations"
    made.mkdir()
    folder.mkdir()
    table = zoo.table[["model_id", "run_id", "checkpoint"]].assign(split=split_by_run(zoo), latent=list(latents))
    table.to_parquet(made / "representations.parquet")
    write_json(made / "manifest.json", {"encoder": "of nobody"})
    write_representations(folder, made, zoo, ORIGIN, CONFIG)
    return folder


def load(cache: Path, *sources: tuple[object, ...], **env: str) -> list[dict]:
    """Return the first rows of data sets, read in a process of their own: (source, revision, streamed, *configurations)."""
    environment = {
        **os.environ,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **env,
    }
    command = [sys.executable, "-c", LOAD, json.dumps(sources)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def check(found: dict, zoo: Zoo) -> None:
    """Every row that was read is that of the zoo."""
    rows = {name: place for place, name in enumerate(zoo.table["model_id"])}
    for one in found.values():
        row = rows[one["model_id"]]
        assert one["family"] == zoo.table["family"].iloc[row]
        np.testing.assert_array_equal(np.array(one["weights"], np.float32), zoo.weights([row])[0])


def test_a_folder_is_read_and_streamed(published: Path, tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = Zoo(tiny_zoo)
    train = min((published / "rows").glob("*-train-*.parquet")).name
    config = train.partition("-train-")[0]
    sources = ((str(published), None, streamed, config) for streamed in (False, True))
    found, streamed = load(tmp_path, *sources, HF_HUB_OFFLINE="1")
    assert found["default"]["splits"] == ["test", "train", "validation"]
    assert found["default"]["rows"] == 20
    assert "length=" not in found["default"]["type"]
    assert f"length={len(found[config]['weights'])}" in found[config]["type"]
    check(found, zoo)
    assert {name: one["weights"] for name, one in streamed.items()} == {
        name: one["weights"] for name, one in found.items()
    }


def test_a_hub_serves_it_at_a_pinned_revision_and_the_cache_afterwards(
    published: Path, tiny_zoo: Path, hub: HubServer, tmp_path: Path
) -> None:
    upload([Upload("me/zoo-zoo", published, "dataset")])
    commit = hub.repositories["datasets/me/zoo-zoo"].commits[-1][0]
    found = load(tmp_path, ("me/zoo-zoo", commit, False))
    check(found[0], Zoo(tiny_zoo))
    hub.requests.clear()
    assert load(tmp_path, ("me/zoo-zoo", commit, False), HF_HUB_OFFLINE="1") == found
    assert hub.requests == []


def test_wscore_reads_it_like_any_zoo(published: Path, tiny_zoo: Path, hub: HubServer) -> None:
    upload([Upload("me/zoo-zoo", published, "dataset")])
    commit = hub.repositories["datasets/me/zoo-zoo"].commits[-1][0]
    zoo, again = Zoo(tiny_zoo), Zoo(download_zoo("me/zoo-zoo", commit))
    assert again.layouts == zoo.layouts
    first = zoo.table.sort_values("model_id", ignore_index=True)
    second = again.table.sort_values("model_id", ignore_index=True)
    assert set(first.columns) == set(second.columns)
    for name in ("family", "optimizer", "test_accuracy", "lr", "layout", "architecture", "has_conv_layers"):
        assert first[name].tolist() == second[name].tolist(), name
    rows = {name: place for place, name in enumerate(zoo.table["model_id"])}
    for place, vector in again.stream():
        np.testing.assert_array_equal(vector, zoo.weights([rows[again.table["model_id"].iloc[place]]])[0])


def test_representations_are_read_from_a_folder_and_from_a_hub_and_offline(
    representations: Path, tiny_zoo: Path, latents: np.ndarray, hub: HubServer, tmp_path: Path
) -> None:
    zoo = Zoo(tiny_zoo)
    upload([Upload("me/zoo-representations", representations, "dataset")])
    commit = hub.repositories["datasets/me/zoo-representations"].commits[-1][0]
    pinned = ("me/zoo-representations", commit, False)
    found = load(tmp_path / "cache", pinned)
    hub.requests.clear()
    offline = load(tmp_path / "cache", pinned, (str(representations), None, False), HF_HUB_OFFLINE="1")
    assert offline == 2 * found
    assert hub.requests == []
    one = found[0]["default"]
    assert one["splits"] == ["test", "train", "validation"]
    assert one["rows"] == split_by_run(zoo).count("train")
    assert "length=5" in one["type"]
    row = list(zoo.table["model_id"]).index(one["model_id"])
    assert one["family"] == zoo.table["family"].iloc[row]
    np.testing.assert_array_equal(np.array(one["latent"], np.float32), latents[row])
