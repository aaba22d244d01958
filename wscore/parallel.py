"""Parallel map over items: serial, in worker processes, or on a Dask cluster."""

import multiprocessing
import multiprocessing.context
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from wscore.config import load_machine
from wscore.errors import WscoreError

CONNECT_SECONDS = 10
Backend = Literal["serial", "process", "dask"]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(NamedTuple):
    """Workers that process the shards of a stage.

    Attributes:
        where: name of the work, for the error if a worker dies.
        processes: maximum number of worker processes.
        backend: see `parallel_map`.
        address: of a Dask scheduler.
        shards: folder of finished shards, visible to all workers; None keeps no shards.
    """

    where: str
    processes: int = 1
    backend: Backend = "serial"
    address: str | None = None
    shards: Path | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the work runs in other processes."""
        return self.backend == "dask" or (self.backend == "process" and self.processes > 1)

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], *, in_order: bool = True
    ) -> Iterator[Result]:
        """Yield the result of each item, see `parallel_map`."""
        where = {"where": self.where, "backend": self.backend, "address": self.address}
        return parallel_map(function, items, self.processes, in_order=in_order, **where)


def workers_here(where: str, *, most: int | None = None) -> Workers:
    """Return workers by the machine settings (`wscore.config.load_machine`), at most `most` processes."""
    machine = load_machine()
    processes = machine.processes if most is None else min(most, machine.processes)
    return Workers(where, processes, machine.backend, machine.address)


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    where: str,
    in_order: bool = True,
    backend: Backend = "process",
    address: str | None = None,
) -> Iterator[Result]:
    """Yield the result of each item, computed in at most `workers` single-threaded processes.

    A single worker runs in this process, also on one thread, since the number of threads can change the last bits of a
    sum. An error, Ctrl-C, SIGTERM handled as Ctrl-C, or a consumer that stops early terminates the processes at once and
    loses unfinished items, so long-running functions should save their results to disk.

    Args:
        function: importable by name (or a `functools.partial` of such a function); it and its results are pickled.
        items: its arguments.
        workers: maximum number of processes.
        where: name of the work, for the error if a worker dies.
        in_order: whether results come in the order of the items; otherwise as they finish.
        backend: `serial` computes in this process, `process` in local processes, `dask` on the workers of a Dask
            scheduler, which need the same wscore and the same files; items of a dead worker are rescheduled.
        address: of the scheduler, such as tcp://host:8786; None starts a local one with `workers` processes.

    Raises:
        WscoreError: if a process dies, for example out of memory, or the cluster can't be reached; errors of the
            function are passed on.
    """
    if backend == "dask" and items:
        yield from _on_cluster(function, items, workers, address, where=where, in_order=in_order)
        return
    if backend == "serial" or min(workers, len(items)) <= 1:
        with one_thread():
            yield from map(function, items)
        return
    try:
        with _pool(min(workers, len(items))) as pool:
            futures = [pool.submit(function, item) for item in items]
            yield from (future.result() for future in (futures if in_order else as_completed(futures)))
    except BrokenProcessPool as error:
        fix = "run again, what is finished is kept; fewer workers (WSCORE_WORKERS) need less memory"
        raise WscoreError("a worker process died", where=where, got=f"{workers} workers", fix=fix) from error


def _on_cluster(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    address: str | None,
    *,
    where: str,
    in_order: bool,
) -> Iterator[Result]:
    try:
        from distributed import Client, KilledWorker, LocalCluster, as_completed
    except ImportError as error:
        fix = "pip install 'wscore[cluster]', or set the backend to process"
        raise WscoreError("the library for clusters is missing", where=where, got=error, fix=fix) from error
    with ExitStack() as stack:
        if address is None:
            quiet: Any = {"dashboard_address": None}
            local: Any = LocalCluster(workers, threads_per_worker=1, processes=True, **quiet)
            address = str(stack.enter_context(local).scheduler_address)
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise WscoreError("the cluster can't be reached", where=where, got=f"{address}: {reason}") from error
        futures = client.map(partial(_on_one_thread, function), list(items), pure=False)
        try:
            for future in futures if in_order else as_completed(futures, loop=client.loop):
                yield future.result()
        except KilledWorker as error:
            fix = "run again, what is finished is kept; give the workers more memory"
            raise WscoreError(
                "workers of the cluster died, one after the other", where=where, got=error, fix=fix
            ) from error
        finally:
            client.cancel(futures, force=True)


def _on_one_thread(function: Callable[[Item], Result], item: Item) -> Result:
    with one_thread():
        return function(item)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one torch thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose processes have ended when the block exits, for whatever reason."""
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker, initargs=(dict(os.environ),))
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    """Return a way to start processes: forks of one that has loaded torch and pandas, where the system has it, else new ones.

    Forks of this process could inherit the locks of its threads.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pandas"])
    return context


def _start_worker(environment: dict[str, str]) -> None:
    """Take the environment of the parent, use one thread, leave Ctrl-C to the parent, and exit when the parent dies."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
