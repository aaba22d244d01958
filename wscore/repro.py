"""`make repro`: the pipeline with independent stages side by side, which `dvc repro` runs one after the other.

python -m wscore.repro [arguments of dvc repro]

Each changed stage is a `dvc repro --single-item` of its own, once those that it reads from are done; DVC's locks keep
outputs apart. Results are those of `dvc repro`, which any arguments are passed to instead.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from typing import NoReturn

import psutil

from wscore import preflight
from wscore.interrupt import INTERRUPTED, leave_on_interrupt

DVC = (sys.executable, "-m", "dvc")
Graph = Mapping[str, set[str]]


def main(arguments: Sequence[str]) -> NoReturn:
    """Check the clone and run what changed; exits with the status of the first stage that failed."""
    preflight.main()
    usual = leave_on_interrupt("repro")
    stages = {} if arguments else changed_stages()
    signal.signal(signal.SIGINT, usual)
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    try:
        if arguments:
            sys.exit(subprocess.run([*DVC, "repro", *arguments], check=False).returncode)  # noqa: S603
        if not stages:
            sys.stdout.write("Nothing has changed.\n")
        sys.exit(run_stages(stages, slots=os.cpu_count() or 1))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def changed_stages() -> Graph:
    """Return the stages that changed and those after them, each with those that it waits for; most awaited first."""
    from dvc.repo import Repo  # noqa: TID251 - the module that starts DVC
    from networkx import ancestors

    with Repo() as repo:
        graph, status = repo.index.graph, repo.status()
        changed = [stage for stage in graph if stage.addressing in status]
        waiting = set(changed).union(*(ancestors(graph, stage) for stage in changed))
        ordered = sorted(waiting, key=lambda stage: (-len(ancestors(graph, stage)), stage.addressing))
        names = {stage: stage.addressing for stage in ordered if ":" not in stage.addressing}  # studies have a colon
        return {name: {names[other] for other in graph[stage] if other in names} for stage, name in names.items()}


def run_stages(stages: Graph, slots: int) -> int:
    """Run stages, at most `slots` at once, the first of the ready ones first; nothing starts after a failure.

    Returns:
        the status of the failed stage, else 0.
    """
    sorter, status = TopologicalSorter(stages), 0
    sorter.prepare()
    ready: list[str] = []
    running: dict[Future[int], str] = {}
    with ThreadPoolExecutor(slots) as pool:
        while sorter.is_active() and not status:
            ready = sorted([*ready, *sorter.get_ready()], key=list(stages).index)
            while ready and len(running) < slots:
                stage = ready.pop(0)
                running[pool.submit(_run, stage)] = stage
            status = _collect(running, sorter)
    return status


def _collect(running: dict[Future[int], str], sorter: TopologicalSorter[str]) -> int:
    """Wait for a stage to end, mark the ended ones as done, and return the status of one that failed, else 0."""
    ended, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in ended:
        sorter.done(running.pop(future))
    return next((status for future in ended if (status := future.result())), 0)


def _run(stage: str) -> int:
    sys.stdout.write(f"{stage}: started\n")
    sys.stdout.flush()
    command = [*DVC, "--wait-for-lock", "repro", "--quiet", "--single-item", stage]
    status = subprocess.run(command, check=False).returncode  # noqa: S603
    if status:
        sys.stderr.write(f"repro: {stage} failed; `dvc repro {stage}` runs it alone\n")
    return status


def _interrupt() -> NoReturn:
    """Pass SIGTERM on as Ctrl-C, which reaches every process in a terminal."""
    for process in psutil.Process().children(recursive=True):
        process.send_signal(signal.SIGINT)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(sys.argv[1:])
