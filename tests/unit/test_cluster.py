"""Work on a Dask cluster: a real scheduler and workers in processes of their own, one of which is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]


def start(folder, *command):
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    environment |= {"DASK_DISTRIBUTED__WORKER__DAEMON": "False", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "20s"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    while not path.exists():
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(process.stderr.read())


@pytest.fixture
def cluster(tmp_path):
    """(address, worker processes) of a scheduler on a free port and two workers over TCP, one of which will stall."""
    (tmp_path / "preload.py").write_text(STALL)
    file = tmp_path / "scheduler.json"
    scheduler = start(
        tmp_path, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
        "--scheduler-file", str(file),
    )  # fmt: skip
    wait_for(file, scheduler)
    command = ["-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny",
               "--no-dashboard", "--preload", "preload.py", "--local-directory", str(tmp_path)]  # fmt: skip
    workers = [start(tmp_path, *command) for _ in range(2)]
    yield json.loads(file.read_text())["address"], workers
    for process in (*workers, scheduler):
        process.kill()
        process.communicate()


GENERATE = """
import sys
from pathlib import Path
import msgspec
from wscore.config import load_section
from wscore.io import hash_folder
from wscore.zoo.config import ZooConfig
from wscore.zoo.sources import fetch_zoo
from wscore.networks.datasets import DataConfig

if __name__ == "__main__":
    params = Path(sys.argv[1])
    config = msgspec.structs.replace(load_section(ZooConfig, "zoo", params), n_runs=4, epochs=(1, 1), checkpoints=2)
    data = msgspec.structs.replace(load_section(DataConfig, "data", params), max_train=100, max_test=50)
    for number, settings in enumerate(("backend: serial", "backend: dask\\nworkers: 2")):
        Path("machine.yaml").write_text(settings)
        out = Path(str(number))
        fetch_zoo(config, data, out)
        print(hash_folder(out))
"""


@pytest.mark.slow
def test_a_zoo_from_a_cluster_of_this_machine_has_the_bytes_of_one_from_this_process(tmp_path):
    (tmp_path / "generate.py").write_text(GENERATE)
    process = start(tmp_path, "generate.py", str(ROOT / "params.yaml"))
    output, errors = process.communicate(timeout=200)
    hashes = output.split()
    assert len(hashes) == 2, errors
    assert hashes[0] == hashes[1]


STALL = """
import os, time
from pathlib import Path
from wscore.tokens import writer as blocks

whole = blocks.write_block if not hasattr(blocks, "whole") else blocks.whole  # loaded twice by a worker
blocks.whole = whole


def stalled(block, job, stream):
    try:
        Path("one").touch(exist_ok=False)  # one worker, once
    except FileExistsError:
        return whole(block, job, stream)
    stream.write(b"half of it")
    Path("pid.tmp").write_text(str(os.getpid()))
    Path("pid.tmp").replace("pid")
    while True:  # until it is killed
        time.sleep(0.01)


blocks.write_block = stalled
"""
TOKENIZE = """
import sys
from pathlib import Path
import msgspec
from wscore.config import load_section
from wscore.io import hash_folder
from wscore.parallel import Workers
from wscore.tokens import alignment
from wscore.tokens import writer as blocks
from wscore.tokens.cache import build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

zoo, params, address = Zoo(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
blocks.BLOCK, alignment.TOGETHER = 4000, 2
config = load_section(TokensConfig, "tokens", params)
for name, workers in (("serial", Workers("tokens")), ("dask", Workers("tokens", 2, "dask", address))):
    build_cache(zoo, config, Path(name), workers=workers)
    print(hash_folder(Path(name)))
"""


@pytest.mark.slow
def test_tokens_from_a_cluster_that_loses_a_worker_have_the_bytes_of_one_process(tmp_path, cluster, tiny_zoo):
    (tmp_path / "tokenize_it.py").write_text(TOKENIZE)
    driver = start(tmp_path, "tokenize_it.py", str(tiny_zoo), str(ROOT / "params.yaml"), cluster[0])
    wait_for(tmp_path / "pid", driver)
    pid = int((tmp_path / "pid").read_text())
    assert pid in {worker.pid for worker in cluster[1]}
    os.kill(pid, signal.SIGKILL)
    output, errors = driver.communicate(timeout=100)
    hashes = output.split()
    assert len(hashes) == 2, errors
    assert hashes[0] == hashes[1]
    assert not list((tmp_path / ".cache/tokens").iterdir())


def test_a_cluster_out_of_reach_is_named(monkeypatch):
    from wscore import parallel
    from wscore.errors import WscoreError

    monkeypatch.setattr(parallel, "CONNECT_SECONDS", 0.3)
    with pytest.raises(WscoreError, match=r"zoo: the cluster can't be reached; got tcp://127\.0\.0\.1:1:"):
        list(parallel.parallel_map(abs, [1], 1, where="zoo", backend="dask", address="tcp://127.0.0.1:1"))
