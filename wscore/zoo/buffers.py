"""Constant buffers of imported networks (masks, index tables), stored with the zoo so that state dicts can be completed.

They belong to the architecture and are usually shared by all networks of a zoo, so each distinct set is stored once.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wscore.io import read_tensors, write_json, write_tensors
from wscore.zoo.store import CONSTANTS

LARGEST = 1 << 26  # bytes per set
MOST = 256  # maximum number of sets


def set_key(constants: Mapping[str, Tensor]) -> str:
    """Return a hash of names, dtypes, shapes and values; empty if there are no constants."""
    if not constants:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(constants.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_sets(path: Path, sets: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write sets by key, except for those larger than `LARGEST`; writes no file if there are none."""
    sets = {key: named for key, named in sets.items() if sum(tensor.nbytes for tensor in named.values()) <= LARGEST}
    tensors = {f"{key}/{name}": tensor.contiguous() for key, named in sets.items() for name, tensor in named.items()}
    if tensors:
        write_tensors(path, tensors)


def collect(paths: Iterable[Path], keys: Iterable[str], folder: Path) -> None:
    """Write constants.safetensors and constants.json of a zoo from the files of its shards.

    Args:
        paths: files written by `write_sets`; some may be missing.
        keys: of the kept networks; empty for a network without constants.
        folder: of the zoo.
    """
    networks = Counter(key for key in keys if key)
    if not networks:
        return
    tensors: dict[str, Tensor] = {}
    listed: dict[str, Any] = {}
    for path in paths:
        for name, tensor in sorted((read_tensors(path) if path.is_file() else {}).items()):
            key, _, tensor_name = name.partition("/")
            if key in networks and (key in listed or len(listed) < MOST):
                tensors[name] = tensor
                entry = listed.setdefault(key, {"networks": networks[key], "tensors": {}})
                entry["tensors"][tensor_name] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
    lost = sorted(set(networks) - set(listed))
    reason = f"larger than {LARGEST >> 20} MiB, or beyond the first {MOST} different sets"
    missing = {"sets": len(lost), "networks": sum(networks[key] for key in lost), "reason": reason if lost else ""}
    write_json(folder / "constants.json", {"kept": listed, "not_kept": missing})
    if tensors:
        write_tensors(folder / CONSTANTS, tensors)
