"""The command line: readable and machine-readable answers, and exit codes that tell what happened."""

import json
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import wscore
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.problem import SearchConfig
from wscore.autoencoder.models.autoencoder import AutoencoderConfig, Decoder, Encoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.cli.main import EXAMPLES, build_parser, main
from wscore.config import convert, read_yaml
from wscore.encoder.config import EncoderConfig
from wscore.encoder.decoder import DecoderShape, WeightDecoder
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.forecasting.models.predictors import GramPredictor, GramPredictorConfig
from wscore.hub.checksums import write_checksums
from wscore.io import write_json
from wscore.publish.weight_autoencoder import WeightAutoencoder
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import save_model
from wscore.zoo.store import Zoo

Output = pytest.CaptureFixture[str]
PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.fixture(scope="module")
def models(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small untrained models as they are published, and the representations of the zoo beside them."""
    config = TokensConfig(
        granularity="neuron", chunk_size=64, max_tokens=512, align="weights",
        normalization="layer", unseen_widths={}, validation_fraction=0.2, test_fraction=0.2, seed=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("cli")
    build_cache(Zoo(tiny_zoo), config, folder / "tokens")
    cache = TokenCache(folder / "tokens")
    network = MlpConfig(
        token_dim=cache.token_dim, max_tokens=cache.max_tokens, latent_dim=8, hidden_dim=16, layers=1,
        pooling="flatten", positions="sinusoidal", dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    out = folder / "published"
    for name, kind in (("encoder", Encoder), ("decoder", Decoder)):
        save_model(out / name, kind(AutoencoderConfig(network=network)))
        cache.copy_codec(out / name)
        write_checksums(out / name)
    forecast = GramPredictorConfig(
        sequence_length=3, horizons=(1, 2, 4), model_dim=4, layers=1, heads=1, dropout=0.0,
        lagged_snapshots=(), rank_splits=(3, 20), ensemble_size=1,
    )  # fmt: skip
    save_model(out / "predictor", GramPredictor(forecast), extra={"training": {"stride": 1}})
    write_checksums(out / "predictor")
    (out / "codec").mkdir()
    WeightCodec().save(out / "codec")
    write_checksums(out / "codec")
    shipped = read_yaml(PARAMS)["encoder"] | {"probes": 10, "probe_steps": 2, "hidden_dim": 8, "epochs": 1}
    splits = cache.splits(len(Zoo(tiny_zoo)))
    encoder, _ = WeightEncoder.fit(
        Zoo(tiny_zoo), splits, convert(shipped, EncoderConfig, where="encoder"), latent_dim=8
    )
    encoder.save(out / "weight_encoder")
    shape = DecoderShape(
        latent_dim=8, memory=2, hidden_dim=8, rank=8, layers=1, heads=2, exemplars=1,
        layouts=tuple(cache.layouts.values()),
    )  # fmt: skip
    hash_of = WeightEncoder.from_folder(out / "weight_encoder").identity
    save_model(out / "weight_encoder/decoder", WeightDecoder(shape), extra={"encoder": hash_of})
    write_checksums(out / "weight_encoder")
    write_checksums(out)
    write_representations(folder / "representations", out, Zoo(tiny_zoo))
    return out


def write_representations(folder: Path, models: Path, zoo: Zoo) -> None:
    encoder = WeightEncoder.from_pretrained(models)
    states = [zoo.layout(row).unflatten(torch.from_numpy(zoo.weights([row])[0])) for row in range(len(zoo))]
    latents = [encoder.encode(state).numpy() for state in states]
    table = zoo.table[["model_id", "test_accuracy"]].assign(latent=latents)
    (folder / "data").mkdir(parents=True)
    table.to_parquet(folder / "data/train-00000-of-00001.parquet")
    write_json(folder / "manifest.json", {"encoder": encoder.identity})


@pytest.fixture
def checkpoint(tiny_zoo: Path, tmp_path: Path) -> Path:
    """A network as safetensors, which sorts its tensors."""
    zoo = Zoo(tiny_zoo)
    state = zoo.layout(9).unflatten(torch.from_numpy(zoo.weights([9])[0]))
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def name_of(zoo: Path, row: int) -> str:
    return f"{zoo}#{Zoo(zoo).table['model_id'].iloc[row]}"


def output_of(capsys: Output, *arguments: object) -> dict:
    capsys.readouterr()
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def failed(capsys: Output, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    assert isinstance(stopped.value.code, str)  # printed on standard error, status 1
    return stopped.value.code


def test_a_latent_does_not_depend_on_the_kind_of_file(
    models: Path, tiny_zoo: Path, checkpoint: Path, tmp_path: Path, capsys: Output
) -> None:
    torch.save(load_file(checkpoint), tmp_path / "net.pt")
    found = output_of(capsys, "encode", checkpoint, tmp_path / "net.pt", name_of(tiny_zoo, 9), "--model", models)[
        "networks"
    ]
    zoo = Zoo(tiny_zoo)
    state = zoo.layout(9).unflatten(torch.from_numpy(zoo.weights([9])[0]))
    expected = WeightEncoder.from_pretrained(models).encode(state).tolist()
    assert [one["latent"] for one in found] == [expected] * 3
    assert found[0]["network"] == "net.safetensors"


def test_a_table_is_for_people(models: Path, checkpoint: Path, capsys: Output) -> None:
    main(["encode", str(checkpoint), "--model", str(models)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "weights", "inside", "basis", "latent"]
    assert lines[1].startswith("net.safetensors")
    assert "(8 numbers)" in lines[1]
    main(["encode", str(checkpoint), "--model", str(models), "--autoencoder"])
    assert capsys.readouterr().out.split()[:4] == ["network", "weights", "windows", "latent"]


def test_latents_come_back_as_networks(models: Path, tiny_zoo: Path, tmp_path: Path, capsys: Output) -> None:
    file, out = tmp_path / "latents.safetensors", tmp_path / "rebuilt"
    output_of(capsys, "encode", tiny_zoo, "--limit", 3, "--model", models, "--autoencoder", "--out", file)
    rows = output_of(capsys, "decode", file, "--model", models, "--out", out)["networks"]
    zoo, model = Zoo(tiny_zoo), WeightAutoencoder.from_pretrained(models)
    for row, one in enumerate(rows):
        rebuilt = load_file(one["file"])
        expected = model.decode(model.encode(zoo[row]).latents, zoo[row])  # units in the order of the reference
        assert all(torch.equal(rebuilt[name], tensor) for name, tensor in expected.items())
    assert "already exists" in failed(capsys, "decode", file, "--model", models, "--out", out)
    output_of(capsys, "encode", tiny_zoo, "--limit", 1, "--model", models, "--out", file)
    assert "wscore encode --autoencoder" in failed(capsys, "decode", file, "--model", models, "--out", tmp_path / "no")


def test_latents_without_notes_need_a_network_like_them(
    models: Path, checkpoint: Path, tmp_path: Path, capsys: Output
) -> None:
    save_file({"x": torch.zeros(1, 8)}, tmp_path / "latents.safetensors")
    command = ("decode", tmp_path / "latents.safetensors", "--model", models, "--out", tmp_path / "rebuilt")
    assert "use --like" in failed(capsys, *command)
    assert output_of(capsys, *command, "--like", checkpoint)["networks"][0]["weights"] > 0


def test_the_nearest_network_is_the_network_itself(
    models: Path, checkpoint: Path, tiny_zoo: Path, capsys: Output
) -> None:
    among = models.parent / "representations"
    found = output_of(capsys, "neighbours", checkpoint, "--model", models, "--among", among, "-k", 3)
    assert found["among"] == len(Zoo(tiny_zoo))
    assert [row["distance"] for row in found["neighbours"]] == sorted(row["distance"] for row in found["neighbours"])
    assert found["neighbours"][0]["model_id"] == Zoo(tiny_zoo).table["model_id"].iloc[9]
    assert found["neighbours"][0]["distance"] < 1e-4
    main(["neighbours", str(checkpoint), "--model", str(models), "--among", str(among)])
    assert "nearest to net.safetensors of" in capsys.readouterr().out


def test_representations_of_another_encoder_are_refused(
    models: Path, checkpoint: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "data").mkdir()
    pd.DataFrame({"model_id": ["a"], "latent": [np.zeros(8, np.float32)]}).to_parquet(tmp_path / "data/train-0.parquet")
    write_json(tmp_path / "manifest.json", {"encoder": "another"})
    assert "another encoder" in failed(capsys, "neighbours", checkpoint, "--model", models, "--among", tmp_path)


def test_a_way_through_latent_space_starts_and_ends_at_the_networks(
    models: Path, tiny_zoo: Path, tmp_path: Path, capsys: Output
) -> None:
    zoo = Zoo(tiny_zoo)
    same = zoo.table.index[zoo.table["layout"] == zoo.table["layout"].iloc[0]][:2]
    ends = [name_of(tiny_zoo, int(row)) for row in same]
    command = ("interpolate", *ends, "--model", models, "--steps", 3)
    path = output_of(capsys, *command, "--images", "digits", "--out", tmp_path / "between")["path"]
    assert [row["share"] for row in path] == [0.0, 0.5, 1.0]
    accuracies = zoo.table["test_accuracy"].iloc[same].tolist()
    straight = [row["accuracy, straight line"] for row in path]
    assert [straight[0], straight[-1]] == pytest.approx(accuracies, abs=1e-6)
    assert len(list((tmp_path / "between").glob("*.safetensors"))) == 3
    other = name_of(tiny_zoo, int(zoo.table.index[zoo.table["layout"] != zoo.table["layout"].iloc[0]][0]))
    command = ("interpolate", ends[0], other, "--model", models, "--steps", 3, "--images", "digits")
    path = output_of(capsys, *command, "--out", tmp_path / "across")["path"]
    state = load_file(tmp_path / "across/step-2.safetensors")
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in zoo.state_dict(int(same[0])).items()
    }, "networks of other widths are decoded in the layout of the first"
    encoder = WeightEncoder.from_pretrained(models)
    away = encoder.encode(state) - encoder.encode(zoo.state_dict(zoo.row_of(other.rpartition("#")[2])))
    assert path[2]["latent distance to second"] == pytest.approx(float(away.norm()), abs=1e-4)
    assert all(0 <= row["accuracy"] <= 1 for row in path)


def test_layouts_that_were_not_trained_on_are_refused(models: Path, tmp_path: Path, capsys: Output) -> None:
    save_file(torch.nn.Linear(5, 3).state_dict(), tmp_path / "other.safetensors")
    save_file({"x": torch.zeros(1, 8)}, tmp_path / "latents.safetensors")
    other = tmp_path / "other.safetensors"
    commands = [
        ("encode", other, "--autoencoder"),
        ("interpolate", other, other),
        ("decode", tmp_path / "latents.safetensors", "--like", other, "--out", tmp_path / "rebuilt"),
    ]
    for command in commands:
        message = failed(capsys, *command, "--model", models)
        assert "was not trained on networks with these shapes of tensors" in message
        assert "got 18 weights in 2 tensors; `wscore compress` takes any network" in message
    assert not (tmp_path / "rebuilt").exists()


def test_an_untrained_predictor_copies_the_last_snapshot(
    models: Path, tiny_zoo: Path, tmp_path: Path, capsys: Output
) -> None:
    zoo = Zoo(tiny_zoo)
    rows = zoo.table.index[zoo.table["layout"] == zoo.table["layout"].iloc[0]][[0, 1, 0]]
    names = [name_of(tiny_zoo, int(row)) for row in rows]
    found = output_of(capsys, "forecast", *names, "--model", models, "--steps", 4, "--out", tmp_path / "future")
    assert [row["step"] for row in found["steps"]] == [1, 2, 4]
    assert [row["change"] for row in found["steps"]] == [0.0, 0.0, 0.0]
    last = zoo.layout(int(rows[2])).unflatten(torch.from_numpy(zoo.weights([int(rows[2])])[0]))
    assert all(torch.equal(load_file(tmp_path / "future/step-4.safetensors")[name], last[name]) for name in last)
    assert "horizons were not trained" in failed(capsys, "forecast", *names, "--model", models, "--steps", 3)
    assert "too few snapshots" in failed(capsys, "forecast", *names[:2], "--model", models)
    assert "--at is for a recorded run" in failed(capsys, "forecast", *names, "--model", models, "--at", 3)


def test_snapshots_in_a_folder_come_in_the_order_of_their_numbers(models: Path, tmp_path: Path, capsys: Output) -> None:
    for step in (8, 9, 10):
        save_file({"weight": torch.full((2, 3), float(step))}, tmp_path / f"epoch-{step}.safetensors")
    found = output_of(capsys, "forecast", tmp_path, "--model", models)
    assert found["snapshots"] == [f"epoch-{step}.safetensors" for step in (8, 9, 10)]
    save_file({"weight": torch.full((2, 3), 11.0)}, tmp_path / "epoch-11.safetensors")
    later = output_of(capsys, "forecast", tmp_path, "--model", models)
    assert later["snapshots"] == [f"epoch-{step}.safetensors" for step in (9, 10, 11)]  # no more are looked at


def test_a_recorded_run_is_forecast_beside_what_came(models: Path, tmp_path: Path, capsys: Output) -> None:
    network = torch.nn.Linear(3, 2)
    recorder = wscore.record(network, tmp_path / "run-7", every=1)
    for _ in range(5):
        with torch.no_grad():
            network.weight += 1.0
        recorder.step()
    found = output_of(capsys, "forecast", tmp_path / "run-7", "--model", models, "--at", 3, "--steps", 2)
    assert found["snapshots"] == ["run-7@1", "run-7@2", "run-7@3"]
    assert [row["error of copying"] for row in found["steps"]] == pytest.approx([6**0.5, 2 * 6**0.5])
    assert [row["skill"] for row in found["steps"]] == [0.0, 0.0]  # the predictor is untrained: it copies
    last = output_of(capsys, "forecast", tmp_path / "run-7", "--model", models)
    assert "skill" not in last["steps"][0]
    assert "expected from 2 to 5; got 1" in failed(capsys, "forecast", tmp_path / "run-7", "--model", models, "--at", 1)
    several = failed(capsys, "forecast", tmp_path, "--model", models)
    assert f"name one of the recorded runs, such as {tmp_path / 'run-7'}" in several


def test_a_network_is_described(models: Path, checkpoint: Path, tiny_zoo: Path, capsys: Output) -> None:
    found = output_of(capsys, "inspect", name_of(tiny_zoo, 9), "--model", models)
    state = load_file(checkpoint)
    rows = {row["tensor"]: row for row in found["layers and tensors"]}
    assert set(rows) == {name for name, tensor in state.items() if tensor.is_floating_point()}
    assert rows["head.weight"]["mean"] == pytest.approx(float(state["head.weight"].double().mean()))
    assert found["symmetry"] == "derived from the architecture"
    groups = found["units that can change places"]
    unknown = output_of(capsys, "inspect", checkpoint, "--model", models)
    assert "of this layout" in unknown["symmetry"]
    assert unknown["units that can change places"] == groups
    nothing = output_of(capsys, "inspect", checkpoint, "--model", checkpoint.parent)
    assert nothing["symmetry"].startswith("unknown")


def test_shards_are_one_network(models: Path, checkpoint: Path, tmp_path: Path, capsys: Output) -> None:
    state = load_file(checkpoint)
    where = {name: f"model-{place % 2 + 1:05d}-of-00002.safetensors" for place, name in enumerate(state)}
    folder = tmp_path / "shards"
    folder.mkdir()
    for file in set(where.values()):
        save_file({name: state[name] for name in state if where[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    for name in (folder, index):
        assert output_of(capsys, "inspect", name, "--model", models)["tensors"] == len(state)


def test_what_else_a_file_holds_is_described(models: Path, checkpoint: Path, tmp_path: Path, capsys: Output) -> None:
    state = load_file(checkpoint)
    odd = {"mask": torch.ones(3, dtype=torch.bool), "table": torch.arange(6).reshape(2, 3), "empty": torch.zeros(0, 4)}
    average = {name: tensor + 1 for name, tensor in state.items()}
    content = {
        "model": {**state, **odd},
        "model_ema": {**average, **odd},
        "optimizer": {"momentum_buffer": torch.ones(9)},
    }
    torch.save(content, tmp_path / "all.pt")
    found = output_of(capsys, "inspect", tmp_path / "all.pt", "--model", models)
    assert found["read from"] == "model"
    assert found["left out"] == [
        {"entry": "model_ema", "what": "an average of the network beside it"},
        {"entry": "optimizer", "what": "state of the training, such as an optimizer's"},
    ]
    assert found["masks and tables"] == [
        {"tensor": "mask", "shape": "3", "dtype": "bool"}, {"tensor": "table", "shape": "2x3", "dtype": "int64"},
    ]  # fmt: skip
    main(["inspect", str(tmp_path / "all.pt"), "--model", str(models)])
    assert "an average of the network beside it" in capsys.readouterr().out


def test_names_of_files_with_escapes_are_shown_escaped(models: Path, tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "a\x1b[31mb.pt"
    torch.save(torch.nn.Linear(3, 2).state_dict(), path)
    main(["inspect", str(path), "--model", str(models)])
    shown = capsys.readouterr().out
    assert "a\\x1b[31mb.pt" in shown
    assert "\x1b" not in shown + failed(capsys, "inspect", f"{path}.absent", "--model", models)


def test_a_network_that_does_not_fit_its_architecture_is_one_line(
    models: Path, tiny_zoo: Path, tmp_path: Path, capsys: Output
) -> None:
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "net.pt")
    text = Zoo(tiny_zoo).table["architecture"].iloc[0]
    message = failed(capsys, "inspect", tmp_path / "net.pt", "--architecture", text, "--model", models)
    assert "net.pt: does not fit its architecture; got the network has no weight" in message


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float64])
def test_all_types_of_weights_are_described(kind: torch.dtype, models: Path, tmp_path: Path, capsys: Output) -> None:
    torch.save({"a.weight": torch.rand(4, 3).to(kind), "a.bias": torch.rand(4)}, tmp_path / "net.pt")
    rows = output_of(capsys, "inspect", tmp_path / "net.pt", "--model", models)["layers and tensors"]
    assert rows[0]["dtype"] == str(kind).removeprefix("torch.")


FUNCTION = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10))
"""


def test_an_architecture_is_json_or_a_function_and_names_do_not_matter(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "my_networks.py").write_text(FUNCTION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    quick = partialmethod(WeightCodec.compress, search=SearchConfig(steps=5))
    monkeypatch.setattr(WeightCodec, "compress", quick)
    state = {"a.w": torch.randn(6, 64), "a.b": torch.randn(6), "z.w": torch.randn(10, 6), "z.b": torch.randn(10)}
    torch.save(state, "net.pt")
    text = json.dumps({"family": "mlp", "input": [1, 8, 8], "classes": 10, "widths": [6], "activation": "tanh",
                       "pooling": "none"})  # fmt: skip
    found = [
        output_of(capsys, "inspect", "net.pt", "--architecture", one, "--model", models)
        for one in (text, "my_networks:make")
    ]
    assert [one["symmetry"] for one in found] == ["derived from the architecture"] * 2
    assert [[group["units"] for group in one["units that can change places"]] for one in found] == [[6], [6]]
    rows = [
        output_of(capsys, "compress", "net.pt", "--architecture", one, "--images", "digits", "--ratio", 4,
                  "--model", models, "--out", f"{number}.wsz") for number, one in enumerate((text, "my_networks:make"))
    ]  # fmt: skip
    assert rows[0]["original accuracy"] == rows[1]["original accuracy"]
    assert [row["run on"].partition(" ")[2] for row in rows] == ["training images"] * 2
    bare = output_of(capsys, "compress", "net.pt", "--ratio", 4, "--model", models, "--out", "bare.wsz")
    assert bare["run on"] == "nothing: weights rounded"
    output_of(capsys, "decompress", "1.wsz", "--out", "back.safetensors", "--model", models)
    assert set(load_file("back.safetensors")) == set(state)
    Path("cut.wsz").write_bytes(Path("1.wsz").read_bytes()[:40])
    error = failed(capsys, "decompress", "cut.wsz", "--out", "cut.safetensors", "--model", models)
    assert "cut.wsz: is damaged or cut short" in error
    wrong = {
        "my_networks:other": "has no attribute 'other'", "nowhere:make": "No module named 'nowhere'",
        '{"family":"mlp"}': "got no input, classes, widths, activation, pooling", "[]": "lacks fields",
    }  # fmt: skip
    for one, reason in wrong.items():
        assert reason in failed(capsys, "inspect", "net.pt", "--architecture", one, "--model", models)


def test_absent_models_are_one_line_and_no_look_on_the_internet(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("predict", "encode", "forecast"):
        expected = "models/published: no published models here; run `dvc repro publish`, or name others with --model"
        assert failed(capsys, command, checkpoint) == f"wscore {command}: {expected}"


def test_complex_weights_are_refused_by_name(models: Path, tmp_path: Path, capsys: Output) -> None:
    torch.save({"spectral": torch.rand(3, dtype=torch.complex64), "out.weight": torch.rand(3, 2)}, tmp_path / "net.pt")
    assert "spectral: torch.complex64" in failed(capsys, "inspect", tmp_path / "net.pt", "--model", models)


def test_zoos_and_models_are_described(models: Path, tiny_zoo: Path, capsys: Output) -> None:
    assert output_of(capsys, "inspect", tiny_zoo)["networks"] == len(Zoo(tiny_zoo))
    assert {row["part"] for row in output_of(capsys, "inspect", models)["parts"]} == {
        "codec",
        "decoder",
        "encoder",
        "predictor",
        "weight_encoder",
        "weight_encoder/decoder",
    }
    assert output_of(capsys, "inspect", models / "encoder")["class"] == "Encoder"
    assert output_of(capsys, "inspect", models / "codec")["files"] == "2, all as published"
    main(["inspect", str(models)])
    assert "as published" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["encode", "nothing.safetensors"], "nothing.safetensors: no such file or folder"),
        (["encode", "{here}"], "no networks here"),
        (["encode", "{here}/broken.safetensors"], "broken.safetensors: is not a readable checkpoint"),
        (["encode", "{here}/code.pt"], "code.pt: is not a readable checkpoint"),
        (["encode", "{zoo}#nobody"], "no such network in the zoo"),
        (["encode", "{zoo}", "--limit", "1", "--out", "{here}/x.json"], "is no .safetensors file"),
        (["predict", "{zoo}", "--limit", "1"], "no such head"),
        (["neighbours", "{zoo}", "--among", "{here}"], "is not one network"),
        (["inspect", "{here}/nothing"], "no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    models: Path, tiny_zoo: Path, tmp_path: Path, capsys: Output, arguments: list[str], reason: str
) -> None:
    if "{here}" not in arguments:
        (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
        torch.save({"code": main}, tmp_path / "code.pt")
    places = [text.format(here=tmp_path, zoo=tiny_zoo) for text in arguments]
    message = failed(capsys, *places, "--model", models)
    assert message.startswith(f"wscore {arguments[0]}: ")
    assert reason in message
    assert "\n" not in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [[], ["encode"], ["encode", "x", "--limit", "0"], ["nonsense"], ["encode", "-z"]])
def test_wrong_usage_is_status_2(capsys: Output, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_help_shows_examples_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom wscore.cli.main import main\n"
        "try:\n    main([{!r}, '--help'])\nfinally:\n    print('MODULES', *sys.modules)"
    )
    for command in ("encode", "inspect"):
        result = subprocess.run(
            [sys.executable, "-c", code.format(command)], capture_output=True, text=True, check=True
        )
        text, _, modules = result.stdout.partition("MODULES")
        assert EXAMPLES[command] in text
        assert not {"torch", "numpy", "pandas", "huggingface_hub", "datasets"} & set(modules.split())


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_examples_are_right_usage(command: str) -> None:
    for line in EXAMPLES[command].strip().splitlines():
        options = build_parser().parse_args(line.split()[1:])
        assert options.command == command
