"""Presets: small YAML files that override values of params.yaml and preserve its comments.

python -m wscore.presets presets/smoke.yaml params.yaml
"""

import argparse
import re
import sys
from collections.abc import Mapping
from difflib import SequenceMatcher
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from wscore.config import PARAMS, read_yaml
from wscore.errors import ConfigError
from wscore.io import write_text

NAMED = ("heads.continuous", "heads.target_weights")  # mappings of the user's own names: replaced as a whole


def apply_preset(preset: Path, params: Path = PARAMS) -> None:
    """Write the values of a preset into a parameter file, in place.

    Raises:
        ConfigError: naming the dotted key that the parameter file lacks, or that is a mapping in one file only.
    """
    overrides = read_yaml(preset)
    read_yaml(params)
    text = params.read_text(encoding="utf-8")
    content = _round_trip().load(text)
    before = _dumped(content)
    merge(content, overrides, where=str(preset))
    write_text(params, _changed_lines(text, before, _dumped(content)))


def merge(values: Any, overrides: Mapping[str, Any], *, where: str, prefix: str = "") -> None:
    """Merge overrides into nested mappings, in place; keys must exist, except in an empty mapping, which accepts any.

    Mappings of names that only a zoo knows (`NAMED`) are replaced.

    Raises:
        ConfigError: naming the dotted key that does not exist, or is a mapping on one side only.
    """
    free = not values
    for key, new in overrides.items():
        dotted = f"{prefix}{key}"
        if not free and key not in values:
            raise ConfigError("no such parameter", where=f"{where}: {dotted}", expected=f"one of {', '.join(values)}")
        old = values.get(key)
        if not free and isinstance(old, Mapping) != isinstance(new, Mapping):
            expected = "a mapping" if isinstance(old, Mapping) else "a single value"
            raise ConfigError("has another form", where=f"{where}: {dotted}", expected=expected, got=new)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and dotted not in NAMED:
            merge(old, new, where=where, prefix=f"{dotted}.")
        else:
            values[key] = _in_place_of(old, new)


def _dumped(content: object) -> str:
    stream = StringIO()
    _round_trip().dump(content, stream)
    return stream.getvalue()


def _changed_lines(text: str, before: str, after: str) -> str:
    """Return a text with the lines that differ in its dump before and after a change; the others keep their spaces."""
    originals, old, new = (part.splitlines(keepends=True) for part in (text, before, after))
    replaced: dict[int, list[str]] = {}  # changed lines of the old dump
    for kind, first, last, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            replaced |= {place: [] for place in range(first, last)}
            added = [_spaced(line) for line in new[start:end]]
            replaced[min(first, len(old) - 1)] = [*added, *(old[first : first + 1] if kind == "insert" else [])]
    lines: list[str] = []
    plain = [["".join(line.split()) for line in part] for part in (originals, old)]
    for kind, first, last, start, end in SequenceMatcher(None, *plain, autojunk=False).get_opcodes():
        for place in range(start, end):
            same = originals[first + place - start] if kind == "equal" else old[place]
            lines += replaced.get(place, [same] if kind == "equal" or replaced.keys() & set(range(start, end)) else [])
        if kind != "equal" and not replaced.keys() & set(range(start, end)):
            lines += originals[first:last]
    return "".join(lines)


def _spaced(line: str) -> str:
    """Return a line with spaces inside of its mappings, and one before its comment."""
    value, mark, comment = line.partition(" #")
    value = re.sub(r"(?<=\S)\}", " }", re.sub(r"\{(?=[^\s}])", "{ ", value.rstrip(" ")))
    return value.replace("{ }", "{}") + mark + comment


def _in_place_of(old: object, new: object) -> object:
    """Return a value formatted like the one it replaces: lists and mappings on one line, followed by their comment."""
    if isinstance(old, CommentedMap) and isinstance(new, Mapping):
        flow = CommentedMap(new)
        flow.fa.set_flow_style()
        return flow
    if not isinstance(old, CommentedSeq) or not isinstance(new, list):
        return new
    old[:] = new
    return old


def _round_trip() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = 1_000
    yaml.preserve_quotes = True
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def main() -> None:
    """Apply the preset named on the command line; exit with status 1 and one line on stderr if it is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m wscore.presets", description="Write a preset into a parameter file."
    )
    parser.add_argument("preset", type=Path)
    parser.add_argument("params", type=Path, nargs="?", default=PARAMS)
    options = parser.parse_args()
    try:
        apply_preset(options.preset, options.params)
    except ConfigError as error:
        sys.exit(f"presets: {error}")


if __name__ == "__main__":
    main()
