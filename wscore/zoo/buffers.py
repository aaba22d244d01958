"""Masks and tables of indices of networks of others: kept beside the weights, so that state dicts can be made whole again.

They belong to the architecture and are mostly the same in all networks of a zoo: every distinct set is kept once.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wscore.io import read_tensors, write_json, write_tensors
from wscore.zoo.store import CONSTANTS

LARGEST = 1 << 26  # bytes of one set
MOST = 256  # sets


def set_key(constants: Mapping[str, Tensor]) -> str:
    """Return a hash of names, types, shapes and values; empty for none."""
    if not constants:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(constants.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def is_small(constants: Mapping[str, Tensor]) -> bool:
    """Return whether a set is small enough to be kept."""
    return sum(tensor.numel() * tensor.element_size() for tensor in constants.values()) <= LARGEST


def write_sets(path: Path, sets: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write sets by key; a shard that has none leaves no file."""
    tensors = {f"{key}/{name}": tensor.contiguous() for key, some in sets.items() for name, tensor in some.items()}
    if tensors:
        write_tensors(path, tensors)


def collect(paths: Iterable[Path], keys: Iterable[str], folder: Path) -> None:
    """Write constants.safetensors and constants.json of a zoo from the files of its shards.

    Args:
        paths: files that `write_sets` wrote, some of which may be missing.
        keys: of the networks that are kept; an empty one for a network without constants.
        folder: of the zoo.
    """
    networks = Counter(key for key in keys if key)
    if not networks:
        return
    kept: dict[str, Tensor] = {}
    listed: dict[str, Any] = {}
    for path in paths:
        for name, tensor in sorted((read_tensors(path) if path.is_file() else {}).items()):
            key, _, own = name.partition("/")
            if key in networks and (key in listed or len(listed) < MOST):
                kept[name] = tensor
                entry = listed.setdefault(key, {"networks": networks[key], "tensors": {}})
                entry["tensors"][own] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
    lost = sorted(set(networks) - set(listed))
    reason = f"larger than {LARGEST >> 20} MiB, or beyond the first {MOST} different sets"
    missing = {"sets": len(lost), "networks": sum(networks[key] for key in lost), "reason": reason if lost else ""}
    write_json(folder / "constants.json", {"kept": listed, "not_kept": missing})
    if kept:
        write_tensors(folder / CONSTANTS, kept)
