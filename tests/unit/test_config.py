"""params.yaml is read strictly: every mistake names the dotted key, what was expected and what was found."""

import os
from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta

from wscore.config import (
    MachineConfig,
    Section,
    convert,
    describe_type,
    flatten,
    load_key,
    load_machine,
    load_section,
    read_yaml,
)
from wscore.errors import ConfigError, WscoreWarning


class Weights(Section):
    mse: Annotated[float, Meta(ge=0)]
    cosine: Annotated[float, Meta(ge=0)]


class Model(Section):
    arch: Literal["mlp", "transformer"]
    latent_dim: Annotated[int, Meta(gt=0)]
    lr: Annotated[float, Meta(gt=0, lt=1)]
    epochs: tuple[int, int]
    tasks: tuple[Literal["a", "b"], ...]
    targets: dict[str, Literal["log", "linear"]]
    weights: Weights
    size: Annotated[int, Meta(ge=8)] | None
    contrastive: bool
    precision: str

    def __post_init__(self) -> None:
        if self.epochs[0] > self.epochs[1]:
            raise ValueError(f"epochs: fewest first, got {list(self.epochs)}")


GOOD = """
ae:
  arch: mlp
  latent_dim: 64
  lr: 1e-05
  epochs: [4, 16]
  tasks: [a, b]
  targets: {lr: log}
  weights: {mse: 1, cosine: 0.5}
  size: null
  contrastive: false
  precision: no
"""


def load(text: str, folder: Path) -> Model:
    (folder / "params.yaml").write_text(text)
    return load_section(Model, "ae", folder / "params.yaml")


@pytest.mark.parametrize("written", ["1e-05", "1e-5", "0.00001", "1.0E-5"])
def test_numbers_are_read_as_dvc_writes_them(written: str, tmp_path: Path) -> None:
    """YAML 1.1 reads `1e-05` as text, `no` as false and 010 as eight."""
    section = load(GOOD.replace("1e-05", written).replace("latent_dim: 64", "latent_dim: 010"), tmp_path)
    assert section.lr == 1e-5
    assert section.latent_dim == 10
    assert section.precision == "no"
    assert section.epochs == (4, 16)
    assert section.weights == Weights(mse=1.0, cosine=0.5)


@pytest.mark.parametrize(("line", "bad", "key", "expected", "found"), [
    ("latent_dim: 64", "latent_dim: sixty", "ae.latent_dim", "a whole number > 0", "the text 'sixty'"),
    ("latent_dim: 64", "latent_dim: -1", "ae.latent_dim", "a whole number > 0", "-1"),
    ("latent_dim: 64", "latent_dim: 64.0", "ae.latent_dim", "a whole number > 0", "64.0"),
    ("latent_dim: 64", "latent_dim: true", "ae.latent_dim", "a whole number > 0", "True"),
    ("latent_dim: 64", "latent_dim:", "ae.latent_dim", "a whole number > 0", "null"),
    ("latent_dim: 64", "latent_dim: '64'", "ae.latent_dim", "a whole number > 0", "the text '64'; write the number"),
    ("lr: 1e-05", "lr: '1e-5'", "ae.lr", "a number > 0 and < 1", "the text '1e-5'; write the number without quotes"),
    ("lr: 1e-05", "lr: .nan", "ae.lr", "a number > 0 and < 1", "nan"),
    ("mse: 1,", "mse: x,", "ae.weights.mse", "a number >= 0", "the text 'x'"),
    ("arch: mlp", "arch: conv", "ae.arch", "one of mlp, transformer", "the text 'conv'"),
    ("[4, 16]", "[4]", "ae.epochs", "a list of 2 values, each a whole number", "[4]"),
    ("[4, 16]", "[4, x]", "ae.epochs[1]", "a whole number", "the text 'x'"),
    ("[a, b]", "a", "ae.tasks", "a list of values, each one of a, b", "the text 'a'"),
    ("[a, b]", "[a, c]", "ae.tasks[1]", "one of a, b", "the text 'c'"),
    ("{lr: log}", "{lr: x}", "ae.targets.lr", "one of log, linear", "the text 'x'"),
    ("size: null", "size: 2", "ae.size", "a whole number >= 8 or null", "2"),
    ("contrastive: false", "contrastive: no", "ae.contrastive", "true or false", "the text 'no'"),
    (GOOD, "ae:", "ae", "a mapping", "null"),
    (GOOD, "ae: 3", "ae", "a mapping", "3"),
])  # fmt: skip
def test_each_misfit_names_key_expectation_and_finding(
    line: str, bad: str, key: str, expected: str, found: str, tmp_path: Path
) -> None:
    message = failure(GOOD.replace(line, bad), tmp_path)
    assert f"params.yaml: {key}: does not fit; expected {expected}; got {found}" in message


@pytest.mark.parametrize(("line", "bad", "message"), [
    ("  latent_dim: 64\n", "", "ae.latent_dim: is missing; expected a whole number > 0; got nothing; add"),
    (", cosine: 0.5", "", "ae.weights.cosine: is missing; expected a number >= 0; got nothing; add `cosine:`"),
    ("latent_dim: 64", "latent_dimm: 64", "ae.latent_dimm: no such parameter; expected one of arch, latent_dim, lr, "),
    ("mse: 1,", "mse: .inf,", "ae.weights.mse: is not finite; expected a finite number; got inf"),
    ("[4, 16]", "[16, 4]", "ae: epochs: fewest first, got [16, 4]; see the comments in params.yaml"),
    (GOOD, "heads: {}", "ae: section is missing; add the section `ae:`"),
])  # fmt: skip
def test_other_mistakes_name_the_key_too(line: str, bad: str, message: str, tmp_path: Path) -> None:
    assert f"params.yaml: {message}" in failure(GOOD.replace(line, bad), tmp_path)


def failure(text: str, folder: Path) -> str:
    assert text != GOOD
    with pytest.raises(ConfigError) as caught:
        load(text, folder)
    return str(caught.value)


def test_a_mistyped_key_is_answered_with_the_nearest(tmp_path: Path) -> None:
    assert failure(GOOD + "  latent_dimm: 64\n", tmp_path).endswith("did you mean `latent_dim`?")
    assert failure(GOOD + "  zzz: 64\n", tmp_path).endswith("remove it")


@pytest.mark.parametrize(("content", "message"), [
    (b"ae: [1", "is not valid YAML"),
    (b"ae: 1\nae: 2", "is not valid YAML.*duplicate key"),
    (b"- ae", "does not hold sections; expected a mapping; got list"),
    (b"", "does not hold sections; expected a mapping; got NoneType"),
    (b"ae: \xff", "cannot be read; expected a text file in UTF-8"),
])  # fmt: skip
def test_unreadable_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{path}: {message}"):
        read_yaml(path)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; run from the root of the repository"):
        read_yaml(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_sections_are_frozen() -> None:
    section = Weights(mse=1.0, cosine=0.0)
    with pytest.raises(AttributeError):
        section.mse = 2.0  # pyright: ignore[reportAttributeAccessIssue]


def test_other_files_get_no_advice_about_params_yaml() -> None:
    with pytest.raises(ConfigError) as caught:
        convert({"mse": "x", "cosine": 1}, Weights, where="models/config.json")
    assert str(caught.value) == "models/config.json.mse: does not fit; expected a number >= 0; got the text 'x'"


def test_describe_in_words() -> None:
    assert describe_type(list[str]) == "a list of values, each text"
    assert describe_type(Annotated[str, Meta(pattern="^a")] | None) == "text that matches ^a or null"
    assert describe_type(dict[str, float]) == "a mapping of names to values, each a number"


def test_flatten_gives_dotted_names_and_lists_as_json() -> None:
    nested = {"ae": Weights(mse=1.0, cosine=0.0), "zoo": {"epochs": [4, 16], "path": None, "empty": {}}}
    assert flatten(nested) == {"ae.mse": 1.0, "ae.cosine": 0.0, "zoo.epochs": "[4,16]", "zoo.path": None}


@pytest.fixture
def plain_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no setting in the environment; returns where machine.yaml is looked for."""
    for name in MachineConfig.__struct_fields__:
        monkeypatch.delenv(f"WSCORE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "machine.yaml"


def test_a_machine_without_settings_gives_every_core(plain_machine: Path) -> None:
    machine = load_machine()
    assert machine == MachineConfig()
    assert machine.processes == os.cpu_count()


def test_the_environment_comes_before_machine_yaml(plain_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_machine.write_text("workers: 6\nbackend: dask\naddress: tcp://host:8786\n", encoding="utf-8")
    monkeypatch.setenv("WSCORE_WORKERS", "3")
    monkeypatch.setenv("WSCORE_ADDRESS", "null")
    assert load_machine() == MachineConfig(workers=3, backend="dask")


@pytest.mark.parametrize(("text", "message"), [
    ("worker: 6", r"machine\.yaml\.worker: no such parameter; .*did you mean `workers`\?"),
    ("workers: 0", r"machine\.yaml\.workers: does not fit; expected a whole number >= 1 or null; got 0"),
    ("device: gpu", r"machine\.yaml\.device: does not fit; expected one of auto, cpu, cuda, mps; got the text 'gpu'"),
    ("- 3", r"machine\.yaml: does not hold sections; expected a mapping"),
])  # fmt: skip
def test_a_wrong_machine_yaml_is_refused(plain_machine: Path, text: str, message: str) -> None:
    plain_machine.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_machine()


def test_a_wrong_variable_is_named(plain_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSCORE_WORKERS", "many")
    with pytest.raises(ConfigError, match=r"WSCORE_WORKERS\.workers: does not fit; expected a whole number >= 1"):
        load_machine()


def test_machine_settings_of_an_older_file_are_named_and_ignored(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("part: { rate: 0.5, workers: 8, device: cuda }\n")

    class Part(Section, frozen=True):
        rate: float

    with pytest.warns(WscoreWarning, match="part: workers, device ignored: set by machine.yaml"):
        assert load_section(Part, "part", params) == Part(rate=0.5)


def test_one_key_of_a_section_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("ae: { compression: 10, other: text }\n")
    ratio = Annotated[float, Meta(gt=1)]
    assert load_key(ratio, "ae.compression", path) == 10.0
    for kind, name, message in (
        (ratio, "ae.other", "ae.other: does not fit; expected a number > 1"),
        (ratio, "ae.gone", "ae.gone: is missing"),
        (ratio, "gone.compression", "gone: section is missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_key(kind, name, path)


class Scaled(Section):
    shift: float


class Table(Section):
    kinds: dict[str, Scaled]
    layouts: dict[str, tuple[Scaled, ...]] | None


@pytest.mark.parametrize(("content", "message"), [
    ({"kinds": {"a": {"shift": 1}, "b": {"shift": None}}, "layouts": None}, "t.kinds.b.shift: does not fit; expected a number"),
    ({"kinds": {"a": {"shift": 1}, "b": {}}, "layouts": None}, "t.kinds.b.shift: is missing; expected a number"),
    ({"kinds": {}, "layouts": {"x": [{"shift": 0}, {"shift": "y"}]}}, "t.layouts.x[1].shift: does not fit; expected a number"),
    ({"kinds": {"a": 3}, "layouts": None}, "t.kinds.a: does not fit; expected a mapping; got 3"),
])  # fmt: skip
def test_entries_of_mappings_are_named(content: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(content, Table, where="t")
    assert message in str(caught.value)


def test_integers_of_more_than_64_bits_are_named() -> None:
    with pytest.raises(ConfigError, match=r"t\.layouts\.x\[0\]\.shift: is too large"):
        convert({"kinds": {}, "layouts": {"x": [{"shift": 10**30}]}}, Table, where="t")
