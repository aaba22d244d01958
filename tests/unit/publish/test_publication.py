"""A whole small publication, trained heads included: asked on the command line, by its bare id, and by a stage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages import cache_representations
from tests.unit.hub_server import HubServer
from tests.unit.publish.work import Work
from wscore.cli.main import main
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.heads.train import save_head
from wscore.hub.checksums import write_checksums
from wscore.hub.upload import Upload, upload
from wscore.publish.pretrained import PublishedHead
from wscore.training.model_folder import read_model_config
from wscore.zoo.store import Zoo

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, for large files
Encoded = Callable[[str | None], tuple[dict[str, list[float]], dict]]
Output = pytest.CaptureFixture[str]
ROW = 3
TASKS = ("accuracy", "hyperparameters", "patterns")


@pytest.fixture(scope="module")
def work(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tiny_zoo, tmp_path_factory.mktemp("publication"))


@pytest.fixture(scope="module")
def published(work: Work) -> Path:
    """An encoder and its three heads, trained on the tiny zoo."""
    out = work.folder / "published"
    for name in ("encoder", "weight_encoder"):
        shutil.copytree(work.folder / name, out / name)
    for task in TASKS:
        save_head(out / "heads" / task, work.train(task, patterns=["has_conv_layers", "has_dropout"]))
        write_checksums(out / "heads" / task)
    write_checksums(out)
    return out


def network(zoo: Path) -> dict[str, Tensor]:
    opened = Zoo(zoo)
    return opened.layout(ROW).unflatten(torch.from_numpy(opened.weights([ROW])[0]))


def said(published: Path, zoo: Path, task: str, *, known: bool = True) -> dict:
    """What the library says about the network, whose architecture is known or not."""
    head = PublishedHead(published / "heads" / task, WeightEncoder.from_pretrained(published))
    return head.predict(network(zoo), architecture=Zoo(zoo).table["architecture"].iloc[ROW] if known else "")


def name_of(zoo: Path) -> str:
    return f"{zoo}#{Zoo(zoo).table['model_id'].iloc[ROW]}"


def predicted(capsys: Output, *arguments: object) -> dict:
    capsys.readouterr()
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_predict_tells_what_the_heads_say_with_their_intervals(published: Path, tiny_zoo: Path, capsys: Output) -> None:
    [found] = predicted(capsys, "predict", name_of(tiny_zoo), "--model", published)["networks"]
    assert sorted(found["heads"]) == sorted(TASKS)
    for task in TASKS:
        assert found["heads"][task] == said(published, tiny_zoo, task)
    accuracy = found["heads"]["accuracy"]
    assert accuracy["test_accuracy_low"] < accuracy["test_accuracy"] < accuracy["test_accuracy_high"]
    assert {type(value) for value in found["heads"]["patterns"].values()} == {bool}
    assert found["heads"]["hyperparameters"]["optimizer"] in set(Zoo(tiny_zoo).table["optimizer"])


def test_the_table_shows_a_value_and_its_interval_in_one_row(published: Path, tiny_zoo: Path, capsys: Output) -> None:
    main(["predict", name_of(tiny_zoo), "--model", str(published)])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.split() == ["network", "head", "property", "value", "interval", "inside", "basis"]
    rows = {line.split()[2]: line for line in lines}
    assert not [name for name in rows if name.endswith(("_low", "_high"))]
    values = said(published, tiny_zoo, "accuracy")
    ends = [f"{values[f'test_accuracy{end}']:.4g}" for end in ("_low", "_high")]
    assert rows["test_accuracy"].split()[3:6] == [f"{values['test_accuracy']:.4g}", f"[{ends[0]},", f"{ends[1]}]"]
    assert rows["has_conv_layers"].split()[3] in ("yes", "no")


@pytest.mark.parametrize("known", [False, True])
def test_a_file_is_read_with_and_without_its_architecture(
    published: Path, tiny_zoo: Path, tmp_path: Path, capsys: Output, known: bool
) -> None:
    save_file({name: tensor.clone() for name, tensor in network(tiny_zoo).items()}, tmp_path / "net.safetensors")
    command = ["predict", tmp_path / "net.safetensors", "--model", published, "--heads", "accuracy"]
    command += ["--architecture", Zoo(tiny_zoo).table["architecture"].iloc[ROW]] if known else []
    encoding = WeightEncoder.from_pretrained(published).encode_network(network(tiny_zoo))
    told = {"inside": pytest.approx(float(encoding.inside)), "basis": encoding.basis}
    assert predicted(capsys, *command)["networks"] == [
        {
            "network": "net.safetensors",
            **told,
            "heads": {"accuracy": said(published, tiny_zoo, "accuracy", known=known)},
        }
    ]


def test_separate_repositories_are_found_by_their_common_id(
    published: Path, tiny_zoo: Path, hub: HubServer, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {
        "weight_encoder": published / "weight_encoder",
        **{f"heads-{task}": published / "heads" / task for task in TASKS},
    }
    upload([Upload(f"me/zoo-{name}", folder) for name, folder in folders.items()])
    assert "models/me/zoo" not in hub.repositories
    expected = WeightEncoder.from_pretrained(published).encode(network(tiny_zoo))
    assert torch.equal(WeightEncoder.from_pretrained("me/zoo").encode(network(tiny_zoo)), expected)
    here, there = (
        predicted(capsys, "predict", name_of(tiny_zoo), "--model", source) for source in (published, "me/zoo")
    )
    assert here == there
    [one] = predicted(capsys, "predict", name_of(tiny_zoo), "--model", "me/zoo", "--heads", "accuracy")["networks"]
    assert one["heads"] == {"accuracy": said(published, tiny_zoo, "accuracy")}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert predicted(capsys, "predict", name_of(tiny_zoo), "--model", "me/zoo") == there
    assert hub.requests == []


def test_of_separate_repositories_the_heads_that_are_there_answer(
    published: Path, tiny_zoo: Path, hub: HubServer, capsys: Output
) -> None:
    upload([
        Upload("me/zoo-weight_encoder", published / "weight_encoder"),
        Upload("me/zoo-heads-patterns", published / "heads" / "patterns"),
    ])  # fmt: skip
    [found] = predicted(capsys, "predict", name_of(tiny_zoo), "--model", "me/zoo")["networks"]
    assert found["heads"] == {"patterns": said(published, tiny_zoo, "patterns")}
    with pytest.raises(SystemExit, match="me/zoo: no such head; expected patterns; got accuracy, size"):
        main(["predict", name_of(tiny_zoo), "--model", "me/zoo", "--heads", "patterns", "size", "accuracy"])


def test_without_any_head_the_command_says_so(published: Path, tiny_zoo: Path, hub: HubServer) -> None:
    upload([Upload("me/zoo-weight_encoder", published / "weight_encoder")])
    with pytest.raises(SystemExit, match="me/zoo: no such head; expected heads/NAME; got none"):
        main(["predict", name_of(tiny_zoo), "--model", "me/zoo"])


def test_a_head_that_the_folder_lacks_is_named_beside_those_it_has(published: Path, tiny_zoo: Path) -> None:
    reason = "no such head; expected accuracy, hyperparameters, patterns; got size"
    with pytest.raises(SystemExit, match=reason):
        main(["predict", name_of(tiny_zoo), "--model", str(published), "--heads", "accuracy", "size"])


@pytest.fixture
def encoded(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoded:
    """Runs the stage with an encoder from the Hub and returns the latents by `model_id` and the manifest."""
    monkeypatch.chdir(tmp_path)

    def run(revision: str | None) -> tuple[dict[str, list[float]], dict]:
        Path("params.yaml").write_text(json.dumps({"features": {"encoder": "me/zoo", "revision": revision}}))
        tokens = str(work.folder / "tokens")
        arguments = ["--zoo", str(work.zoo.folder), "--tokens", tokens, "--encoder", "unused", "--out", "latents"]
        cache_representations.main(arguments)
        table = pd.read_parquet("latents/representations.parquet")
        latents = dict(zip(table["model_id"], map(list, table["latent"]), strict=True))
        return latents, json.loads(Path("latents/manifest.json").read_text())

    return run


def test_a_stage_takes_an_encoder_from_the_hub_at_a_pinned_revision(
    published: Path, tiny_zoo: Path, hub: HubServer, encoded: Encoded
) -> None:
    upload([Upload("me/zoo", published / "weight_encoder")])
    commit = hub.repositories["models/me/zoo"].commits[-1][0]
    latents, manifest = encoded(commit)
    assert sorted(latents) == sorted(Zoo(tiny_zoo).table["model_id"])
    assert manifest["encoder"] == read_model_config(published / "weight_encoder")["sha256"]
    expected = WeightEncoder.from_pretrained(published).encode(network(tiny_zoo)).numpy()
    np.testing.assert_allclose(latents[Zoo(tiny_zoo).table["model_id"].iloc[ROW]], expected, atol=1e-4)
    with pytest.raises(SystemExit, match=f"me/zoo at {'9' * 40}.*404"):
        encoded("9" * 40)
