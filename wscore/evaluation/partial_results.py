"""Stores partial results of long studies, so that an interrupted study resumes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wscore.io import read_json, write_json

Records = list[dict[str, Any]]


class Parts:
    """Rows of the parts of a study, written as soon as each part is done.

    Args:
        folder: storage specific to these params and data; None stores nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __call__(self, name: str, make: Callable[[], Records]) -> Records:
        """Return the rows of a part, from an earlier run if available, else computed.

        Args:
            name: of the part, a file name.
            make: computes its rows of strings and numbers.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_json(path, make())
        return [
            {key: float("nan") if value is None else value for key, value in row.items()} for row in read_json(path)
        ]

    def below(self, name: str) -> Path | None:
        """Return a folder for the state of one part, such as that of an interrupted training."""
        return None if self.folder is None else self.folder / name

    def remove(self) -> None:
        """Delete all parts after the final result has been written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
