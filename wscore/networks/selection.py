"""Which networks a checkpoint holds: found by its nesting, its tensors and whole words of names.

A part is a mapping with tensors somewhere inside. Parts of an optimizer and random states go; an average (EMA, target,
teacher) goes where the network that it averages is beside it, and a copy where its weights are equal. What is left is
one network in several parts, which are joined, or, if all of them are state dicts with twins, several networks.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wscore.errors import printable
from wscore.networks.naming import native, plain_names, tensor_order
from wscore.networks.pickles import Stub
from wscore.networks.records import RejectedError
from wscore.networks.reparametrised import check_not_quantised, effective

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params", "weights")
COLLECTIONS = ("params", "batch_stats", "state")  # of one network as flax keeps them
OUTER = ("state_dict", "model_state_dict", "params")  # first words of flat names that are no module's
OPTIMIZERS = {"optim", "optims", "optimizer", "optimizers", "optimiser", "optimisers"}
LIKELY = {"opt", "scheduler", "schedulers", "sched", "grad", "grads", "gradients", "callback", "callbacks", "loops"}
MOMENTS = {
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "exp_inf", "grad_avg",
    "adam", "adam_1", "momentum", "rmsprop", "rmsprop_1",
}  # fmt: skip
REPLAYS = {"replay", "replays", "rollouts"}  # what an agent has seen
AVERAGES = {"ema", "swa", "avg", "average", "averaged", "target", "teacher", "momentum", "polyak", "shadow"}
MEMBERS = re.compile(r"(?:seed|member|model|net|network|run|fold|replica|agent|particle)_?\d+", re.IGNORECASE)
SETTINGS = {
    "hyper_parameters", "hparams", "args", "train_args", "training_args", "config", "cfg", "options", "opt", "opts", "metrics",
    "history",
}  # fmt: skip
DEEPEST, MOST_NODES = 24, 200_000
MOST_FACTS = 256  # settings of one checkpoint that become columns
AVERAGE, COPY = "an average of the network beside it", "a copy of the network beside it"
Scalar = bool | int | float | str


class Checkpoint(NamedTuple):
    """One network in a file.

    Attributes:
        state: floating-point tensors and counters (one integer) by name, in canonical order.
        notes: numbers and texts beside them, such as epoch and accuracy; settings are nested mappings.
        constants: masks and tables of indices by name: buffers that belong to the architecture and are no weights.
        key: dotted place of the network in the file; empty for all of it.
        left_out: places of averages and copies that are not part of it, and which of the two they are.
        memory: places of optimizers, schedules, replay buffers and random states.
        stubbed: full names of the objects in the file that were not made.
    """

    state: dict[str, Tensor]
    notes: dict[str, Any]
    constants: dict[str, Tensor]
    key: str = ""
    left_out: Mapping[str, str] = MappingProxyType({})
    stubbed: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()


class _Choice(NamedTuple):
    """A network before its tensors are collected."""

    key: str
    content: Any
    notes: dict[str, Any]
    left_out: dict[str, str]
    memory: tuple[str, ...] = ()


class _Parts(NamedTuple):
    """The entries of a container with tensors inside.

    Attributes:
        kept: parts of networks.
        left_out: names of averages and copies beside them, and which of the two they are.
        memory: names of optimizers, schedules, replay buffers and random states.
    """

    kept: dict[str, Any]
    left_out: dict[str, str]
    memory: list[str]


def only(networks: Sequence[Checkpoint]) -> Checkpoint:
    """Return the single network of a file.

    Raises:
        RejectedError: if there are several.
    """
    if len(networks) > 1:
        places = ", ".join(network.key for network in networks[:6])
        raise RejectedError("no_checkpoint", f"{len(networks)} networks ({places}); name one by its key")
    return networks[0]


def select_all(content: Any, *, key: str | None, most: int) -> list[Checkpoint]:
    """Return the networks in what was read from a file, in plain names and canonical order.

    Args:
        content: nested mappings, lists, tensors and numbers.
        key: dotted place of the network; `*` stands for every entry of a mapping or list; None finds it.
        most: largest count of numbers in a network.

    Raises:
        RejectedError: if there is none, its tensors are not real numbers, or they are more than `most`.
    """
    chosen: list[_Choice] = []
    for place, value, notes in _named(content, key):
        if _is_optimizer(value) and not set(WRAPPERS) & set(map(str, value)):
            raise RejectedError("no_checkpoint", "the state of an optimizer")
        chosen += [_Choice(place, value, notes, {})] if _is_plain(value) else _choose(value, place, notes)
    if not chosen:
        kind = printable(content.name) if isinstance(content, Stub) else type(content).__name__
        raise RejectedError("no_checkpoint", f"{kind} without tensors by name")
    return [_checkpoint(choice, most) for choice in chosen]


def is_weight(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is a weight or a counter; masks and tables of indices are constants of the architecture."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
        raise RejectedError("not_real", f"{name}: {tensor.dtype}, {tensor.layout}")
    if not tensor.is_floating_point():
        return tensor.numel() == 1
    leaf = name.rpartition(".")[2]
    if leaf == "bias" and tensor.ndim > 1:  # the causal mask of GPT-2; other biases of several axes are learned
        square = tensor.shape[-1] > 1 and tensor.shape[-1] == tensor.shape[-2]
        return not square or not torch.equal(corner := _corner(tensor), torch.ones_like(corner).tril())
    if "mask" not in leaf or "token" in leaf or (tensor.ndim < 2 and tensor.numel() > 1):
        return True
    values = torch.unique(_corner(tensor))
    return len(values) > 2 or not bool(((values == 0) | (values == 1) | (values <= -1e4)).all())


def _corner(tensor: Tensor) -> Tensor:
    """Return the first rows and columns of a mask, which say what it is."""
    return tensor.detach()[..., :64, :64].float() if tensor.ndim > 1 else tensor.detach().float()


def _checkpoint(choice: _Choice, most: int) -> Checkpoint:
    flat, dropped = _without_moments(dict(_flat(choice.content)))
    state = effective(plain_names(_outer_removed(flat, bool(dropped))))
    count = sum(tensor.numel() for tensor in state.values())
    if count > most:
        raise RejectedError("too_large", f"{count:,} numbers")
    check_not_quantised(state)
    weights = {name: tensor for name, tensor in state.items() if is_weight(name, tensor)}
    if not any(tensor.is_floating_point() and tensor.numel() for tensor in weights.values()):
        raise RejectedError("no_checkpoint", f"no floating-point tensors among {sorted(state)[:6]}")
    names = sorted(weights, key=tensor_order)
    constants = {name: state[name] for name in sorted(state.keys() - weights.keys(), key=tensor_order)}
    averages = {name: AVERAGE for name in dropped if _words(name) & AVERAGES}
    memory = (*choice.memory, *(name for name in dropped if name not in averages))
    state, left_out = {name: weights[name] for name in names}, {**choice.left_out, **averages}
    return Checkpoint(state, choice.notes, constants, choice.key, left_out, memory=memory)


def _named(content: Any, key: str | None) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield what lies under a dotted key, with its place and the notes on the way."""
    places: list[tuple[str, Any, dict[str, Any]]] = [("", _nested(content), {})]
    for level in key.split(".") if key is not None else ():
        further = []
        for place, value, notes in places:
            entries = dict(_entries(value))
            chosen = [name for name in entries if level in (name, "*")]
            if level == "*":
                chosen = [name for name in chosen if any(True for _ in _flat(entries[name]))]
            if not chosen:
                known = sorted(entries)[:8] if entries else type(value).__name__
                raise RejectedError("no_checkpoint", f"zoo.reading.state_key {key!r} is not there, but {known}")
            more = {**notes, **_notes(value)}
            further += [(f"{place}.{name}" if place else name, _nested(entries[name]), more) for name in chosen]
        places = further
    yield from places


def _choose(content: Any, key: str, notes: dict[str, Any]) -> list[_Choice]:
    """Return the networks in a part of a checkpoint."""
    left_out: dict[str, str] = {}
    memory: tuple[str, ...] = ()
    for _ in range(DEEPEST if isinstance(content, Mapping | list | tuple) else 0):
        content = _nested(content)
        notes = {**_notes(content), **notes}
        parts, dropped, used = _parts(content)
        left_out |= {f"{key}.{name}" if key else name: why for name, why in dropped.items()}
        memory = (*memory, *(f"{key}.{name}" if key else name for name in used))
        direct = {name: item for name, item in _entries(content) if _tensor(name, item) is not None}
        if isinstance(content, list | tuple) and direct:
            return []
        if any(_is_floating(item) for item in direct.values()) or not parts:
            return [_Choice(key, {**direct, **parts}, notes, left_out, memory)] if direct or parts else []
        if len(parts) > 1:
            if not _are_networks(parts):
                return [_Choice(key, parts, notes, left_out, memory)]
            inner = [_choose(part, f"{key}.{name}" if key else name, notes) for name, part in parts.items()]
            choices = [choice for members in inner for choice in members]
            return [c._replace(left_out=left_out | c.left_out, memory=memory + c.memory) for c in choices]
        name = next(iter(parts))
        if key.rpartition(".")[2] in WRAPPERS and name not in WRAPPERS and not _is_state_dict(parts[name]):
            return [_Choice(key, parts, notes, left_out, memory)]  # a network of one layer
        content, key = parts[name], f"{key}.{name}" if key else name
    return []


def _is_plain(content: Any) -> bool:
    """Return whether a container is a flat mapping of tensors, as most state dicts are, which need no search."""
    if type(content) is not dict or not all(isinstance(item, Tensor) for item in content.values()):
        return False
    return any(map(_is_floating, content.values())) and not any("/" in str(name) for name in content)


def _parts(content: Any) -> _Parts:
    """Return the parts of networks among the entries of a container, and the averages, copies and memory beside them."""
    parts = {name: _nested(item) for name, item in _entries(content) if isinstance(item, Mapping | list | tuple)}
    parts = {name: part for name, part in parts.items() if name.lower() not in SETTINGS} or parts
    memory = [name for name, part in parts.items() if _is_memory(name, part)]
    callbacks = [place for name in memory if "callbacks" in _words(name) for place in _state_dicts(name, parts[name])]
    left_out = dict.fromkeys(callbacks, AVERAGE)
    parts = {name: part for name, part in parts.items() if name not in memory and any(True for _ in _flat(part))}
    kept: dict[str, Any] = {}
    shapes = {name: _shapes(part) for name, part in parts.items()}
    for name in sorted(parts, key=lambda name: bool(_words(name) & AVERAGES)):
        twins = [other for other in kept if shapes[other] == shapes[name]]
        if _words(name) & AVERAGES and twins:
            left_out[name] = AVERAGE
        elif _is_state_dict(parts[name]) and any(_are_equal(parts[name], kept[other]) for other in twins):
            left_out[name] = COPY
        else:
            kept[name] = parts[name]
    return _Parts({name: part for name, part in parts.items() if name in kept}, left_out, memory)


def _state_dicts(place: str, part: Any, depth: int = 0) -> Iterator[str]:
    """Yield the places of state dicts in the states of callbacks, which keep averages of the network."""
    for name, item in _entries(part):
        if isinstance(item, Mapping) and not isinstance(item, Stub) and depth < 3:
            yield from [f"{place}.{name}"] if _is_state_dict(item) else _state_dicts(f"{place}.{name}", item, depth + 1)


def _are_networks(parts: Mapping[str, Any]) -> bool:
    """Return whether parts are several networks: each is a state dict, and has a twin of the same names and shapes."""
    separate = all(_is_state_dict(part) or _is_member(name, part) for name, part in parts.items())
    twins = Counter(frozenset(_shapes(part).items()) for part in parts.values())
    return separate and min(twins.values()) > 1


def _is_state_dict(part: Any) -> bool:
    """Return whether a part is a flat mapping from dotted names to tensors, or wraps one."""
    if not isinstance(part, Mapping):
        return False
    if any(name in WRAPPERS and isinstance(item, Mapping) for name, item in _entries(part)):
        return True
    names = [name for name, item in _entries(part) if _tensor(name, item) is not None]
    return any("." in name for name in names) and not any(isinstance(item, Mapping) for _, item in _entries(part))


def _is_member(name: str, part: Any) -> bool:
    """Return whether a part is named as a member of an ensemble, and is more than a layer."""
    layers = isinstance(part, Mapping) and sum(isinstance(item, Mapping) for item in part.values()) > 1
    return layers and MEMBERS.fullmatch(name) is not None


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Mapping) and {"state", "param_groups"} <= set(map(str, value))


def _is_memory(name: str, part: Any) -> bool:
    """Return whether a part belongs to an optimizer, a schedule, a callback, a replay buffer or a random generator."""
    return _is_optimizer(part) or _is_memory_of(name, lambda: _flat(part))


def _is_memory_of(name: str, tensors: Callable[[], Iterable[tuple[str, Tensor]]]) -> bool:
    """Return the same of a part whose tensors, with their places in it, a function returns."""
    words = _words(name)
    if words & (OPTIMIZERS | REPLAYS) or words >= {"opt", "state"} or name.lower() in MOMENTS:
        return True
    if all(tensor.numel() < 2 or not tensor.is_floating_point() for _, tensor in tensors()):
        return bool(words & LIKELY) or "rng" in words
    if words & {"callback", "callbacks", "loops", "grads", "gradients"}:
        return True
    return all(tensor.numel() < 2 or _moment(place) for place, tensor in tensors())


@lru_cache(maxsize=1 << 16)  # names recur from file to file
def _moment(name: str) -> bool:
    return any(word.lower() in MOMENTS for word in name.split("."))


@lru_cache(maxsize=1 << 16)  # names recur from file to file
def _words(name: str) -> frozenset[str]:
    """Return the words of a name: `netG_EMA` has net, g and ema."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))


def _without_moments(flat: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return flat names without those of an optimizer, and without averages of the network beside them."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = tensor
    dropped = [first for first, tensors in groups.items() if "" not in tensors and _is_memory_of(first, tensors.items)]
    averages = [first for first in groups if _words(first) & AVERAGES]
    sizes = {first: _sizes(tensors) for first, tensors in groups.items()} if averages else {}
    networks = [sizes[first] for first in groups if first not in averages] if averages else []
    dropped += [first for first in averages if sizes[first] and sizes[first] in networks]
    kept = {name: t for name, t in flat.items() if name.partition(".")[0] not in dropped and not _moment(name)}
    return (kept, dropped) if kept else (dict(flat), [])


def _sizes(tensors: Mapping[str, Tensor]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tensor.shape) for tensor in tensors.values() if tensor.numel() > 1)


def _outer_removed(flat: Mapping[str, Tensor], had_more: bool) -> dict[str, Tensor]:
    """Return flat names without a common first word; flax's collections become one."""
    firsts = {name.partition(".")[0] for name in flat}
    dotted = all("." in name for name in flat)
    wrapped = len(firsts) == 1 and firsts <= set(WRAPPERS if had_more else OUTER)
    if dotted and (wrapped or ("params" in firsts and firsts <= set(COLLECTIONS))):
        renamed = [name.partition(".")[2] for name in flat]
        if len(set(renamed)) == len(renamed):
            return dict(zip(renamed, flat.values(), strict=True))
    return dict(flat)


def _nested(content: Any) -> Any:
    """Return a flat mapping whose names are paths with slashes as nested mappings."""
    if not isinstance(content, Mapping) or not any(isinstance(name, str) and "/" in name for name in content):
        return content
    root: dict[str, Any] = {}
    for name, item in content.items():
        *path, leaf = [level for level in str(name).split("/") if level] or [str(name)]
        place = root
        for level in path:
            inner = place.setdefault(level, {})
            if not isinstance(inner, dict):
                raise RejectedError("clash", f"{name}: {level} is a tensor and a group")
            place = inner
        if leaf in place:
            raise RejectedError("clash", str(name))
        place[leaf] = item
    return root


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a mapping or list by name or number."""
    if isinstance(content, Stub) and not content and content.entries:
        content = content.entries
    if isinstance(content, Mapping):
        yield from ((str(name), item) for name, item in content.items())
    elif isinstance(content, list | tuple):
        yield from ((str(place), item) for place, item in enumerate(content))


def _flat(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors in nested mappings and lists with dotted names; what belongs to an optimizer is left out."""
    stack: list[tuple[str, str, Any, int]] = [("", "", content, 0)]
    seen = 0
    while stack:
        prefix, name, value, depth = stack.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_NODES:
            raise RejectedError("too_large", f"nested deeper than {DEEPEST} or in more than {MOST_NODES:,} parts")
        tensor = _tensor(name, value)
        if tensor is not None:
            yield prefix or "weights", tensor
        elif isinstance(value, Mapping | list | tuple) and not _is_settings(value) and not _is_skipped(name, value):
            inner = [(f"{prefix}.{key}" if prefix else key, key, item, depth + 1) for key, item in _entries(value)]
            stack.extend(reversed(inner))


def _is_skipped(name: str, value: Any) -> bool:
    """Return whether a container belongs to an optimizer, without reading its tensors."""
    return bool(name) and (_is_optimizer(value) or bool(_words(name) & OPTIMIZERS) or name.lower() in MOMENTS)


def _is_settings(value: Any) -> bool:
    """Return whether a list holds plain numbers or texts alone, as settings and histories do."""
    return isinstance(value, list | tuple) and all(item is None or isinstance(item, Scalar) for item in value[:64])


def _tensor(name: str, value: Any) -> Tensor | None:
    """Return a tensor or numeric array as a tensor; None for all else, and for the states of random generators."""
    if isinstance(value, Tensor) and value.is_floating_point() and "rng_state" not in name:
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value, native(value.dtype)).reshape(value.shape))
    if not isinstance(value, Tensor):
        return None
    is_random = not value.is_floating_point() and {"rng", "state"} <= _words(name)
    return None if is_random or "rng_state" in name else value


def _is_floating(value: Any) -> bool:
    kind = value.dtype if isinstance(value, Tensor | np.ndarray) else None
    return kind.kind == "f" if isinstance(kind, np.dtype) else isinstance(kind, torch.dtype) and kind.is_floating_point


def _shapes(part: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _flat(part) if tensor.numel() > 1}


def _are_equal(first: Any, second: Any) -> bool:
    a, b = dict(_flat(first)), dict(_flat(second))
    names = [name for name, tensor in a.items() if tensor.numel() > 1]
    return all(name in b and a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in names)


def _notes(content: Any) -> dict[str, Any]:
    """Return the numbers and texts in a container, and the settings in it as nested mappings without tensors."""
    notes: dict[str, Any] = {}
    for name, item in _entries(content) if isinstance(content, Mapping) else ():
        if isinstance(item, Tensor):
            continue
        if name.lower() in SETTINGS and isinstance(item, Mapping):
            settings = _facts(item, [MOST_FACTS])
            notes = {**settings, **notes} if isinstance(settings, dict) else notes
        elif (fact := _scalar(item)) is not None:
            notes[name] = fact
    return notes


def _facts(value: Any, budget: list[int], depth: int = 0) -> Any:
    """Return settings as nested mappings of numbers and texts: of plain mappings, `Namespace`, omegaconf and enums."""
    if not isinstance(value, Mapping):
        return _scalar(value)
    if isinstance(value, Stub) and not value:
        state = value.state if isinstance(value.state, Mapping) else {}
        value = state.get("_content", state)
        if not isinstance(value, Mapping) or "_val" in value:
            return _scalar(value["_val"] if isinstance(value, Mapping) else value)
    facts: dict[str, Any] = {}
    for name, item in value.items():
        budget[0] -= 1
        if budget[0] < 0 or depth > 6:
            break
        fact = _facts(item, budget, depth + 1)
        if fact not in (None, {}) and isinstance(name, str):
            facts[name] = fact
    return facts


def _scalar(value: Any) -> Scalar | None:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, Scalar) and (not isinstance(value, str | int) or len(str(value)) <= 200) else None
