import json
from pathlib import Path

import pytest

from stages.tokenize_zoo import main
from tests.contract.imports import ROOT
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

TOKENS = """
data: { dataset: digits, root: null, revision: null, size: null, max_train: null, max_test: null, normalize: null, factories: {} }
tokens:
  granularity: neuron
  chunk_size: 32
  max_tokens: 512
  align: none
  normalization: layer
  unseen_widths: {}
  validation_fraction: 0.2
  test_fraction: 0.3
  seed: 0
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text(TOKENS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(zoo: Path) -> list[str]:
    return ["--zoo", str(zoo), "--out", "data/tokens", "--metrics", "metrics/tokens.json"]


def change(workspace: Path, old: str, new: str) -> None:
    assert old in TOKENS
    (workspace / "params.yaml").write_text(TOKENS.replace(old, new))


def stop(zoo: Path, capsys: pytest.CaptureFixture) -> str:
    """Run the stage, which must fail with one line and leave nothing."""
    with pytest.raises(SystemExit) as caught:
        main(arguments(zoo))
    assert "\n" not in str(caught.value)
    assert not Path("data/tokens").exists()
    assert not Path("metrics/tokens.json").exists()
    assert not list(Path().rglob("*.tmp"))
    assert capsys.readouterr().out == ""
    return str(caught.value)


def test_it_writes_the_cache_and_its_figures(tiny_zoo: Path, workspace: Path, capsys: pytest.CaptureFixture) -> None:
    main(arguments(tiny_zoo))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("24 networks of 12 runs (")
    metrics = json.loads((workspace / "metrics" / "tokens.json").read_text())
    assert list(metrics) == ["tokens"]
    figures = metrics["tokens"]
    assert {f"{what}_{split}" for what in ("networks", "runs") for split in ("train", "validation", "test")} < set(
        figures
    )
    assert sum(figures[f"networks_{split}"] for split in ("train", "validation", "test")) == 24
    assert all(isinstance(value, float) for value in figures.values())
    assert len(TokenCache(workspace / "data" / "tokens")) == figures["items"]


def test_a_second_run_gives_the_same_bytes(tiny_zoo: Path, workspace: Path) -> None:
    main(arguments(tiny_zoo))
    before = {path: path.read_bytes() for path in sorted(workspace.rglob("*")) if path.is_file()}
    main(arguments(tiny_zoo))
    assert {path: path.read_bytes() for path in sorted(workspace.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("granularity: neuron", "granularity: word", "tokens.granularity"),
        ("chunk_size: 32", "chunk_size: 0", "tokens.chunk_size"),
        ("chunk_size: 32", "chunk_size: sixty", "tokens.chunk_size"),
        ("seed: 0", "sede: 0", "sede"),
        ("test_fraction: 0.3", "test_fraction: 0.0001", "no run falls in the test split"),
    ],
)
def test_bad_parameters_stop_it(tiny_zoo: Path, workspace: Path, capsys, old: str, new: str, message: str) -> None:
    change(workspace, old, new)
    assert message in stop(tiny_zoo, capsys)


def test_a_missing_zoo_stops_it(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no zoo here" in stop(workspace / "nothing", capsys)


def test_the_default_parameters_fit_the_tiny_zoo(tiny_zoo: Path, workspace: Path) -> None:
    (workspace / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    main(arguments(tiny_zoo))
    cache = TokenCache(workspace / "data" / "tokens")
    assert set(cache.table["row"]) == set(range(len(Zoo(tiny_zoo))))
