"""Strict loading of params.yaml, the single source of defaults, into frozen configuration classes.

Each section is a `msgspec.Struct(frozen=True, kw_only=True, forbid_unknown_fields=True)` defined next to the code it
configures. YAML is read as version 1.2 (as DVC does), so that the `1e-05` written by `dvc exp run -S ae.lr=1e-5` is a
number and not text. The comments of params.yaml explain each field; the classes say its type and range.

Machine settings (processes, devices, memory) do not change results and are not parameters: see `load_machine`.
"""

import difflib
import math
import os
import re
import types
import warnings
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import msgspec

from wscore.errors import ConfigError, WscoreWarning
from wscore.late import ruamel_yaml

LARGEST = 1 << 63  # of integers, exclusive
PARAMS = Path("params.yaml")
MACHINE = Path("machine.yaml")
MOVED = ("workers", "parallel", "device", "group_size")  # keys of sections before there were machine settings
Count = Annotated[int, msgspec.Meta(ge=1)]
Device = Literal["auto", "cpu", "cuda", "mps"]
T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration class: immutable, unknown keys refused."""


class MachineConfig(Section, frozen=True):
    """Machine settings; they do not change results, except for the last bits of sums.

    Args:
        workers: single-threaded processes that train, read or tokenize networks; null uses one per core.
        backend: `serial`, `process` (of this machine) or `dask` (a cluster, see docs/zoos.md).
        address: Dask scheduler, such as tcp://host:8786; null starts a local one.
        device: for training; `auto` uses a GPU if there is one, except for recorded networks (`base`), which are so small
            that they are trained on the CPU.
        evaluation_batch: networks decoded and compared at once in evaluations; lower it to save memory.
        threads: of the computations of a stage; their number can change last bits, so the default is not that of the cores
            but OMP_NUM_THREADS if it is set, else 2.
    """

    workers: Count | None = None
    backend: Literal["serial", "process", "dask"] = "process"
    address: str | None = None
    device: Device = "auto"
    evaluation_batch: Count = 256
    threads: Count | None = None

    @property
    def processes(self) -> int:
        """Maximum number of worker processes."""
        return self.workers or os.cpu_count() or 1


def load_machine(path: Path = MACHINE) -> MachineConfig:
    """Return the machine settings: from the environment (WSCORE_WORKERS=4), else from machine.yaml, else defaults.

    Raises:
        ConfigError: naming the key or variable that is unknown, of the wrong type or out of range.
    """
    content = read_yaml(path) if path.exists() else {}
    settings = convert(content, MachineConfig, where=str(path))
    given: dict[str, Any] = {}
    for name in MachineConfig.__struct_fields__:
        variable = f"WSCORE_{name.upper()}"
        if variable in os.environ:
            value = ruamel_yaml.YAML(typ="safe").load(os.environ[variable])
            given[name] = getattr(convert({name: value}, MachineConfig, where=f"environment variable {variable}"), name)
    return msgspec.structs.replace(settings, **given)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML 1.2 file.

    Raises:
        ConfigError: if the file is missing, cannot be read, is not YAML or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=path, fix="run from the root of the repository") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot be read", where=path, expected="a text file in UTF-8", got=str(error)) from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """Return the mapping in the text of a YAML 1.2 file.

    Raises:
        ConfigError: if it is not YAML or does not hold a mapping.
    """
    try:
        content = deepcopy(_parsed(text))
    except ruamel_yaml.YAMLError as error:
        raise ConfigError("is not valid YAML", where=path, got=" ".join(str(error).split())) from error
    if not isinstance(content, dict):
        raise ConfigError("does not hold sections", where=path, expected="a mapping", got=type(content).__name__)
    return content


@lru_cache(maxsize=4)
def _parsed(text: str) -> object:
    """Return what a text holds. Parsing params.yaml takes 0.1 s, and a stage reads several of its sections."""
    return ruamel_yaml.YAML(typ="safe").load(text)


def load_section(section: type[T], name: str, path: Path = PARAMS) -> T:
    """Return section `name` of params.yaml as an instance of its configuration class.

    Raises:
        ConfigError: naming the section or dotted key that is missing, unknown, of the wrong type or out of range.
    """
    content = read_yaml(path)
    if name not in content:
        raise ConfigError("section is missing", where=f"{path}: {name}", fix=f"add the section `{name}:`")
    where = f"{path}: {name}"
    return convert(_without_moved(content[name], section, where), section, where=where)


def load_key(kind: Any, name: str, path: Path = PARAMS) -> Any:
    """Return one key of a section of params.yaml, such as `ae.compression`, as a value of a type.

    Raises:
        ConfigError: naming the section or dotted key that is missing, of the wrong type or out of range.
    """
    section, _, key = name.partition(".")
    content = read_yaml(path)
    if not isinstance(content.get(section), dict):
        raise ConfigError("section is missing", where=f"{path}: {section}", fix=f"add the section `{section}:`")
    given = {key: content[section][key]} if key in content[section] else {}
    holder = msgspec.defstruct("Key", [(key, kind)], frozen=True, kw_only=True)
    return getattr(convert(given, holder, where=f"{path}: {section}"), key)


def _check_integers(value: object, where: str) -> None:
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise ConfigError(
            "is too large", where=where, expected="an integer of 64 bits", got=f"{len(str(value))} digits"
        )
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_integers(item, f"{where}.{key}" if isinstance(value, dict) else f"{where}[{key}]")


def _without_moved(value: Any, section: type, where: str) -> Any:
    """Return a section without machine settings, which older files hold; a warning names them."""
    if not isinstance(value, dict) or not issubclass(section, Section):
        return value
    moved = [key for key in MOVED if key in value and key not in section.__struct_fields__]
    if moved:
        message = f"{where}: {', '.join(moved)} ignored: set by machine.yaml or the environment, see docs/machine.md"
        warnings.warn(message, WscoreWarning, stacklevel=3)
    return {key: item for key, item in value.items() if key not in moved}


def convert(value: object, section: type[T], *, where: str) -> T:
    """Return plain data as a configuration class; `where` is the dotted prefix used in the error.

    Raises:
        ConfigError: naming the dotted key, the expected and the actual value.
    """
    _check_integers(value, where)
    try:
        result = msgspec.convert(value, section, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value, section, where, own=error.__cause__ is not None) from error
    for key, item in flatten(result).items():
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigError("is not finite", where=f"{where}.{key}", expected="a finite number", got=item)
    return result


def to_plain(value: object) -> Any:
    """Return a configuration as plain dictionaries, lists and scalars, ready for JSON."""
    return msgspec.to_builtins(value)


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level with dotted keys; lists become JSON text.

    >>> flatten({"ae": {"lr": 0.1, "loss": "mse"}, "widths": [8, 8]})
    {'ae.lr': 0.1, 'ae.loss': 'mse', 'widths': '[8,8]'}
    """
    plain = to_plain(value)
    if not isinstance(plain, dict):
        return {
            prefix: plain if isinstance(plain, str | int | float | bool | None) else msgspec.json.encode(plain).decode()
        }
    flat: dict[str, Any] = {}
    for key, item in plain.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def describe_type(kind: Any) -> str:
    """Return a description of the values that an annotation allows, for example `a whole number >= 1 or null`.

    >>> describe_type(Annotated[int, msgspec.Meta(ge=1)] | None)
    'a whole number >= 1 or null'
    """
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin is Annotated:
            return describe_type(arguments[0]) + "".join(
                _bounds(meta) for meta in arguments[1:] if isinstance(meta, msgspec.Meta)
            )
        case origin if origin is Literal:
            return "one of " + ", ".join(map(str, arguments))
        case origin if origin in (Union, types.UnionType):
            return " or ".join(describe_type(choice) for choice in arguments)
        case origin if origin in (tuple, list):
            count = "" if origin is list or Ellipsis in arguments else f"{len(arguments)} "
            return f"a list of {count}values, each {describe_type(arguments[0])}"
        case origin if origin is dict:
            return f"a mapping of names to values, each {describe_type(arguments[1])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(kind, "a mapping")


def _bounds(meta: msgspec.Meta) -> str:
    signs = {">": meta.gt, ">=": meta.ge, "<": meta.lt, "<=": meta.le}
    limits = [f" {sign} {limit}" for sign, limit in signs.items() if limit is not None]
    return " and".join(limits) if meta.pattern is None else f" that matches {meta.pattern}"


def _explain(message: str, value: Any, section: type, where: str, *, own: bool) -> ConfigError:
    """Return an error that names the key in params.yaml, from a message `Expected `int`, got `str` - at `$.ae.layers``.

    Messages of msgspec are rephrased; those raised by a section itself (`own`) are kept.
    """
    reason, _, place = message.partition(" - at ")
    kind: Any = section
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place):
        if index == "...":  # a value of a mapping, whose key msgspec does not tell
            key, kind = _wrong_entry(value, kind)
            where += f".{key}"
            value = value.get(key)
            continue
        where += f".{name}" if name else f"[{index}]"
        value = value[name or int(index)] if isinstance(value, Mapping | list | tuple) else value
        kind = _fields(kind).get(name) if name else next(iter(get_args(kind)), None)
    fields = _fields(kind)
    if field := re.match(r"Object (missing required|contains unknown) field `(.*)`", reason):
        return _wrong_key(field[2], fields, where, missing=field[1].startswith("missing"))
    advice = "see the comments in params.yaml" if PARAMS.name in where else None
    if own or not reason.startswith(("Expected", "Invalid")):
        return ConfigError(reason, where=where, fix=advice)
    text_number = isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", value, re.IGNORECASE)
    fix = "write the number without quotes" if text_number else advice
    return ConfigError("does not fit", where=where, expected=describe_type(kind), got=_found(value), fix=fix)


def _wrong_entry(value: Any, kind: Any) -> tuple[Any, Any]:
    """Return the first key of a mapping whose value is invalid, and the annotation of the values."""
    _, values = next(get_args(annotation) for annotation in (kind, *get_args(kind)) if get_origin(annotation) is dict)
    for key, item in value.items():
        try:
            msgspec.convert(item, values, strict=True)
        except msgspec.ValidationError:
            return key, values
    return "...", None  # a key


def _wrong_key(key: str, fields: Mapping[str, Any], where: str, *, missing: bool) -> ConfigError:
    if missing:
        expected = describe_type(fields[key]) if key in fields else None
        return ConfigError("is missing", where=f"{where}.{key}", expected=expected, got="nothing", fix=f"add `{key}:`")
    near = difflib.get_close_matches(key, fields, n=1)
    fix = f"did you mean `{near[0]}`?" if near else "remove it"
    return ConfigError("no such parameter", where=f"{where}.{key}", expected=f"one of {', '.join(fields)}", fix=fix)


def _fields(kind: Any) -> dict[str, Any]:
    """Return the annotations of a configuration class or of `Class | None`; empty for anything else."""
    classes = [item for item in (kind, *get_args(kind)) if isinstance(item, type) and issubclass(item, msgspec.Struct)]
    return get_type_hints(classes[0], include_extras=True) if classes else {}


def _found(value: object) -> str:
    return f"the text {value!r}" if isinstance(value, str) else "null" if value is None else repr(value)
