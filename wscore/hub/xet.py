"""Transfers by Xet, the Hub's storage of large files, given up when its server stays silent.

The client of Xet is a compiled library with time limits of its own: requests without an answer are made again for
minutes, and an upload that is accepted and never confirmed is waited for without end. Here a transfer without progress
is cancelled, whatever it waits for.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
LOOKS = 20  # at the progress, within the longest silence


class SilentStorageError(OSError):
    """The storage of large files is silent."""


def bound_transfers(patience: Callable[[], float]) -> None:
    """Let the Hub's client give up Xet transfers without progress; a second call changes nothing.

    Args:
        patience: returns the longest silence in seconds.
    """
    from huggingface_hub.utils import _xet

    class PatientHolder(_xet.XetSessionHolder):
        """Makes sessions whose transfers are watched."""

        def get(self) -> Any:
            return _Session(super().get(), patience)

    # The client has no public place for a session of one's own.
    if type(_xet._GLOBAL_XET_HOLDER).__name__ != PatientHolder.__name__:  # noqa: SLF001
        _xet._GLOBAL_XET_HOLDER = PatientHolder()  # noqa: SLF001


class _Session:
    """A session of Xet with watched transfers."""

    def __init__(self, session: Any, patience: Callable[[], float]) -> None:
        self._session, self._patience = session, patience

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def new_upload_commit(self, **options: Any) -> "_Transfer":
        """Return a group of uploads."""
        return _Transfer(self._session.new_upload_commit, self._patience(), options)

    def new_file_download_group(self, **options: Any) -> "_Transfer":
        """Return a group of downloads."""
        return _Transfer(self._session.new_file_download_group, self._patience(), options)


class _Progress:
    """The last time that a transfer got on. It knows nothing of the transfer, which holds it and would never be freed."""

    def __init__(self, told: Callable[..., Any] | None) -> None:
        self.told, self.since, self._amounts = told, time.monotonic(), []

    def __call__(self, report: Any, items: Any) -> None:
        """Note a report, which comes whether or not something was done."""
        if (amounts := _amounts(report)) != self._amounts:
            self.since, self._amounts = time.monotonic(), amounts
        if self.told is not None:
            self.told(report, items)


class _Transfer:
    """A group of files that is waited for as long as there is progress."""

    def __init__(self, make: Callable[..., Any], patience: float, options: dict[str, Any]) -> None:
        self._patience, self._progress = patience, _Progress(options.pop("progress_callback", None))
        self._group = make(progress_callback=self._progress, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def __enter__(self) -> "_Transfer":
        self._group.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._watched(lambda: self._group.__exit__(*error))

    def wait_to_finish(self) -> Any:
        """Return what the group returns when it is done."""
        return self._watched(self._group.wait_to_finish)

    def _watched(self, wait: Callable[[], T]) -> T:
        """Return what a call returns, cancelled after a silence."""
        progress, patience = self._progress, self._patience
        progress.since, done, silent = time.monotonic(), threading.Event(), threading.Event()

        def watch() -> None:
            from huggingface_hub.utils._xet import abort_xet_session

            while not done.wait(patience / LOOKS):
                if time.monotonic() - progress.since > patience:
                    silent.set()
                    abort_xet_session()
                    return

        threading.Thread(target=watch, daemon=True).start()
        try:
            return wait()
        except (RuntimeError, OSError) as error:
            if silent.is_set():
                raise SilentStorageError(f"no answer from the storage of large files in {patience:g} s") from error
            raise
        finally:
            done.set()


def _amounts(report: Any) -> list[int]:
    """Return all counts of bytes and shards in a report, those of its rates left out."""
    parts = [report, getattr(report, "shard", None)]
    values = [getattr(part, name) for part in parts for name in dir(part) if name.startswith("total_")]
    return [value for value in values if isinstance(value, int)]
