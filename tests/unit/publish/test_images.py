"""Images of networks from a hub on this machine: pinned, cached, and offline afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.hub_server import HubServer
from wscore.hub.checksums import write_checksums
from wscore.hub.upload import Upload, upload

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, for large files
LOAD = """
import json, sys
from wscore.errors import DataError
from wscore.networks.images import ImagesConfig, load_images
answers = []
for revision in sys.argv[1:]:
    name, _, pinned = revision.partition("@")
    options = dict.fromkeys(("root", "size", "max_train", "max_test", "normalize"))
    config = ImagesConfig(dataset=name, revision=pinned or None, **options)
    try:
        found = load_images(config)
    except DataError as error:
        answers.append(str(error))
        continue
    parts = (found.x_train, found.y_train, found.x_test, found.y_test)
    answers.append([(part.double() * (255 if part.is_floating_point() else 1)).round().tolist() for part in parts])
print(json.dumps(answers))
"""


def write(folder: Path, seed: int) -> list[np.ndarray]:
    """Write 20 training and 10 test images of 4 x 4 as a data set; returns images and labels of both parts."""
    rng, content = np.random.default_rng(seed), []
    folder.mkdir()
    for part, count in (("train", 20), ("test", 10)):
        images = rng.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        labels = np.arange(count) % 10
        encoded = [{"bytes": png(image), "path": None} for image in images]
        table = pa.table({"image": encoded, "label": labels})
        info = {"features": {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": info})})
        pq.write_table(table, folder / f"{part}-00000-of-00001.parquet")
        content += [images[:, None], labels]
    write_checksums(folder)
    return content


def png(image: np.ndarray) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def load(cache: Path, *sources: str, **env: str) -> list:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **env}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    command = [sys.executable, "-c", LOAD, *sources]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_images_are_those_of_the_pinned_revision_and_stay_there_offline(hub: HubServer, tmp_path: Path) -> None:
    pictures = write(tmp_path / "first", 0)
    upload([Upload("me/images", tmp_path / "first", "dataset")])
    commit = hub.repositories["datasets/me/images"].commits[-1][0]
    write(tmp_path / "second", 1)
    upload([Upload("me/images", tmp_path / "second", "dataset")])
    pinned, wrong = f"me/images@{commit}", f"me/images@{'9' * 40}"
    found, newest, *rejected = load(tmp_path / "cache", pinned, "me/images", "me/nothing@abc", wrong)
    assert newest[0] != found[0]
    for part, expected in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(np.array(part), expected)
    for source, message in zip(("me/nothing at abc", f"me/images at {'9' * 40}"), rejected, strict=True):
        assert message.startswith(f"{source}: can't be loaded from the Hub; got ")
        assert "\n" not in message
    hub.requests.clear()
    offline, never, missing = load(tmp_path / "cache", pinned, wrong, "me/nothing@abc", HF_HUB_OFFLINE="1")
    assert offline == found
    assert never.startswith(f"me/images at {'9' * 40}: can't be loaded from the Hub; got ")
    assert missing.startswith("me/nothing at abc: can't be loaded from the Hub; got ")
    assert hub.requests == []
