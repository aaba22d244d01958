"""Networks in several files: an index (`model.safetensors.index.json`) names the file of each tensor, which lies beside it."""

from pathlib import Path

import msgspec

from wscore.networks.records import RejectedError

INDEX = (".safetensors.index.json", ".bin.index.json", ".pt.index.json", ".pth.index.json")
LARGEST_INDEX, MOST_SHARDS = 1 << 26, 10_000  # bytes, files


class ShardIndex(msgspec.Struct):
    """What is used of an index: the file of each tensor."""

    weight_map: dict[str, str]


def read_index(path: Path) -> dict[str, str]:
    """Return the name of the file of each tensor; all files lie in the folder of the index.

    Raises:
        RejectedError: if it is damaged, names no file, too many, or one elsewhere.
    """
    if path.is_symlink() or path.stat().st_size > LARGEST_INDEX:
        raise RejectedError("unreadable", "a link or too long for an index of shards")
    try:
        files = msgspec.json.decode(path.read_bytes(), type=ShardIndex).weight_map
    except (msgspec.MsgspecError, ValueError, OSError, RecursionError) as error:
        raise RejectedError("unreadable", f"no index of shards ({type(error).__name__})") from error
    names = set(files.values())
    if len(names) > MOST_SHARDS:
        raise RejectedError("too_large", f"names {len(names):,} files; at most {MOST_SHARDS:,} are read")
    for name in names:
        if Path(name).name != name or name.endswith(INDEX):
            raise RejectedError("outside", f"names {name[:80]!r}")
    if not files:
        raise RejectedError("no_checkpoint", "an index that names no shard")
    return files
