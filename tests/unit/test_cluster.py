"""Work on a Dask cluster: a real scheduler and workers in processes of their own, one of which is killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]

HELPER = """
import os, time
from pathlib import Path


def work(item):
    folder, number = item
    if number == 0 and not Path(folder, "killed").exists():
        Path(folder, "pid.tmp").write_text(str(os.getpid()))
        Path(folder, "pid.tmp").replace(Path(folder, "pid"))
        while not Path(folder, "never").exists():  # until it is killed
            time.sleep(0.01)
    with Path(folder, f"done-{number}").open("a") as stream:
        stream.write("x")
    return number * number
"""
DRIVER = """
import sys
from helper import work
from wscore.parallel import parallel_map

folder, address = sys.argv[1:]
items = [(folder, number) for number in range(6)]
options = {"where": "zoo.parallel", "backend": "dask", "address": address}
print(list(parallel_map(work, items, 2, **options)))
"""


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
    """(address, worker processes) of a scheduler on a free port and two workers over TCP."""
    (tmp_path / "helper.py").write_text(textwrap.dedent(HELPER))
    file = tmp_path / "scheduler.json"
    scheduler = start(
        tmp_path, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
        "--scheduler-file", str(file),
    )  # fmt: skip
    wait_for(file, scheduler)
    command = ["-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny",
               "--no-dashboard", "--local-directory", str(tmp_path)]  # fmt: skip
    workers = [start(tmp_path, *command) for _ in range(2)]
    import json

    yield json.loads(file.read_text())["address"], workers
    for process in (*workers, scheduler):
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_worker_costs_its_item_only(tmp_path, cluster):
    address, workers = cluster
    assert address.startswith("tcp://")
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = start(tmp_path, "driver.py", str(tmp_path), address)
    wait_for(tmp_path / "pid", driver)
    (tmp_path / "killed").write_text("")
    pid = int((tmp_path / "pid").read_text())
    assert pid in {worker.pid for worker in workers}
    os.kill(pid, signal.SIGKILL)
    output, errors = driver.communicate(timeout=120)
    assert output.strip() == "[0, 1, 4, 9, 16, 25]", errors
    assert all((tmp_path / f"done-{number}").read_text() for number in range(6))


GENERATE = """
import sys
from pathlib import Path
import msgspec
from wscore.config import load_section
from wscore.io import hash_folder
from wscore.zoo.config import ParallelConfig, ZooConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.tasks import DataConfig

if __name__ == "__main__":
    params, address = Path(sys.argv[1]), sys.argv[2]
    config = msgspec.structs.replace(load_section(ZooConfig, "zoo", params), n_runs=4, epochs=(1, 1), checkpoints=2)
    data = msgspec.structs.replace(load_section(DataConfig, "data", params), max_train=100, max_test=50)
    for backend, where in (("serial", None), ("dask", address), ("dask", None)):
        where = ParallelConfig(backend=backend, address=where)
        out = Path(f"{backend}-{where.address is None}")
        fetch_zoo(msgspec.structs.replace(config, parallel=where), data, out)
        print(hash_folder(out))
"""


@pytest.mark.slow
def test_a_zoo_from_a_cluster_has_the_bytes_of_one_from_this_process(tmp_path, cluster):
    (tmp_path / "generate.py").write_text(GENERATE)
    process = start(tmp_path, "generate.py", str(ROOT / "params.yaml"), cluster[0])
    output, errors = process.communicate(timeout=200)
    hashes = output.split()
    assert len(hashes) == 3, errors
    assert len(set(hashes)) == 1  # in this process, on the given cluster, on one of its own


def test_a_cluster_out_of_reach_is_named(monkeypatch):
    from wscore import parallel
    from wscore.errors import WscoreError

    monkeypatch.setattr(parallel, "CONNECT_SECONDS", 0.3)
    with pytest.raises(WscoreError, match=r"zoo\.parallel: the cluster can't be reached; got tcp://127\.0\.0\.1:1:"):
        list(parallel.parallel_map(abs, [1], 1, where="zoo.parallel", backend="dask", address="tcp://127.0.0.1:1"))
