"""Two data sets of other shapes and counts of classes in one zoo, from params.yaml to the evaluation."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages.evaluate_autoencoder import main as evaluate_autoencoder
from stages.fetch_zoo import main as fetch_zoo
from stages.fit_codec import main as fit_codec
from stages.tokenize_zoo import main as tokenize
from stages.train_autoencoder import main as train_autoencoder
from wscore.autoencoder.decode_weights import subjects
from wscore.autoencoder.evaluation.evaluate import _warn_of_the_unknown, draw_probe_images
from wscore.autoencoder.training.behaviour import Behaviour, SameShapeBatches
from wscore.autoencoder.training.train import AeConfig
from wscore.config import load_section, read_yaml
from wscore.errors import WscoreWarning
from wscore.evaluation.config import EvaluateConfig
from wscore.networks.datasets import DataConfig, Tasks, load_tasks
from wscore.networks.images import IDX
from wscore.networks.inference import StackedAnswer, logits, scores
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

ROOT = Path(__file__).parents[2]
FETCH = ["--out", "zoo", "--report", "report.csv", "--metrics", "zoo.json"]
TOKENIZE = ["--zoo", "zoo", "--out", "tokens", "--metrics", "tokens.json"]
TRAIN = ["--zoo", "zoo", "--tokens", "tokens", "--out", "autoencoder", "--history", "h.csv", "--metrics", "ae.json"]
FIT = ["--zoo", "zoo", "--tokens", "tokens", "--out", "codec", "--metrics", "codec.json"]
EVALUATE = [
    "--zoo",
    "zoo",
    "--tokens",
    "tokens",
    "--autoencoder",
    "autoencoder",
    "--codec",
    "codec",
    "--encoder",
    "encoder",
    "--decoder",
    "decoder",
    "--metrics",
    "m.json",
    "--plots",
    "p",
]
SMALL = {
    "data": {"dataset": ["digits", "bars"], "root": {"bars": "bars"}, "max_train": 120, "max_test": 40},
    "zoo": {
        "n_runs": 24, "checkpoints": 2, "epochs": [1, 1], "train_fraction": [0.5, 0.5],
        "widths": {"mlp": [[4]], "cnn": [[2, 3]], "cnn_bn": [[2, 3]], "resnet": [[2, 3]]},
        "activations": ["relu"], "poolings": ["max"], "batch_sizes": [32], "families": ["mlp", "cnn"],
    },
    "tokens": {"test_fraction": 0.3, "validation_fraction": 0.25},
    "ae": {"latent_dim": 4, "hidden_dim": 8, "layers": 1, "epochs": 2, "batch_size": 8},
    "evaluate": {"bootstrap_samples": 5, "probe_images": 30},
    "evaluate_heads": {"bootstrap_samples": 5, "boosting_iterations": 3},
}  # fmt: skip


def write_bars(folder: Path) -> None:
    """Write 12 x 10 pictures of three kinds of bars as idx files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in ((IDX[:2], 150), (IDX[2:], 60)):
        labels = rng.integers(0, 3, count).astype(np.uint8)
        images = rng.integers(0, 60, (count, 12, 10)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 4] += 150
        for name, array in zip(part, (images, labels), strict=True):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


def write_params(**changes: dict[str, object]) -> None:
    params = read_yaml(ROOT / "params.yaml")
    for section, values in SMALL.items():
        params[section] = {**params[section], **values, **changes.get(section, {})}
    Path("params.yaml").write_text(json.dumps(params))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages run in a folder."""
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_bars(Path("bars"))
        write_params()
        for stage, options in ((fetch_zoo, FETCH), (tokenize, TOKENIZE), (train_autoencoder, TRAIN), (fit_codec, FIT)):
            stage(options)
        Path("decoder").mkdir()  # as for networks that can't be run
        evaluate_autoencoder(EVALUATE)
    return folder


def tasks_of(folder: Path, patch: pytest.MonkeyPatch) -> Tasks:
    patch.chdir(folder)
    return load_tasks(load_section(DataConfig, "data"))


def test_runs_of_every_family_take_turns_and_are_judged_on_their_own_images(made, monkeypatch) -> None:
    zoo, tasks = Zoo(made / "zoo"), tasks_of(made, monkeypatch)
    assert zoo.table.groupby(["dataset", "family"])["run_id"].nunique().to_dict() == {
        (dataset, family): 6 for dataset in ("bars", "digits") for family in ("cnn", "mlp")
    }
    shapes = {name: (tasks.of(name).x_train.shape[1:], tasks.of(name).classes) for name in ("digits", "bars")}
    assert shapes == {"digits": ((1, 8, 8), 10), "bars": ((1, 12, 10), 3)}
    for row in range(0, len(zoo), 7):
        known, images = zoo.table.iloc[row], tasks.of(zoo.table["dataset"].iloc[row])
        answers = logits(
            StackedAnswer(known["architecture"], zoo.layout(row)), torch.from_numpy(zoo.weights([row])), images.x_test
        )
        assert float(scores(answers, images.y_test)[0]) == pytest.approx(known["test_accuracy"], abs=1e-6)


def test_every_network_is_run_by_the_behaviour_loss_on_its_training_images_alone(made, monkeypatch) -> None:
    tasks = tasks_of(made, monkeypatch)
    zoo, cache = Zoo(Path("zoo")), TokenCache(Path("tokens"))
    found = subjects(cache, zoo, np.arange(len(cache)), tasks)
    assert {group.task for group in found} == {"digits", "bars"}
    for group in found:
        assert set(zoo.table["dataset"].iloc[group.rows]) == {group.task}
        assert group.way.answer is not None
    dark = tasks.map(lambda one: one._replace(x_test=one.x_test * float("nan"), y_test=one.y_test * 0))
    behaviour = Behaviour(found, dark, load_section(AeConfig, "ae").behaviour, seed=0)
    for number, group in enumerate(found):
        windows = SameShapeBatches(cache, found, first=0, shuffle=False, batch_size=4, seed=0)
        batch = next(one for one in windows.epoch(0) if int(one.subject[0]) == number)
        losses = behaviour(batch, batch.windows.tokens, training=True)
        assert float(losses["behaviour"]) == pytest.approx(0, abs=1e-6), group.task
    history = pd.read_csv("h.csv")
    assert np.isfinite(history["validation_disagreement"]).all()
    assert np.isfinite(history["train_behaviour"].iloc[-1])  # off in the first epoch, see ae.behaviour.warmup


def test_rebuilt_networks_of_both_data_sets_are_compared(made) -> None:
    found = json.loads((made / "m.json").read_text())["autoencoder_test"]
    assert found["networks_not_run"] == 0
    table = pd.read_csv(made / "p" / "accuracy.csv")
    zoo = Zoo(made / "zoo").table.set_index("model_id")
    assert set(zoo.loc[table["model_id"], "dataset"]) == {"digits", "bars"}
    assert table[["original", "ours", "codec_coordinates"]].notna().all().all()


def test_networks_of_a_data_set_that_is_not_named_are_counted_as_not_run(made, monkeypatch) -> None:
    tasks = tasks_of(made, monkeypatch)
    zoo, more = Zoo(Path("zoo")), tasks.map(lambda one: one._replace(name="stripes") if one.name == "bars" else one)
    shown = draw_probe_images(more, load_section(EvaluateConfig, "evaluate"))
    fits = [shown.fits(kind, zoo.layout(row)) for row, kind in enumerate(shown.kinds(zoo.table))]
    assert fits == (zoo.table["dataset"] == "digits").tolist()
    row = int(np.flatnonzero(zoo.table["dataset"] == "bars")[0])
    reason = more.way(shown.kinds(zoo.table)[row], zoo.layout(row)).reason
    assert reason == "data.dataset lists digits, stripes and not their data set"
    with pytest.warns(WscoreWarning, match=f"{fits.count(False)} of {len(zoo)} networks cannot be run, .*{reason}"):
        _warn_of_the_unknown(zoo, np.arange(len(zoo)), shown)


def test_networks_that_no_factory_builds_are_warned_of_with_the_reason(made, monkeypatch) -> None:
    tasks, zoo = tasks_of(made, monkeypatch), Zoo(made / "zoo")
    zoo.table = zoo.table.assign(architecture="", factory="mixer")
    shown = draw_probe_images(tasks, load_section(EvaluateConfig, "evaluate"))
    reason = f"{len(zoo)} of {len(zoo)} networks cannot be run, .*data.factories does not list 'mixer'"
    with pytest.warns(WscoreWarning, match=reason):
        _warn_of_the_unknown(zoo, np.arange(len(zoo)), shown)
    assert not any(shown.fits(kind, zoo.layout(row)) for row, kind in enumerate(shown.kinds(zoo.table)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"dataset": ["digits", "digits"], "root": None}, "data.dataset: lists a data set twice"),
        ({"dataset": ["digits", "bars"], "root": "bars"}, "data.root: is ambiguous for several data sets"),
        ({"dataset": ["digits"], "root": {"bars": "bars"}}, "data.root.bars: not in data.dataset"),
        ({"dataset": ["digits", "bars"], "root": None}, "data.dataset: unknown data set"),
        ({"dataset": [], "root": None}, "data.dataset"),
    ],
)
def test_lists_that_leave_questions_open_are_refused(tmp_path, monkeypatch, data, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(data=data)
    with pytest.raises(SystemExit) as stop:
        fetch_zoo(FETCH)
    assert message in str(stop.value)
    assert not Path("zoo").exists()
