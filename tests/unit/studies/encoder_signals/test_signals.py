"""Signals see what they should see; removed units leave the others as they were."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from studies.encoder_signals.linear_scores import COLUMNS, SPLITS
from studies.encoder_signals.signals import (
    SIGNALS,
    SignalData,
    SignalStudent,
    combinations,
    snapshots,
    train_latents,
    without_units,
)
from studies.encoder_signals.tables import MARKS, principal_components, sentence, signal_table, update_docs
from tests.unit.encoder.test_weight_encoder import CONFIG
from wscore.encoder.model import EncoderNetwork, EncoderShape
from wscore.networks.layout import layout_of
from wscore.symmetry.trace import derive_spec

NETWORKS, FEATURES, LATENT = 48, 6, 4


@pytest.fixture(scope="module")
def fitted() -> EncoderNetwork:
    shape = EncoderShape(
        features=("linear[-1].std", *(f"chain.{number}" for number in range(FEATURES - 1))), optional=(1,),
        components=LATENT // 2, distilled=LATENT // 2, hidden_dim=8, layers=1, dropout=0.0, calibration=1,
    )  # fmt: skip
    network = EncoderNetwork(shape)
    network.basis[:2] = torch.eye(2)
    return network


@pytest.fixture(scope="module")
def data(fitted: EncoderNetwork) -> SignalData:
    inputs = fitted.inputs(torch.randn(NETWORKS, FEATURES, generator=torch.Generator().manual_seed(0)))
    components = inputs[:, :2]
    earlier, later = snapshots(components, [str(row // 4) for row in range(NETWORKS)])
    return SignalData(inputs, inputs.flip(1), inputs[:, 2:].square(), components, earlier, later)


def split() -> list[str]:
    return ["train", "train", "validation", "test"] * (NETWORKS // 4)


def test_every_signal_is_left_out_once_and_taken_alone_once() -> None:
    sets = combinations()
    assert [sets[name] for name in SIGNALS] == [(name,) for name in SIGNALS]
    assert all(set(sets[f"all less {name}"]) == set(SIGNALS) - {name} for name in SIGNALS)
    assert sets["none"] == ()
    assert sets["all"] == SIGNALS


def test_snapshots_stay_within_their_run() -> None:
    earlier, later = snapshots(torch.arange(4.0)[:, None], ["a", "a", "a", "b"])
    assert later[:, 0].tolist()[:2] == [1, 2]
    assert earlier[:, 0].tolist()[1:3] == [0, 1]
    assert earlier[[0, 3]].isnan().all()
    assert later[2:].isnan().all()


@pytest.mark.parametrize("signals", combinations().values(), ids=combinations())
def test_signals_change_the_second_half_only(
    fitted: EncoderNetwork, data: SignalData, signals: tuple[str, ...]
) -> None:
    places = pd.Series(split()).to_numpy(str)
    latents, again, bare = (
        train_latents(fitted, data, places, names, CONFIG, temperature=0.5) for names in (signals, signals, ())
    )
    half = LATENT // 2
    assert (latents == again).all()
    assert (latents[:, :half] == bare[:, :half]).all()
    assert (latents[:, half:] == bare[:, half:]).all() == (not signals)


def test_losses_are_of_the_named_signals(fitted: EncoderNetwork, data: SignalData) -> None:
    student = SignalStudent(fitted, data, CONFIG, 0.5).eval()
    with torch.no_grad():
        losses = student.loss(("snapshots", "masked"), data)
        nothing = data._replace(earlier=data.earlier * torch.nan, later=data.later * torch.nan)
        assert student.loss(("snapshots",), nothing)["loss"] == 0
    assert losses["loss"] == losses["snapshots"] + losses["masked"]
    assert set(losses) == {"loss", "snapshots", "masked"}


def test_removing_units_that_nobody_reads_keeps_the_function() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    network.eval()
    images = torch.randn(3, 1, 4, 4)
    spec, state = derive_spec(network, images), network.state_dict()
    group = {axes[0].group: len(axes) for name, axes in spec.axes.items() if name in ("0.weight", "4.weight")}
    channels, units = group
    assert channels is not None
    assert units is not None
    state["4.weight"].view(5, 3, 4)[:, 1] = 0  # channel 1 of 3
    state["6.weight"][:, [0, 4]] = 0  # units 0 and 4 of 5
    layout = layout_of(state)
    kept = {channels: torch.tensor([0, 2]), units: torch.tensor([1, 2, 3])}
    narrow, vectors = without_units(layout, layout.flatten(state)[None], spec, kept)
    small = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2)
    )
    small.load_state_dict(narrow.unflatten(torch.from_numpy(vectors[0])), strict=False)
    torch.testing.assert_close(outputs(small.eval(), images), outputs(network, images))


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


def test_components_are_white_on_the_training_networks(data: SignalData) -> None:
    places = pd.Series(split()).to_numpy(str)
    components = principal_components(data.inputs, places, 3)
    assert components.shape == (NETWORKS, 3)
    assert components[places == "train"].std(0) == pytest.approx(1, abs=1e-3)


def test_the_table_averages_over_seeds(tmp_path: Path) -> None:
    rows = [
        {"signals": name, "seed": seed, "split": part, "cpu_seconds": 3.0, **dict.fromkeys(COLUMNS, 0.5 + seed / 10)}
        for name in ("none", "all less views") for seed in (0, 1) for part in SPLITS
    ]  # fmt: skip
    text = signal_table(pd.DataFrame(rows))
    assert text.count("0.550 / 0.550") == 2 * len(COLUMNS)
    assert "| all less views |" in text
    assert "random second half" in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    update_docs(page, text)
    assert page.read_text() == f"before\n{MARKS[0]}\n{text}{MARKS[1]}\nafter\n"
    assert sentence(pd.DataFrame(rows)).endswith("none 0.550, all less views 0.550")
