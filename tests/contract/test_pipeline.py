"""dvc.yaml says the truth about the stage scripts: what they load, read and write."""

import importlib
import re
from pathlib import Path

import pytest

from tests.contract.imports import (
    INERT,
    ROOT,
    closure,
    dependencies,
    is_code,
    module_name,
    modules_in,
    pipeline,
    script,
    studies,
    study_files,
)
from wscore.config import read_yaml
from wscore.preflight import FOLDERS
from wscore.runner import Stage

STAGES = {**pipeline(), **studies()}
FINGERPRINTS = FOLDERS.as_posix()
LOCAL_FOLDERS = {
    "fetch_zoo": [["zoo"]],
    "train_base": [["base"]],
}  # stages that read a folder outside of the repository
TASKS = read_yaml(ROOT / "params.yaml")["heads"]["tasks"]


def outputs(entry: dict) -> set[str]:
    """Return the paths of all outs, metrics and plots of a stage; entries may be names or {name: flags}."""
    entries = [item for kind in ("outs", "metrics", "plots") for item in entry.get(kind, [])]
    return {item if isinstance(item, str) else next(iter(item)) for item in entries}


def command_paths(entry: dict) -> list[str]:
    """Return the values of the options in a command that name files or folders."""
    return [word for word in entry["cmd"].split() if "/" in word or word in ("metrics", "plots", "params.yaml")]


def related(path: str, other: str) -> bool:
    return path == other or other.startswith(f"{path}/") or path.startswith(f"{other}/")


def followers(name: str) -> set[str]:
    """Return the stages of the pipeline that read what a stage writes, or what follows from it."""
    written = [path.replace("/${item}", "") for path in outputs(pipeline()[name])]
    direct = {
        other
        for other, entry in pipeline().items()
        if any(related(path, dep) for path in written for dep in entry.get("deps", []) if not is_code(dep))
    } - {name}
    return direct.union(*(followers(other) for other in direct))


def load(entry: dict) -> Stage:
    main = importlib.import_module(module_name(entry["cmd"])).main
    assert isinstance(main, Stage)
    return main


@pytest.mark.parametrize("name", sorted(STAGES))
def test_deps_are_the_folders_and_files_of_the_code_that_the_stage_runs(name: str) -> None:
    entry = STAGES[name]
    wanted = set(dependencies(script(entry["cmd"])))
    listed = {dep for dep in entry.get("deps", []) if is_code(dep)}
    report = [f"deps of `{name}` in dvc.yaml; `python -m tests.contract.imports --write` puts them right"]
    report += [f"  missing:     - {path}" for path in sorted(wanted - listed)]
    report += [f"  superfluous: - {path}" for path in sorted(listed - wanted)]
    assert listed == wanted, "\n".join(report)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_deps_cover_all_code_that_can_change_bytes_and_no_other_folder(name: str) -> None:
    entry = STAGES[name]
    loaded = {path for path in closure(script(entry["cmd"])) if not path.endswith("__init__.py")}
    listed = [dep for dep in entry["deps"] if is_code(dep)]
    covered = {path for path in loaded if any(path == dep or path.startswith(f"{dep}/") for dep in listed)}
    assert loaded - covered <= set(INERT)
    assert not covered & set(INERT)
    modules = [dep if (ROOT / dep).is_dir() else str(Path(dep).with_suffix(".py")) for dep in listed]
    unused = [dep for dep in modules if not any(path == dep or path.startswith(f"{dep}/") for path in loaded)]
    unused += [
        str(folder.relative_to(ROOT))
        for dep in listed
        for folder in {path.parent for path in modules_in(ROOT / dep, "**/*.py")}
        if not any(str(path.relative_to(ROOT)) in loaded for path in modules_in(folder))
    ]
    assert not unused, f"folders of which `{name}` runs nothing"


def test_files_beside_the_code_that_it_reads_are_dependencies_too() -> None:
    """The page of the report is drawn by files next to `page.py`, which only a dependency on the folder covers."""
    assert "wscore/report" in pipeline()["report"]["deps"]


def test_modules_that_change_no_bytes_exist_and_are_run() -> None:
    run = set().union(*(closure(script(entry["cmd"])) for entry in STAGES.values()))
    assert set(INERT) - {"wscore/presets.py"} <= run
    assert all((ROOT / path).is_file() for path in INERT)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_params_are_the_sections_that_the_stage_reads(name: str) -> None:
    entry, main = STAGES[name], load(STAGES[name])
    listed = {section: "params.yaml" for section in entry.get("params", []) if isinstance(section, str)}
    own = [item for item in entry.get("params", []) if isinstance(item, dict)]
    assert [item[FINGERPRINTS] for item in own if FINGERPRINTS in item] == LOCAL_FOLDERS.get(name, [])
    own = [item for item in own if FINGERPRINTS not in item]
    listed |= {section: path for item in own for path, sections in item.items() for section in sections}
    assert listed == {section: main.source(section).as_posix() for section in main.sections}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_path_in_the_command_is_a_dep_or_an_output(name: str) -> None:
    entry = STAGES[name]
    known = {*entry.get("deps", []), *outputs(entry)}
    assert not [path for path in command_paths(entry) if not any(related(path, other) for other in known)]


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_command_fits_the_options_of_the_stage(name: str) -> None:
    entry = STAGES[name]
    words = entry["cmd"].replace("${item}", "1").split()
    load(entry).parser().parse_args(words[words.index("-m") + 2 :])


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_has_a_description_and_results_of_its_own(name: str) -> None:
    entry = STAGES[name]
    assert entry["desc"]
    others = {path for other in STAGES if other != name for path in outputs(STAGES[other])}
    assert outputs(entry)
    assert not outputs(entry) & others


def test_metrics_are_kept_in_git_and_not_in_the_cache() -> None:
    for entry in STAGES.values():
        for item in [item for kind in ("outs", "metrics") for item in entry.get(kind, [])]:
            if str(item).startswith("metrics/") or isinstance(item, dict):
                assert isinstance(item, dict), f"{item}: needs `cache: false`"
                assert next(iter(item.values())) == {"cache": False}


@pytest.mark.parametrize("file", [ROOT / "dvc.yaml", *study_files()], ids=lambda path: path.parent.name)
def test_plots_and_artifacts_are_outputs_of_a_stage(file: Path) -> None:
    made = {path.replace("${item}", task) for entry in STAGES.values() for path in outputs(entry) for task in TASKS}
    content = read_yaml(file)
    plots = content.get("plots", [])
    shown = [item if isinstance(item, str) else list(next(iter(item.values()))["y"]) for item in plots]
    named = [path for item in shown for path in ([item] if isinstance(item, str) else item)]
    named += [artifact["path"] for artifact in content.get("artifacts", {}).values()]
    named = [(file.parent / path).relative_to(ROOT).as_posix() for path in named]
    assert not [path for path in named if not any(path == out or path.startswith(f"{out}/") for out in made)]


def test_a_change_of_the_autoencoder_reruns_neither_the_zoo_nor_the_codec_nor_forecasts() -> None:
    untouched = {"fetch_zoo", "tokenize", "fit_codec", "evaluate_codec", "train_base", "train_predictor"}
    untouched |= {"evaluate_predictor", "train_autoencoder", "train_encoder", "train_decoder", "cache_representations"}
    assert followers("train_autoencoder") == set(pipeline()) - untouched


def test_stages_of_studies_run_in_the_root_under_names_of_their_own() -> None:
    assert not set(studies()) & set(pipeline())
    assert all(entry["wdir"] == "../.." for entry in studies().values())


def test_every_stage_script_is_in_the_pipeline() -> None:
    scripts = {path.stem for path in ROOT.glob("stages/*.py")} - {"__init__"}
    assert scripts == {script(entry["cmd"]).stem for entry in pipeline().values()}


def test_a_stage_script_is_short_and_has_no_error_handling_or_print() -> None:
    for path in ROOT.glob("stages/*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, path.name
        assert not re.search(r"^\s*(try:|print\()", text, re.MULTILINE), path.name
