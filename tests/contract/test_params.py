"""params.yaml and the presets: everything loads, everything is explained."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.imports import ROOT, module_name, pipeline, studies
from wscore.config import Section, load_key, load_section, read_yaml
from wscore.presets import apply_preset

PARAMS = ROOT / "params.yaml"
PRESETS = sorted(ROOT.glob("presets/*.yaml"))

# Keys that mean the same in every section and in every training script of the field.
WELL_KNOWN = {"batch_size", "dropout", "epochs", "hidden_dim", "layers", "lr", "learning_rate", "seed", "weight_decay"}


def sections(*, of_studies: bool = True) -> dict[str, type]:
    """Return the configuration class of every section, as stage scripts declare them; a study has its own in its folder."""
    found: dict[str, type] = {}
    for entry in (*pipeline().values(), *studies().values()):
        main = importlib.import_module(module_name(entry["cmd"])).main
        for name, kind in main.sections.items():
            if (
                isinstance(kind, type)
                and issubclass(kind, Section)
                and (of_studies or main.source(name) == Path("params.yaml"))
            ):
                assert found.setdefault(name, kind) is kind, f"section {name} has two classes"
    return found


def test_every_section_is_read_by_a_stage() -> None:
    assert set(read_yaml(PARAMS)) == set(sections(of_studies=False))
    own = {name for path in ROOT.glob("studies/*/params.yaml") for name in read_yaml(path)}
    assert own == set(sections()) - set(sections(of_studies=False))


def test_parameters_named_in_the_documentation_exist() -> None:
    params = read_yaml(PARAMS)
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for name in re.findall(r"(?:`|-S '?)([a-z_]+(?:\.[a-z_]+)+)\b", page.read_text(encoding="utf-8")):
            section, *keys = name.split(".")
            if section in params and keys[-1] not in ("json", "csv"):
                assert keys[0] in params[section], f"{page.name}: {name}"


def test_every_section_loads() -> None:
    for entry in (*pipeline().values(), *studies().values()):
        main = importlib.import_module(module_name(entry["cmd"])).main
        for name, kind in main.sections.items():
            load = load_key if "." in name else load_section
            value = load(kind, name, ROOT / main.source(name))
            assert isinstance(value, kind if isinstance(kind, type) else int | float | str)


def test_no_configuration_class_has_a_default() -> None:
    defaults = {
        f"{kind.__name__}.{key}": value
        for kind in sections().values()
        for key, value in zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False)
    }
    assert not defaults


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads(preset: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS.read_text(encoding="utf-8"), encoding="utf-8")
    apply_preset(preset, params)
    before, after, kinds = read_yaml(PARAMS), read_yaml(params), sections(of_studies=False)
    changed = [name for name in after if after[name] != before[name]]
    assert changed
    for name in changed:
        load_section(kinds[name], name, params)


def test_every_key_is_explained_once() -> None:
    files = [PARAMS, *ROOT.glob("studies/*/params.yaml")]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    keys = {key: "#" in line for line in lines if (key := re.match(r"\s*(\w+):", line))}
    explained = {key[1] for key, has_comment in keys.items() if has_comment}
    bare = sorted({key[1] for key in keys} - explained - WELL_KNOWN)
    assert not bare, f"keys without a comment anywhere in params.yaml: {', '.join(bare)}"


def test_no_key_has_a_dot() -> None:
    flat = [key for section in read_yaml(PARAMS).values() for key in section]
    assert not [key for key in flat if "." in key]


def test_params_are_few_enough_to_be_read() -> None:
    def leaves(value: Any) -> int:
        return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1

    assert leaves(read_yaml(PARAMS)) <= 290
