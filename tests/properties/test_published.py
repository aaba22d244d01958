"""Published folders that were tampered with: what is read from them is right, or one named error says what is wrong."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.fuzz import fuzz
from tests.unit.publish.work import Work
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import Population
from wscore.config import convert
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.errors import WscoreError, printable
from wscore.forecasting.models.predictors import GramPredictor, GramPredictorConfig
from wscore.heads.train import save_head
from wscore.hub.checksums import file_sha256, write_checksums
from wscore.io import read_json, write_json
from wscore.networks.architectures import parse
from wscore.networks.inference import StackedAnswer
from wscore.publish.pretrained import PublishedDictionary, PublishedEncoder, PublishedHead, PublishedPredictor
from wscore.sae.model import SparseAutoencoder
from wscore.training.model_folder import save_model
from wscore.zoo.store import Zoo

ROW = 3
PARTS = ["encoder", "weight_encoder", "head", "dictionary", "predictor", "codec"]
ODD = st.sampled_from([
    None, True, -1, 0, 1, 7, 10**9, 10**30, -(10**30), 1e-320, 1e308, float("nan"), float("inf"), "", "x", "\x1b[31m", "a/../b",
    [], {}, [[]], {"a": {}}, [10**9, 10**9, 10**9],
])  # fmt: skip
SPOILED = (0.0, -1.0, float("nan"), float("inf"), 3e38)


@pytest.fixture(scope="module")
def published(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, a head, a dictionary, a predictor and a codec, all tiny."""
    work = Work(tiny_zoo, tmp_path_factory.mktemp("tampered"))
    out = work.folder / "published"
    for name in ("encoder", "weight_encoder"):
        shutil.copytree(work.folder / name, out / name)
    save_head(out / "head", work.train("accuracy"))
    dictionary = SparseAutoencoder(work.cache.token_dim, 12, activation="topk", k=3)
    save_model(out / "dictionary", dictionary, extra={"input": "tokens"})
    work.cache.copy_codec(out / "dictionary")
    plain = {"sequence_length": 3, "horizons": [1, 2], "model_dim": 8, "layers": 1, "heads": 2, "dropout": 0.0}
    plain |= {"lagged_snapshots": [], "rank_splits": [2], "ensemble_size": 1}
    save_model(out / "predictor", GramPredictor(convert(plain, GramPredictorConfig, where="test")))
    zoo = Zoo(tiny_zoo)
    layout = zoo.layout(ROW)
    rows = np.flatnonzero(zoo.table["layout"] == layout.identity)
    architecture = parse(zoo.table["architecture"].iloc[ROW])
    images = torch.rand(8, *architecture.input)
    population = Population(layout, zoo.weights(rows), StackedAnswer(architecture, layout), images)
    WeightCodec.fit([population], images=4).save(out / "codec")
    for folder in out.iterdir():
        write_checksums(folder)
    return out


def use(folder: Path, part: str, zoo: Zoo) -> None:
    """Load one model and apply it to a network of the zoo."""
    layout = zoo.layout(ROW)
    state = layout.unflatten(torch.from_numpy(zoo.weights([ROW])[0]))
    if part == "encoder":
        PublishedEncoder(folder / part).encode(state)
    elif part == "head":
        PublishedHead(folder / part, WeightEncoder.from_folder(folder / "weight_encoder")).predict(state)
    elif part == "weight_encoder":
        WeightEncoder.from_pretrained(folder / part).encode_network(state)
    elif part == "dictionary":
        model = PublishedDictionary(folder / part)
        model.decode(model.encode(state), layout)
    elif part == "codec":
        codec = WeightCodec.from_folder(folder / part)
        codec.decompress(codec.compress(state, ratio=5.0))
    else:
        later = [{name: tensor + 0.01 * step for name, tensor in state.items()} for step in range(3)]
        PublishedPredictor(folder / part).forecast(later, 1)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all entries of nested JSON, the first few of each list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], odd: Any, *, gone: bool) -> Any:
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    if gone and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], odd, gone=gone)
    return copy


def spoiled(dtype: torch.dtype) -> tuple[float, ...]:
    if dtype.is_floating_point:
        return SPOILED
    return (False, True) if dtype == torch.bool else (-1, 0, 7, torch.iinfo(dtype).max)


def sign(folder: Path) -> None:
    """Make all checksums of a folder fit again, as somebody who tampers would."""
    weights, config = folder / "model.safetensors", read_json(folder / "config.json")
    if isinstance(config, dict) and "sha256" in config and isinstance(config["sha256"], str):
        write_json(folder / "config.json", {**config, "sha256": file_sha256(weights)})
    write_checksums(folder)


def outcome(folder: Path, part: str, zoo: Zoo) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        use(folder, part, zoo)
    except WscoreError as error:
        message = str(error)
    else:
        message = ""
    assert message == printable(message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000
    return message


def test_all_are_usable_as_they_are(published: Path, tiny_zoo: Path) -> None:
    assert [outcome(published, part.name, Zoo(tiny_zoo)) for part in published.iterdir()] == [""] * len(PARTS)


@fuzz(60)
@given(st.data())
def test_any_change_of_json_is_harmless_or_named(published: Path, tiny_zoo: Path, tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("copy")
    part = data.draw(st.sampled_from(PARTS))
    for name in {"weight_encoder", part}:
        shutil.copytree(published / name, folder / name)
    names = sorted(path.name for path in (folder / part).glob("*.json") if path.name != "checksums.json")
    path = folder / part / data.draw(st.sampled_from(names))
    content = json.loads(path.read_text())
    place = data.draw(st.sampled_from(places(content)))
    path.write_text(json.dumps(changed(content, place, data.draw(ODD), gone=bool(place) and data.draw(st.booleans()))))
    sign(folder / part)
    outcome(folder, part, Zoo(tiny_zoo))
    shutil.rmtree(folder)


@fuzz(60)
@given(st.data())
def test_any_change_of_weights_is_harmless_or_named(published: Path, tiny_zoo: Path, tmp_path_factory, data) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("copy")
    part = data.draw(st.sampled_from(PARTS))
    for name in {"weight_encoder", part}:
        shutil.copytree(published / name, folder / name)
    path = data.draw(st.sampled_from(sorted((folder / part).glob("*.safetensors"))))
    tensors = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)))
    how = data.draw(st.sampled_from(["fill", "cut", "drop", "type", "ends"]))
    if how == "fill":
        tensors[name] = torch.full_like(tensors[name], data.draw(st.sampled_from(spoiled(tensors[name].dtype))))
    elif how == "cut":
        tensors[name] = tensors[name].flatten()[:-1].clone()
    elif how == "drop":
        del tensors[name]
    elif how == "type":
        tensors[name] = tensors[name].to(
            data.draw(st.sampled_from([torch.float16, torch.int8, torch.float64, torch.bool]))
        )
    else:
        tensors[name] = tensors[name].flip(0).clone() if tensors[name].ndim else tensors[name]
    save_file(tensors, path)
    sign(folder / part)
    outcome(folder, part, Zoo(tiny_zoo))
    shutil.rmtree(folder)
