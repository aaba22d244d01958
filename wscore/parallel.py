"""The same function over many items: one after the other, or in processes of their own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch

from wscore.errors import WscoreError

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    where: str,
    in_order: bool = True,
) -> Iterator[Result]:
    """Yield the result of each item, from at most `workers` processes with one thread each.

    One worker computes in this process, on one thread too: the count of threads may change the last bits of a sum.
    An error, Ctrl-C, SIGTERM taken as Ctrl-C, or a consumer that stops early ends the processes at once; what they were
    at is lost, so that a function that takes long should keep on disk what it has done.

    Args:
        function: importable by name (a `functools.partial` of such a one will do); it and its results go through a
            pipe.
        items: its arguments.
        workers: most processes.
        where: parameter that sets the workers, for the message if one dies.
        in_order: whether results come in the order of the items; else as they are finished.

    Raises:
        WscoreError: if a process dies, for example for lack of memory; other errors of the function as they are.
    """
    if min(workers, len(items)) <= 1:
        with one_thread():
            yield from map(function, items)
        return
    try:
        with _pool(min(workers, len(items))) as pool:
            futures = [pool.submit(function, item) for item in items]
            yield from (future.result() for future in (futures if in_order else as_completed(futures)))
    except BrokenProcessPool as error:
        fix = "run again, what is finished is kept; fewer workers need less memory"
        raise WscoreError("a worker process died", where=where, got=f"{workers} workers", fix=fix) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose processes have ended when the block is left, however it is left."""
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Use one thread, leave Ctrl-C to the parent, and end when the parent has died."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
