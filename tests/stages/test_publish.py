"""The publish stage: complete folders, honest cards, and an upload that can't harm them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.publish import main
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.cli.compression import read_codec
from wscore.config import PARAMS
from wscore.errors import ModelError
from wscore.heads.mlp_head import Head, HeadConfig
from wscore.io import hash_folder, write_csv, write_json
from wscore.presets import apply_preset
from wscore.training.model_folder import model_identities, save_model
from wscore.zoo.store import Zoo

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "autoencoder_test": {
        "networks": 4, "ours": {"agreement": 0.5, "r2": 0.25}, "mean_network": {"agreement": 0.125, "r2": 0.0},
        "families": {"mlp": {"ours": {"agreement": 0.5}}},
    },
    "heads_test": {"accuracy": {"networks": 4.0, "ours": {"r2": 0.75}, "statistics": {"r2": 0.5}}},
    "sae_test": {
        "codes": {"l0": 3.0, "latents": 8.0}, "ours": {"fvu": 0.25, "agreement": 0.5}, "pca": {"fvu": 0.5},
        "features": {"alive": 8.0},
    },
    "predictor_test": {
        "temporal": {"windows": 2.0, "h1": {"ours": {"skill": 0.9}}},
        "unseen_run": {
            "windows": 2.0, "skill_mean": -0.5,
            "h1": {"ours": {"skill": -0.25, "accuracy": 0.5}, "copy_last": {"skill": 0.0, "accuracy": 0.75}},
            "h2": {"ours": {"skill": -0.75, "accuracy": 0.25}, "copy_last": {"skill": 0.0, "accuracy": 0.5}},
        },
    },
}  # fmt: skip


@pytest.fixture
def workplace(tmp_path: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with parameters, figures and small models in the places where the pipeline has them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    PARAMS.write_text((ROOT / PARAMS).read_text(encoding="utf-8"), encoding="utf-8")
    preset("heads: {tasks: [accuracy]}")
    torch.manual_seed(0)
    model = Head(
        HeadConfig(
            inputs=4, hidden_dim=3, layers=1, dropout=0.0, outputs={"test_accuracy": 1}, encoder=None, reader=None
        )
    )
    for folder in (
        "autoencoder/encoder",
        "autoencoder/decoder",
        "encoder",
        "decoder",
        "heads/accuracy",
        "sae",
        "predictor",
    ):
        save_model(Path("models") / folder, model)
    write_figures()
    for name in ("tokenizer.json", "normalizer.json"):
        write_json(Path("models/autoencoder") / name, {})
    Path("models/codec").mkdir()
    WeightCodec().save(Path("models/codec"))
    (tmp_path / "zoo").symlink_to(tiny_zoo)
    write_representations(Zoo(tiny_zoo))
    for name in ("autoencoder", "encoder", "heads/accuracy", "sae", "predictor"):
        write_csv(Path("plots") / name / "history.csv", {"epoch": [0, 1], "lr": [0.1, 0.0], "train_loss": [1.0, 0.5]})
    return tmp_path


def write_figures() -> None:
    """Write the metrics as the evaluations of the models in the folder do."""
    hash_of = model_identities({"any": Path("models/sae")})["any"]
    for name, content in FIGURES.items():
        names = ("encoder", "decoder", "accuracy", "sparse_dictionary", "predictor")
        write_json(Path(f"metrics/{name}.json"), {name: content, f"{name}_of": dict.fromkeys(names, hash_of)})


def write_representations(zoo: Zoo) -> None:
    """Write a latent of four numbers for every network of a zoo, one run in each of the smaller splits."""
    runs = dict.fromkeys(sorted(set(zoo.table["run_id"])), "train")
    validation, test, *_ = runs
    runs |= {validation: "validation", test: "test"}
    table = zoo.table[["model_id", "run_id", "checkpoint"]].assign(
        split=zoo.table["run_id"].map(runs), latent=list(np.arange(4 * len(zoo), dtype=np.float32).reshape(-1, 4))
    )
    Path("representations").mkdir()
    table.to_parquet("representations/representations.parquet")
    write_json(Path("representations/manifest.json"), {"encoder": "0" * 64})


def preset(text: str) -> None:
    path = Path("preset.yaml")
    path.write_text(text, encoding="utf-8")
    apply_preset(path, PARAMS)


def run(*more: str, predictor: bool = True) -> None:
    main([
        "--zoo", "zoo", "--representations", "representations", "--autoencoder", "models/autoencoder",
        "--encoder", "models/encoder", "--decoder", "models/decoder", "--codec", "models/codec",
        "--heads", "models/heads", "--sae", "models/sae", "--plots", "plots",
        *(["--predictor", "models/predictor"] if predictor else []),
        "--metrics", *(f"metrics/{name}.json" for name in (*FIGURES, *more) if predictor or name != "predictor_test"),
        "--out", "published", "--datasets", "datasets",
    ])  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_model_has_what_it_needs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    model = {"config.json", "model.safetensors", "README.md", "checksums.json", "runs/events.out.tfevents.0.wscore"}
    sided = model | {"tokenizer.json", "normalizer.json"}
    wanted = {"README.md", "checksums.json"}
    wanted |= {f"weight_encoder/decoder/{name}" for name in ("config.json", "model.safetensors")}
    wanted |= {f"codec/{name}" for name in ("config.json", "codec.safetensors", "README.md", "checksums.json")}
    own = ("weight_encoder", "heads/accuracy", "sparse_dictionary", "predictor")
    for part, names in (("encoder", sided), ("decoder", sided), *((name, model) for name in own)):
        wanted |= {f"{part}/{name}" for name in names}
    assert set(files(Path("published"))) == wanted
    assert (
        Path("published/encoder/model.safetensors").read_bytes()
        == Path("models/autoencoder/encoder/model.safetensors").read_bytes()
    )
    summary = capsys.readouterr().out
    assert summary == (
        "7 models (encoder, decoder, codec, weight_encoder, heads/accuracy, sparse_dictionary, predictor) "
        "and 2 data sets (zoo, representations)\n"
    )


def test_the_models_of_a_zoo_are_published_without_a_predictor(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (Path("models/predictor"), Path("plots/predictor")):
        shutil.rmtree(path)
    Path("metrics/predictor_test.json").unlink()
    run(predictor=False)
    assert capsys.readouterr().out.startswith(
        "6 models (encoder, decoder, codec, weight_encoder, heads/accuracy, sparse_dictionary) and 2 data"
    )
    assert not Path("published/predictor").exists()


def test_only_the_parts_that_are_asked_for_are_needed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("autoencoder", "sae", "predictor", "codec"):
        shutil.rmtree(Path("models") / name)
        Path(f"metrics/{name}_test.json").unlink(missing_ok=True)
    preset("publish: {parts: [encoder, heads]}")
    run()
    assert capsys.readouterr().out.startswith("2 models (weight_encoder, heads/accuracy) and 2 data")
    preset("publish: {parts: [encoder, heads, dictionary]}")
    with pytest.raises(
        SystemExit, match="sae_test: metrics are missing; run `dvc repro evaluate_sae`, or leave the model out"
    ):
        run()
    preset("publish: {parts: [heads]}")
    with pytest.raises(SystemExit, match="parts with heads need the encoder"):
        run()


def test_heads_of_another_encoder_are_refused(workplace: Path) -> None:
    path = Path("models/heads/accuracy/config.json")
    write_json(path, {**json.loads(path.read_text()), "encoder": "0" * 64})
    with pytest.raises(SystemExit, match="heads/accuracy: reads latents of another encoder; expected"):
        run()


@pytest.mark.parametrize("content", [{"sae_test_of": {"sparse_dictionary": "0" * 16}}, {}])
def test_metrics_of_another_model_are_refused(workplace: Path, content: dict) -> None:
    write_json(Path("metrics/sae_test.json"), {"sae_test": FIGURES["sae_test"], **content})
    got = "0" * 16 if content else "unknown"
    message = (
        rf"publish: sae_test: sparse_dictionary: metrics are those of another model; expected \w{{16}}; got {got}; run"
    )
    with pytest.raises(SystemExit, match=message):
        run()
    assert not Path("published").exists()


def test_cards_hold_figures_controls_and_origin(workplace: Path) -> None:
    run()
    card = Path("published/encoder/README.md").read_text()
    assert "| this model | 0.5 | 0.25 |" in card
    assert "| mean network | 0.125 | 0 |" in card
    assert "24 networks of 12 training runs" in card
    assert "latent_dim:" in card
    head = Path("published/heads/accuracy/README.md").read_text()
    assert json.loads(Path("published/weight_encoder/config.json").read_text())["sha256"] in head
    assert "| this model | 0.75 |" in head


def test_the_codec_tells_its_size_and_what_was_measured(workplace: Path) -> None:
    run()
    card = Path("published/codec/README.md").read_text()
    size = sum(path.stat().st_size for path in Path("models/codec").iterdir())
    assert f"take {size / 1000:,.0f} kB" in card
    assert "No metrics." in card
    measured = {"codec_test": {"20x": {"search": {"agreement": 0.75}}, "networks": 3}}
    write_json(
        Path("metrics/codec_test.json"), {**measured, "codec_test_of": {"codec": hash_folder(Path("models/codec"))}}
    )
    run("codec_test")
    card = Path("published/codec/README.md").read_text()
    assert "| 20x, search | 0.75 |" in card
    assert 'WeightCodec.from_folder(fetch("published", part="codec"))' in card
    assert read_codec("published").identity == WeightCodec().identity
    write_json(Path("metrics/codec_test.json"), measured)
    with pytest.raises(SystemExit, match="codec_test: codec: metrics are those of another model"):
        run("codec_test")
    with Path("published/codec/codec.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=r"codec\.safetensors"):
        read_codec("published")


def test_the_predictor_is_judged_on_unseen_runs_at_the_first_and_the_last_step(workplace: Path) -> None:
    run()
    card = Path("published/predictor/README.md").read_text()
    assert "| | skill, 1 ahead | skill, 2 ahead | accuracy, 1 ahead | accuracy, 2 ahead |" in card
    assert "| this model | -0.25 | -0.75 | 0.5 | 0.25 |" in card
    assert "| copy last | 0 | 0 | 0.75 | 0.5 |" in card
    assert "an unseen training run" in card


def test_twice_the_same_bytes(workplace: Path) -> None:
    run()
    first = files(Path("published")), files(Path("datasets"))
    run()
    assert (files(Path("published")), files(Path("datasets"))) == first


def test_an_impossible_upload_leaves_the_folder_whole(workplace: Path) -> None:
    run()
    first = files(Path("published"))
    preset("publish: {target: hub, repo_id: me/zoo}")
    with pytest.raises(SystemExit, match=r"^publish: publish\.repo_id=me/zoo: no token"):
        run()
    assert set(files(Path("published"))) == set(first)
    preset("publish: {repo_id: non/sense/}")
    with pytest.raises(SystemExit, match=r"^publish: publish\.repo_id: malformed repository id"):
        run()
    assert set(files(Path("published"))) == set(first)


def test_nothing_is_published_on_request(workplace: Path) -> None:
    preset("publish: {target: none}")
    run()
    assert set(files(Path("published"))) == {"README.md", "checksums.json"}
    assert set(files(Path("datasets"))) == {"checksums.json"}


def test_only_the_named_data_sets_are_published(workplace: Path) -> None:
    preset("publish: {datasets: [representations]}")
    run()
    assert {path.partition("/")[0] for path in files(Path("datasets"))} == {"representations", "checksums.json"}


@pytest.mark.parametrize("name", ["published", "datasets"])
def test_a_folder_of_somebody_else_is_not_touched(workplace: Path, name: str) -> None:
    Path(name).mkdir()
    Path(name, "thesis.txt").write_text("the only copy")
    with pytest.raises(SystemExit, match=rf"{name}: is not empty and was not published by wscore; got thesis\.txt"):
        run()
    assert files(Path(name)) == {"thesis.txt": b"the only copy"}


def test_the_hub_needs_a_repository(workplace: Path) -> None:
    preset("publish: {target: hub}")
    with pytest.raises(SystemExit, match=r"params\.yaml: publish.*target hub needs repo_id"):
        run()


def test_cards_say_where_the_models_will_lie(workplace: Path) -> None:
    preset("publish: {repo_id: me/zoo}")
    run()
    assert 'from_pretrained("me/zoo", side="encoder")' in Path("published/encoder/README.md").read_text()
    preset("publish: {layout: separate}")
    run()
    assert 'from_pretrained("me/zoo-encoder")' in Path("published/encoder/README.md").read_text()
    assert 'load_dataset("me/zoo-zoo"' in Path("datasets/zoo/README.md").read_text()


def test_tensorboard_reads_the_curves(workplace: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run()
    events = EventAccumulator("published/heads/accuracy/runs").Reload()
    assert [(item.step, item.value) for item in events.Scalars("train_loss")] == [(0, 1.0), (1, 0.5)]


def test_missing_curves_are_named(workplace: Path) -> None:
    Path("plots/predictor/history.csv").unlink()
    with pytest.raises(SystemExit, match=r"plots/predictor/history\.csv: training curves are missing"):
        run()


def test_a_missing_model_is_named_and_nothing_is_left(workplace: Path) -> None:
    Path("models/heads/accuracy/config.json").unlink()
    with pytest.raises(SystemExit, match="models/heads/accuracy: no model here"):
        run()
    assert not Path("published").exists()


def test_missing_figures_are_named(workplace: Path) -> None:
    write_json(Path("metrics/heads_test.json"), {"other": {}})
    with pytest.raises(SystemExit, match="heads_test: metrics are missing"):
        run()


@pytest.mark.parametrize(
    "text", ["name: ' '", "license: MIT!", "private: 3", "repo_id: 3", "target: s3", "layout: both", "datasets: [all]"]
)
def test_wrong_parameters_are_named(workplace: Path, text: str) -> None:
    preset(f"publish: {{{text}}}")
    with pytest.raises(SystemExit, match=rf"params\.yaml: publish\.{text.partition(':')[0]}"):
        run()
