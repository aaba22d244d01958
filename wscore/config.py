"""params.yaml: the single source of every default, read strictly into frozen classes.

A section of params.yaml is one `msgspec.Struct(frozen=True, kw_only=True, forbid_unknown_fields=True)` that lives beside the
code it configures. YAML is read as version 1.2 (as DVC does), so that the `1e-05` written by `dvc exp run -S ae.lr=1e-5` is a
number and not text.
"""

from pathlib import Path
from typing import Any, TypeVar

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from wscore.errors import ConfigError

PARAMS = Path("params.yaml")
T = TypeVar("T")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration class: immutable, by keyword only, unknown keys refused."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML 1.2 file.

    Raises:
        ConfigError: if the file is missing, is not YAML or does not hold a mapping.
    """
    if not path.is_file():
        raise ConfigError("no such file", where=path, fix="run from the root of the repository")
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ConfigError("is not valid YAML", where=path, got=" ".join(str(error).split())) from error
    if not isinstance(content, dict):
        raise ConfigError("does not hold sections", where=path, expected="a mapping", got=type(content).__name__)
    return content


def load_section(section: type[T], name: str, path: Path = PARAMS) -> T:
    """Return section `name` of params.yaml as an instance of its configuration class.

    Raises:
        ConfigError: naming the dotted key, if the section or a key is missing, unknown, mistyped or out of range.
    """
    content = read_yaml(path)
    if name not in content:
        raise ConfigError("section is missing", where=f"{path}: {name}", fix=f"add the section `{name}:`")
    return convert(content[name], section, where=f"{path}: {name}")


def convert(value: object, section: type[T], *, where: str) -> T:
    """Return plain data as a configuration class; `where` is the dotted prefix used in the error."""
    try:
        return msgspec.convert(value, section, strict=True)
    except (msgspec.ValidationError, ValueError) as error:
        reason, _, key = str(error).partition(" - at `$")
        dotted = where + key.rstrip("`")
        raise ConfigError(reason, where=dotted, fix="see the comments in params.yaml") from error


def to_plain(value: object) -> Any:
    """Return a configuration as plain dictionaries, lists and scalars, ready for JSON."""
    return msgspec.to_builtins(value)


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level with dotted keys; lists become JSON text."""
    plain = to_plain(value)
    if not isinstance(plain, dict):
        return {prefix: plain if isinstance(plain, str | int | float | bool | None) else msgspec.json.encode(plain).decode()}
    flat: dict[str, Any] = {}
    for key, item in plain.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat
