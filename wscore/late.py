"""Libraries that are imported when they are first used: commands that read a network and no table start without pandas."""

import importlib
from typing import TYPE_CHECKING, Any


class _Late:
    """Stands for a module until an attribute of it is used."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import pandas as pd
    import ruamel.yaml as ruamel_yaml
else:
    pd = _Late("pandas")
    ruamel_yaml = _Late("ruamel.yaml")
