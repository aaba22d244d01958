"""Tokens made block by block, here and in other processes: the same bytes, and what is finished is not made again."""

import os
import pickle  # noqa: TID251 as multiprocessing and Dask do
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from wscore.errors import DataError
from wscore.io import hash_folder
from wscore.parallel import Workers
from wscore.tokens import alignment
from wscore.tokens import writer as blocks
from wscore.tokens.cache import SHARDS, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[3]
CONFIG = TokensConfig(
    granularity="neuron", chunk_size=32, max_tokens=512, align="none", normalization="layer",
    unseen_widths={}, validation_fraction=0.2, test_fraction=0.3, seed=0,
)  # fmt: skip


class Near(Workers):
    """Does the work in this process as if it were another one: what it is given and returns is sent through a pickle."""

    elsewhere = True

    def map(self, function, items):
        for item in items:
            work, given = pickle.loads(pickle.dumps((function, item)))
            yield pickle.loads(pickle.dumps(work(given)))


NEAR = Near("tokens.parallel")


@pytest.fixture
def zoo(tiny_zoo, tmp_path, monkeypatch):
    """A zoo in blocks of some networks, read under a relative path as stages do."""
    monkeypatch.setattr(blocks, "BLOCK", 4000)
    monkeypatch.setattr(alignment, "TOGETHER", 2)
    monkeypatch.chdir(tmp_path)
    return Zoo(Path(os.path.relpath(tiny_zoo, tmp_path)))


@pytest.mark.parametrize("align", ["none", "weights"])
def test_shards_give_the_bytes_of_one_process_and_go_when_they_are_used(zoo, align):
    config = msgspec.structs.replace(CONFIG, align=align)
    for name, workers in (("one", Workers("here")), ("shards", NEAR)):
        build_cache(zoo, config, Path(name), workers=workers)
    assert hash_folder(Path("one")) == hash_folder(Path("shards"))
    assert not list(SHARDS.iterdir())


def test_networks_are_read_under_their_place_whatever_the_working_folder(zoo, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    reader = zoo.reader
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert np.array_equal(next(reader.stream(3, 4))[1], reader.weights([3])[0])


def test_a_bad_network_is_named_and_no_cache_is_left(zoo, monkeypatch):
    monkeypatch.setattr(blocks, "_stack", refuse)
    with pytest.raises(DataError, match="run-00000-0: is bad"):
        build_cache(zoo, CONFIG, Path("tokens"), workers=NEAR)
    assert not Path("tokens").exists()
    assert not list(Path().rglob("*.tmp"))


def refuse(_zoo, _layout, models, _vectors):
    raise DataError("is bad", where=models[0])


STOPPED = """
import time
from pathlib import Path
from tests.unit.tokens.test_writer import CONFIG, NEAR
from wscore.tokens import writer as blocks
from wscore.tokens.cache import build_cache
from wscore.zoo.store import Zoo

blocks.BLOCK = 4000
whole = blocks.write_block


def halfway(block, job, stream):
    if block.path.stem == "tokens-00001":
        stream.write(b"half of it")
        stream.flush()
        Path("reached").touch()
        while True:  # until it is killed
            time.sleep(0.05)
    return whole(block, job, stream)


blocks.write_block = halfway
build_cache(Zoo(Path({zoo!r})), CONFIG, Path("tokens"), workers=NEAR)
"""


def test_what_a_killed_run_has_finished_is_used_by_the_next_in_two_processes(zoo):
    """SIGKILL in the middle of the second shard; the next run makes the rest, and the bytes are those of one process."""
    Path("stopped.py").write_text(STOPPED.format(zoo=str(zoo.folder)), encoding="utf-8")
    process = subprocess.Popen([sys.executable, "stopped.py"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not Path("reached").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("tokens").exists()
    kept = [path for path in SHARDS.rglob("tokens-*") if not path.name.startswith(".")]
    assert sorted(path.name for path in kept) == ["tokens-00000.bin", "tokens-00000.safetensors"]
    build_cache(zoo, CONFIG, Path("one"))
    first = next(path for path in kept if path.suffix == ".bin")
    content = first.read_bytes()
    first.write_bytes(bytes(reversed(content)))  # a mark that shows it is taken as it is
    build_cache(zoo, CONFIG, Path("tokens"), workers=Workers("tokens.parallel", 2, "process"))
    mine, theirs = ((Path(name) / "tokens.npy").read_bytes() for name in ("one", "tokens"))
    assert mine.replace(content, bytes(reversed(content))) == theirs
    for name in ("normalizer.json", "index.parquet"):
        assert (Path("one") / name).read_bytes() == (Path("tokens") / name).read_bytes()
    assert not list(SHARDS.iterdir())
