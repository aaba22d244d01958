"""Reading that is killed, stopped or runs out of disk: nothing half-written, and the next run goes on to the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from wscore.config import read_yaml
from wscore.io import hash_folder
from wscore.zoo.readers import folder as folders
from wscore.zoo.readers import ingest as intake
from wscore.zoo.readers import tables
from wscore.zoo.store import is_whole, write_part

ROOT = Path(__file__).parents[4]
NETWORKS, EACH, KILLED_AT = 12, 3, 2
DRIVER = """
import os, signal, sys
from wscore.zoo.readers import folder
from wscore.zoo.readers import ingest as intake
from wscore.zoo.readers import tables

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to Ctrl-C
folder.FILES_PER_SHARD = tables.ROWS_PER_SHARD = {each}
whole, count = intake.read_shard, [0]

def read_shard(job):
    count[0] += 1
    if count[0] > {killed_at}:  # in the middle of the next shard: one file is begun
        job.path.with_suffix(".part").write_bytes(b"PAR1 cut off")
        os.kill(os.getpid(), {number})
    return whole(job)

intake.read_shard = read_shard
from stages.fetch_zoo import main
main(["--out", "zoo", "--report", "report.csv", "--metrics", "zoo.json"])
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """`source(kind)` writes twelve networks as files or as rows of a table, and params.yaml that reads them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "FILES_PER_SHARD", EACH)
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", EACH)

    def write(kind: str) -> None:
        generator = torch.Generator().manual_seed(0)
        vectors = [torch.randn(40, generator=generator) for _ in range(NETWORKS)]
        (tmp_path / "in").mkdir()
        if kind == "folder":
            for number, vector in enumerate(vectors):
                torch.save({"fc.weight": vector.reshape(4, 10)}, tmp_path / "in" / f"{number}.pt")
        else:
            for start in range(0, NETWORKS, EACH):
                some = [vector.numpy() for vector in vectors[start : start + EACH]]
                table = pd.DataFrame({"name": [f"n{start + place}" for place in range(EACH)]})
                write_part(tmp_path / "in" / f"{start:02d}.parquet", table, some)
        write_params({"source": kind, "path": str(tmp_path / "in")}, {})

    return write


def write_params(zoo: dict, data: dict) -> None:
    """Write the defaults with some values of two sections; JSON is YAML."""
    params = read_yaml(ROOT / "params.yaml")
    params["zoo"].update(zoo)
    params["data"].update(data)
    Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")


def run(text: str) -> subprocess.CompletedProcess[str]:
    Path("driver.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WSCORE_TRACKING": "off"}
    return subprocess.run(
        [sys.executable, "driver.py"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def fetch() -> None:
    from stages.fetch_zoo import main

    main(["--out", "zoo", "--report", "report.csv", "--metrics", "zoo.json"])


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGKILL, "folder"), (signal.SIGINT, "parquet")], ids=["kill", "ctrl-c"]
)
def test_a_reading_that_is_stopped_goes_on_to_the_same_bytes(source, kind, number, monkeypatch):
    source(kind)
    stopped = run(DRIVER.format(each=EACH, killed_at=KILLED_AT, number=int(number)))
    assert stopped.returncode in (-signal.SIGKILL, 128 + 2), stopped.stderr
    assert not Path("zoo").exists()
    assert not Path("zoo.json").exists()
    shards = sorted(Path(".cache/zoo").rglob("shard-*.parquet"))
    assert len(shards) == KILLED_AT
    assert all(map(is_whole, shards))
    whole, again = intake.read_shard, []
    monkeypatch.setattr(intake, "read_shard", lambda job: again.append(job.path.name) or whole(job))
    fetch()
    assert again == ["shard-000002.parquet", "shard-000003.parquet"]
    resumed = hash_folder(Path("zoo"))
    assert not list(Path(".cache/zoo").rglob("*.parquet"))
    shutil.rmtree("zoo")
    fetch()
    assert len(again) == 2 + NETWORKS // EACH
    assert hash_folder(Path("zoo")) == resumed


def test_a_full_disk_is_one_line_and_leaves_no_zoo(source):
    """The system refuses files of more than 2,000 bytes, as it refuses any on a disk that is full."""
    source("parquet")
    limited = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from stages.fetch_zoo import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "main(['--out', 'zoo', '--report', 'report.csv', '--metrics', 'zoo.json'])\n"
    )
    stopped = run(limited)
    assert stopped.returncode == 1
    lines = [line for line in stopped.stderr.splitlines() if "fetch_zoo" in line or "Traceback" in line]
    assert len(lines) == 1, stopped.stderr
    assert "shard-000000.parquet: File too large; free some space and run again" in lines[0], lines
    assert not Path("zoo").exists()
    fetch()
    assert Path("zoo/layouts.json").is_file()


FULL = """
import resource, signal
from pathlib import Path
from stages.fetch_zoo import main as fetch
from stages.tokenize_zoo import main as tokenize

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
every = resource.getrlimit(resource.RLIMIT_FSIZE)
for stage, options, made in (
    (fetch, ["--out", "zoo", "--report", "report.csv", "--metrics", "zoo.json"], "zoo"),
    (tokenize, ["--zoo", "zoo", "--out", "tokens", "--metrics", "tokens.json"], "tokens"),
):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, every[1]))
    try:
        stage(options)
    except SystemExit as stop:
        print("STOPPED", stop)
    resource.setrlimit(resource.RLIMIT_FSIZE, every)
    print("LEFT", [str(path) for path in Path().iterdir() if made in path.name or path.suffix == ".tmp"])
    stage(options)
"""


@pytest.mark.usefixtures("source")
def test_a_full_disk_in_generation_and_tokenization_is_one_line_and_the_next_run_goes_on():
    generated = {"source": "generate", "n_runs": 24, "checkpoints": 2, "epochs": [1, 1], "families": ["mlp"]}
    write_params(generated, {"max_train": 100, "max_test": 30})
    result = run(FULL)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    stopped = [line for line in lines if line.startswith("STOPPED")]
    assert len(stopped) == 2, result.stdout
    assert all("File too large; free some space and run again" in line for line in stopped), stopped
    assert lines.count("LEFT []") == 2, result.stdout
    assert Path("zoo/layouts.json").is_file()
    assert Path("tokens/manifest.json").is_file()
