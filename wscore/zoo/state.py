"""The state dict of a network, in whatever form it is given."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from wscore.errors import DataError
from wscore.networks.checkpoints import LARGEST, read_network
from wscore.networks.records import RejectedError
from wscore.networks.selection import only, select_all

EXPECTED = "a module, a state dict, a checkpoint file, or one network of a zoo: zoo[0] or 'data/zoo#MODEL_ID'"


def state_of(network: object) -> dict[str, Tensor]:
    """Return the state dict of a network.

    Args:
        network: a module; a state dict of tensors or arrays; a checkpoint that holds one; the path of a checkpoint file;
            or `ZOO#MODEL_ID`.

    Raises:
        DataError: saying what was expected, if it is something else, or a file that can't be read.

    >>> list(state_of(nn.Linear(2, 1)))
    ['weight', 'bias']
    >>> state_of(Tensor([1, 2, 3]))
    Traceback (most recent call last):
    ...
    wscore.errors.DataError: network: is not a network; expected a module, a state dict, a checkpoint file, or one network of \
a zoo: zoo[0] or 'data/zoo#MODEL_ID'; got a tensor (3,)
    """
    if isinstance(network, nn.Module):
        return dict(network.state_dict())
    if isinstance(network, str | Path):
        return _read(str(network))
    if not isinstance(network, Mapping):
        raise DataError("is not a network", where="network", expected=EXPECTED, got=described(network))
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in network.items()):
        return dict(network)
    try:
        return only(select_all(network, key=None, most=LARGEST)).state
    except RejectedError as error:
        raise DataError("holds no network", where="network", expected=EXPECTED, got=error.detail) from error


def described(value: object) -> str:
    """Return what a value is, in a few words for an error."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} {tuple(value.shape)}"
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def history_of(history: Any) -> list[Any]:
    """Return the snapshots of one network as a list.

    Raises:
        DataError: if they are no sequence of networks.
    """
    single = isinstance(history, Mapping | str | Path | nn.Module | Tensor | np.ndarray)
    if single or not isinstance(history, Iterable):
        expected = "a list of networks, oldest first"
        raise DataError("is no history of a network", where="history", expected=expected, got=described(history))
    return list(history)


def _read(text: str) -> dict[str, Tensor]:
    from wscore.zoo.store import Zoo

    folder, mark, name = text.rpartition("#")
    if mark and not Path(text).exists():
        return Zoo(folder).state_dict(Zoo(folder).row_of(name))
    if not Path(text).is_file():
        raise DataError("no such file", where=text, expected=EXPECTED)
    return read_network(Path(text)).state
