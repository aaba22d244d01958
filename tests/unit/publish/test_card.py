"""Cards say what was measured, beside the controls, in a form that the Hub reads."""

import subprocess
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from wscore.publish import card_texts
from wscore.publish.card import CardPart, write_card, write_index
from wscore.publish.card_metrics import Figures, metrics_markdown, pick
from wscore.publish.config import PublishConfig
from wscore.publish.provenance import Provenance, gather_provenance, git_revision
from wscore.zoo.store import Zoo

CONFIG = PublishConfig(
    target="folder",
    parts=("encoder", "heads"),
    layout="one",
    name="digits",
    repo_id=None,
    private=True,
    license="mit",
    datasets=(),
)
FIGURES = Figures("weight-reconstruction", {"this model": {"mse": 0.125, "r2": 0.75}, "mean network": {"mse": 0.5}})


def origin() -> Provenance:
    params = {"ae": {"latent_dim": 16, "lr": 1e-05}, "tokens": {"seed": 0}, "heads": {"tasks": ["accuracy"]}}
    return Provenance("abc123", "fedcba98", "0123456789abcdef", 4096, 1024, ("cnn", "mlp"), ("digits",), params)


def part(figures: Figures = FIGURES) -> CardPart:
    return CardPart(
        name="encoder",
        title="Encoder",
        summary="Turns a network into a vector. More words.",
        code="print('loaded')",
        stage="train_autoencoder",
        sections=("tokens", "ae"),
        note="`mse` is a mean of squares.",
        limits=("It knows small networks only.",),
        figures=figures,
    )


def test_a_card_holds_every_figure_with_its_controls() -> None:
    card = ModelCard(write_card(part(), origin(), CONFIG))
    results = card.data.eval_results
    assert results is not None
    assert [(item.metric_name, item.metric_value) for item in results] == [("MSE", 0.125), ("R²", 0.75)]
    assert {item.dataset_revision for item in results} == {"0123456789abcdef"}
    assert "| this model | 0.125 | 0.75 |" in card.text
    assert "| mean network | 0.5 |  |" in card.text


def test_a_card_tells_origin_parameters_and_limits() -> None:
    text = write_card(part(), origin(), CONFIG)
    for wanted in ("abc123", "0123456789abcdef", "4,096 networks of 1,024", "cnn, mlp", "dvc repro train_autoencoder",
                   "latent_dim: 16", "* It knows small networks only.", "print('loaded')", "license: mit"):  # fmt: skip
        assert wanted in text
    assert "tasks" not in text


def test_a_card_without_figures_says_so() -> None:
    card = ModelCard(write_card(part(Figures("nothing", {})), origin(), CONFIG))
    assert card.data.eval_results is None
    assert "No metrics." in card.text


def test_the_index_names_all_parts() -> None:
    text = write_index([part()], origin(), CONFIG)
    assert "| [encoder](encoder/README.md) | Turns a network into a vector |" in text
    assert ModelCard(text).data.license == "mit"


def test_only_numbers_become_figures() -> None:
    assert pick({"a": 1, "b": None, "c": "text", "d": 0.5}, ["d", "a", "b", "c", "x"]) == {"d": 0.5, "a": 1.0}
    assert metrics_markdown(Figures("t", {"m": {"a": 1234.5678}})).splitlines()[2] == "| m | 1235 |"


def test_provenance_of_a_zoo(tiny_zoo: Path) -> None:
    found = gather_provenance(Zoo(tiny_zoo), {"ae": {}})
    assert (found.networks, found.runs) == (24, 12)
    assert found.families == ("cnn", "cnn_bn", "mlp", "resnet")
    assert found.datasets == ("digits",)


def test_the_code_of_a_card_reads_the_folder_that_was_published(tiny_zoo: Path) -> None:
    code = f"load({card_texts.place('weight_encoder', CONFIG)})"
    there = gather_provenance(Zoo(tiny_zoo), {"tokens": {}, "ae": {}}, models=Path("models/mine"))
    assert 'load("models/mine")' in write_card(part()._replace(code=code), there, CONFIG)
    absolute = gather_provenance(Zoo(tiny_zoo), {}, models=tiny_zoo, tables=tiny_zoo)
    assert (absolute.models, absolute.tables) == ("models/published", "data/published")


@pytest.mark.parametrize(
    ("targets", "words"),
    [(["test_accuracy"], "the test accuracy of a network"), (["val_acc"], "`val_acc` of a network")],
)
def test_the_card_of_a_head_names_its_target(targets: list[str], words: str) -> None:
    card = card_texts.head("accuracy", targets, {}, CONFIG, encoder_hash="abc")
    assert card.summary.startswith(f"Predicts {words} from its weights")


def test_revision_tells_local_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision(tmp_path) == "unknown"
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    (tmp_path / "params.yaml").write_text("ae: 1\n")
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    revision = git_revision(tmp_path)
    assert len(revision) == 40
    (tmp_path / "notes.txt").write_text("of no matter")
    assert git_revision(tmp_path) == revision
    for command in (["add", "."], [*identity, "commit", "--quiet", "--message", "notes alone"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert git_revision(tmp_path) == revision
    (tmp_path / "params.yaml").write_text("ae: 2\n")
    assert git_revision(tmp_path) == f"{revision} with local changes"
