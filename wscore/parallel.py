"""The same function over many items: one after the other, or in processes of their own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch

from wscore.errors import WscoreError

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, *, where: str
) -> Iterator[Result]:
    """Yield the results in the order of the items, from at most `workers` processes with one thread each.

    One worker computes in this process, on one thread too: the count of threads may change the last bits of a sum.

    Args:
        function: importable by name; it and its results go through a pipe.
        items: its arguments.
        workers: most processes.
        where: parameter that sets the workers, for the message if one dies.

    Raises:
        WscoreError: if a process dies, for example for lack of memory; other errors of the function as they are.
    """
    if min(workers, len(items)) <= 1:
        with one_thread():
            yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_start_worker)
    try:
        yield from [future.result() for future in [pool.submit(function, item) for item in items]]
    except BrokenProcessPool as error:
        fix = "run again; fewer workers need less memory"
        raise WscoreError("a worker process died", where=where, got=f"{workers} workers", fix=fix) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start_worker() -> None:
    """Use one thread, leave Ctrl-C to the parent, and end when the parent has died."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
