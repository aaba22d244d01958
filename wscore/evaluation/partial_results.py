"""Long studies go on where they were interrupted: what a part of one found is kept until the whole is done."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wscore.io import read_json, write_json

Records = list[dict[str, Any]]


class Parts:
    """Rows of the parts of a study, each written as soon as it is done.

    Args:
        folder: where they are kept, of these params and data alone; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __call__(self, name: str, make: Callable[[], Records]) -> Records:
        """Return the rows of a part, made anew unless an earlier run has left them.

        Args:
            name: of the part, a file name.
            make: returns its rows, of strings and numbers.
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
        """Forget all parts, now that the result is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
